//! A thousand promised points, two consumers, and an unplug in the middle.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use dmashare::{Cause, Direction, Policy};
use dmashare_proto::report::Step;

use super::{exported, many, status};
use crate::actor::{Task, TimelineTask};
use crate::clock::human;
use crate::scenario::figures::{note, show};
use crate::scenario::pair::long_deadline_ms;
use crate::{BOUND, Backend, Role, Source, User, World};

const POINTS: u64 = 1000;
const WAIT_MS: u64 = 60_000;

/// Some points end well (their sources out of order), some are pending, some only promised. All
/// waiters wake, none before its turn, and learn the cause.
pub(in crate::scenario) fn run(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    let submitted = many(world);
    let half = submitted / 2;
    let deadline_ms = long_deadline_ms(world);
    let producer = world.client("producer", User::Alice)?;
    let looper = world.client("event loop", User::Bob)?;
    let waiter = world.client("library", User::Alice)?;
    let task = |task| Task::Timeline(task);

    let (direction, policy) = (Direction::Acquire, Policy::Auto);
    let create = TimelineTask::Create { card: card.clone(), direction, policy };
    let key = producer.call(task(create))?.key()?;
    let import = |by: &crate::Actor| -> Result<_> {
        let uid = Some(by.process().uid()?);
        let token = producer.call(Task::Grant { key, uid, uses: 1 })?.token()?;
        by.call(task(TimelineTask::Import { token }))?.key()
    };
    let (looped, waited) = (import(&looper)?, import(&waiter)?);
    producer.call(task(TimelineTask::Promise { key, point: POINTS }))?;

    let in_kernel = if world.is_simulated() { 0 } else { POINTS };
    let through = world.card(Role::Stay)?;
    let looping = looper.begin(task(TimelineTask::Loop {
        key: looped,
        points: in_kernel,
        card: through,
        bound_ms: WAIT_MS,
    }))?;
    let waiting = waiter.begin(task(TimelineTask::Wait {
        key: waited,
        points: (1, POINTS),
        bound_ms: WAIT_MS,
    }))?;
    looping.at_it(BOUND)?;
    waiting.at_it(BOUND)?;

    let mut sources = Vec::new();
    for point in 1..=submitted {
        let source = Source::endless(world.is_simulated())?;
        let submit = TimelineTask::Submit { key, point, card: card.clone(), deadline_ms };
        producer.begin_with(task(submit), &[source.fd()])?.wait(BOUND)?;
        sources.push(source);
    }
    // Out of order: the last first.
    for source in sources[..usize::try_from(half)?].iter_mut().rev() {
        source.signal()?;
    }
    let wait = TimelineTask::Wait { key, points: (half, half), bound_ms: WAIT_MS };
    let ends = producer.call(task(wait))?.points()?;
    ensure!(ends[0].errno == 0, "point {half}: {:?}", ends[0]);
    world.wait_counts_of(device, |counts| {
        (counts.timelines, u64::from(counts.fences)) == (1, submitted - half)
    })?;

    // What other processes have made of the points by now.
    let watcher = world.connect("watcher")?;
    let uid = Some(nix::unistd::getuid().as_raw());
    let token = producer.call(Task::Grant { key, uid, uses: 1 })?.token()?;
    let timeline = watcher.import_timeline(token.parse().context("a token")?)?;
    let pending = [half + 1, submitted - 1, submitted];
    let guarded = matches!(world.backend(), Backend::SwSync | Backend::Vgem);
    let before: Vec<OwnedFd> = if guarded {
        pending.iter().map(|&point| exported(world, &timeline, point)).collect::<Result<_>>()?
    } else {
        Vec::new()
    };

    world.unplug(crate::Unplug::Remove)?;

    let ends = waiting.wait(BOUND)?.points()?;
    let [well, badly] = ends[..] else { anyhow::bail!("{half} were to end well: {ends:?}") };
    ensure!((well.point, well.errno) == (half, 0), "{half} were to end well: {ends:?}");
    ensure!(badly.point == POINTS && badly.failed_by(Cause::Unplugged), "{ends:?}");
    let seen = looping.wait(BOUND)?.looped()?;
    ensure!(seen.lost, "the event loop was not told of the loss");
    ensure!(seen.early.is_none(), "a point woke before its turn: {seen:?}");
    ensure!(seen.woke == in_kernel, "of {in_kernel} points these woke: {seen:?}");

    if guarded {
        kernels_table(world, &timeline, &before, submitted)?;
    }
    world.wait_gone(device)?;
    let report = world.report_with(device, Step::ParentRemoved)?;
    let guards = if world.backend() == Backend::None { 0 } else { submitted - half };
    ensure!(u64::from(report.guards) == guards, "{report:?}");
    ensure!(report.promises == 1, "{report:?}");
    let uevent_ns = report.at(Step::Uevent).context("no uevent in the report")?;
    let signalled = report.micros(Step::GuardsSignalled).unwrap_or(0) * 1000;
    let known = badly.at_ns.saturating_sub(uevent_ns);
    show(format_args!(
        "uevent to {} points ended: {}; to the last of {POINTS} waits of one thread: {}",
        submitted - half + 1,
        human(signalled),
        human(known)
    ));
    note("uevent to all points ended, ns", signalled);
    note("uevent to the last wait of the library, ns", known);
    Ok(())
}

/// Where the error is seen: on what was made of the points before, and of the last point alone after
/// (Linux 6.12; a kernel that shows more may do so).
fn kernels_table(
    world: &World,
    timeline: &dmashare::Timeline,
    before: &[OwnedFd],
    submitted: u64,
) -> Result<()> {
    let shows = world.backend() == Backend::SwSync;
    for sync_file in before {
        let status = status(sync_file)?;
        ensure!(
            status == if shows { -libc::ENOENT } else { 1 },
            "a sync_file that was exported before the unplug reads {status}"
        );
    }
    let last = status(&exported(world, timeline, POINTS)?)?;
    ensure!(last == if shows { -libc::ENOENT } else { 1 }, "the last point reads {last} after it");
    let other = status(&exported(world, timeline, submitted - 1)?)?;
    show(format_args!("exported after the unplug: last point {last}, another {other}"));
    ensure!(other == 1 || (shows && other == -libc::ENOENT), "another point reads {other}");
    Ok(())
}
