//! In what order, and by whom, points end.

use anyhow::{Context, Result, ensure};
use dmashare::{Cause, Direction, PointState, Policy};
use dmashare_uapi::sync_file::Status;
use dmashare_uapi::syncobj::WaitFor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, read};

use super::{
    A_WHILE, Line, end, exported, failed, hangs_up, has_hung_up, in_kernel, is_ok, state, status,
};
use crate::actor::{Task, TimelineTask};
use crate::scenario::masked::Masked;
use crate::{BOUND, Backend, Process, Source, User, World};

/// Sources end out of order: points do not. With guards, a point that is pending is in the kernel
/// for a GPU to wait for; without, it is not before it ends.
pub(in crate::scenario) fn in_order(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Acquire)?;
    ensure!(line.made.guard().name() == world.backend().name(), "{:?}", line.made);
    let kernel = in_kernel(world, &line.imported)?;
    line.made.promise(4)?;
    state(&line.imported, 4, PointState::Promised)?;
    state(&line.imported, 5, PointState::Unknown)?;
    if let Some(kernel) = &kernel {
        ensure!(kernel.query_last_submitted()? == 0, "a promise made something in the kernel");
    }
    let mut sources = Vec::new();
    for point in 1..=3 {
        let source = Source::endless(world.is_simulated())?;
        line.submit(point, &source)?;
        sources.push(source);
    }
    if let Some(kernel) = &kernel {
        let in_place = if world.backend() == Backend::None { 0 } else { 3 };
        ensure!(
            kernel.query_last_submitted()? == in_place,
            "what is in place after the submission"
        );
    }
    sources[2].signal()?;
    sources[1].fail()?;
    // The broker has seen both when it answers.
    state(&line.imported, 3, PointState::Pending)?;
    if let Some(kernel) = &kernel {
        ensure!(kernel.query()? == 0, "a point was signalled before its turn");
        ensure!(!kernel.wait(2, WaitFor::Signalled, Some(A_WHILE))?, "2 came before 1");
    }
    sources[0].signal()?;
    is_ok(end(&line.imported, 1)?)?;
    let second = end(&line.imported, 2)?;
    if !world.is_simulated() {
        failed(second, Cause::Exporter(libc::ENOENT))?;
    } else {
        failed(second, Cause::Exporter(libc::EIO))?;
    }
    is_ok(end(&line.imported, 3)?)?;
    if let Some(kernel) = &kernel {
        ensure!(kernel.wait(3, WaitFor::Signalled, Some(BOUND))?, "3 is over, not in the kernel");
        ensure!(kernel.query()? == 3);
    }
    state(&line.made, 4, PointState::Promised)?;
    line.made.submit_done(4)?;
    is_ok(end(&line.imported, 4)?)?;
    world.wait_counts_of(line.made.device().id(), |counts| counts.fences == 0)
}

/// A thread is blocked in DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT itself, for a point that has a source, and
/// one for a point that is only promised.
pub(in crate::scenario) fn blocked_in_the_kernel(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Acquire)?;
    let source = Source::endless(false)?;
    line.made.promise(2)?;
    line.submit(1, &source)?;
    let (told, threads) = std::sync::mpsc::channel();
    let waiters = [1, 2].map(|point| {
        let kernel = in_kernel(world, &line.imported);
        let told = told.clone();
        std::thread::spawn(move || -> Result<bool> {
            let kernel = kernel?.context("no syncobj")?;
            told.send(nix::unistd::gettid().as_raw())?;
            kernel.wait(point, WaitFor::Signalled, Some(BOUND)).context("the wait")
        })
    });
    for thread in threads.iter().take(2) {
        Process::own().thread_sleeps(thread)?;
    }
    world.unplug(crate::Unplug::Remove)?;
    for (point, waiter) in (1..).zip(waiters) {
        let woke = waiter.join().map_err(|_| anyhow::anyhow!("a waiter panicked"))??;
        ensure!(woke, "point {point}: the wait in the kernel ended by its time only");
        failed(end(&line.imported, point)?, Cause::Unplugged)?;
    }
    // Nobody has promised it; of a lost timeline it never comes.
    failed(end(&line.imported, 7)?, Cause::Unplugged)?;
    hangs_up(&line.imported)?;
    Ok(())
}

/// A producer dies: what it promised fails at once, what it submitted runs on.
pub(in crate::scenario) fn maker_dies(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let producer = world.client("producer", User::Alice)?;
    let (direction, policy) = (Direction::Acquire, Policy::Auto);
    let create = TimelineTask::Create { card: card.clone(), direction, policy };
    let key = producer.call(Task::Timeline(create))?.key()?;
    let uid = Some(nix::unistd::getuid().as_raw());
    let token = producer.call(Task::Grant { key, uid, uses: 1 })?.token()?;
    let consumer = world.connect("consumer")?;
    let timeline = consumer.import_timeline(token.parse().context("a token")?)?;
    producer.call(Task::Timeline(TimelineTask::Promise { key, point: 5 }))?;
    let mut source = Source::endless(world.is_simulated())?;
    let submit = TimelineTask::Submit { key, point: 1, card, deadline_ms: 0 };
    producer.begin_with(Task::Timeline(submit), &[source.fd()])?.wait(BOUND)?;
    let before = match world.backend() {
        Backend::SwSync | Backend::Vgem => Some(exported(world, &timeline, 1)?),
        Backend::Simulated | Backend::None => None,
    };

    let cause = Cause::Exporter(libc::EOWNERDEAD);
    std::thread::scope(|scope| -> Result<()> {
        let waiter = scope.spawn(|| end(&timeline, 5));
        producer.kill()?;
        let ended = waiter.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))??;
        failed(ended, cause)
    })?;
    state(&timeline, 1, PointState::Pending)?;
    source.signal()?;
    is_ok(end(&timeline, 1)?)?;
    failed(end(&timeline, 2)?, cause)?;
    if let Some(kernel) = in_kernel(world, &timeline)? {
        ensure!(kernel.wait(5, WaitFor::Signalled, Some(BOUND))?, "5 never came in the kernel");
    }
    if let Some(before) = before {
        ensure!(status(&before)? == 1, "the point that ran on shows an error");
    }
    ensure!(!has_hung_up(&timeline)?, "the device is there");
    Ok(())
}

/// The broker ends: whoever waits is released.
pub(in crate::scenario) fn broker_stops(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Acquire)?;
    let source = Source::endless(world.is_simulated())?;
    line.made.promise(2)?;
    line.submit(1, &source)?;
    let kernel = in_kernel(world, &line.imported)?;
    world.stop_broker()?;
    hangs_up(&line.imported)?;
    if let Some(kernel) = kernel {
        let woke = kernel.wait(2, WaitFor::Signalled, Some(BOUND))?;
        ensure!(woke, "a promise outlived the broker");
    }
    ensure!(end(&line.imported, 2).is_err(), "there is nobody to answer");
    Ok(())
}

/// The broker is killed, and does not come back by itself: what has a guard ends with it, a promise
/// never comes in the kernel, and the pipe says that nobody is left.
pub(in crate::scenario) fn broker_killed(world: &mut World) -> Result<()> {
    let masked = Masked::begin("dmashared.service")?;
    let line = Line::new(world, Direction::Acquire)?;
    let source = Source::endless(false)?;
    line.made.promise(2)?;
    line.submit(1, &source)?;
    let kernel = in_kernel(world, &line.imported)?.context("no syncobj")?;
    let has_guard = world.backend() != Backend::None;
    let guard = has_guard.then(|| exported(world, &line.imported, 1)).transpose()?;
    kill(Pid::from_raw(world.broker()?.0), Signal::SIGKILL)?;
    hangs_up(&line.imported)?;
    let mut byte = [0];
    ensure!(read(line.imported.lost_fd(), &mut byte)? == 0, "the pipe tells of a loss");
    if let Some(guard) = &guard {
        let shown = if world.backend() == Backend::Vgem { 1 } else { -libc::ENOENT };
        let status = status(guard)?;
        ensure!(status == shown, "the guard at the point shows {status}");
        ensure!(kernel.wait(1, WaitFor::Signalled, Some(BOUND))?, "the point has not ended");
    } else {
        let woke = kernel.wait(1, WaitFor::Signalled, Some(A_WHILE))?;
        ensure!(!woke, "a point without a guard has ended");
    }
    let woke = kernel.wait(2, WaitFor::Signalled, Some(A_WHILE))?;
    ensure!(!woke, "a promise was signalled by nobody");
    for point in [1, 2] {
        let error = line.imported.query(point).err().context("a dead broker answers")?;
        ensure!(error.is_disconnected(), "point {point} is told as {error:?}");
    }
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    masked.end()?;
    world.restart_broker()
}
