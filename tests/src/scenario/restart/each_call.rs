//! The service is killed at each system call that it makes, one after the other: while a client does all
//! that one does, and while it takes over what a former life has left.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmashare::{
    Access, Connection, Direction, FenceOptions, FenceStatus, Grant, ImportedFence, Importer,
    Policy, Protection, SharedFence, Timeline,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::scenario::figures::{note, show};
use crate::scenario::local::{Local, pends};
use crate::scenario::strace::{Strace, Whom, killed_at};
use crate::{BOUND, Buffer, Card, Process, Source, World};

/// Every so many calls of a kind, if DMASHARE_EVERY does not say another number: each one.
const EVERY: usize = 1;
/// The same of a start, of which each takes two: the first of a kind, and every tenth.
const EVERY_OF_START: usize = 10;

/// No fence has to end by its deadline meanwhile.
pub(in crate::scenario) const CONFIG: &str =
    "[fence]\ndeadline_ms = 3600000\nmax_deadline_ms = 3600000\n";
/// The main thread and the reactor.
const THREADS: [&str; 2] = ["dmashared", "fences"];

/// A call of the service's: its thread's name, its own, and which one it is.
type Call = (String, String, usize);

/// Calls of a trace, by thread and name, in order of both: every so many of each.
fn calls(trace: &str, every: usize, name_of: impl Fn(i32) -> String) -> Vec<Call> {
    let asked = std::env::var("DMASHARE_EVERY").ok().and_then(|n| n.parse().ok());
    let every = asked.unwrap_or(every);
    let mut counts = BTreeMap::<(String, String), usize>::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let name = rest.split(['(', ' ']).next().unwrap_or_default();
        // The rest of a call that has a line already; signals, ends.
        if rest.starts_with('<') || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let thread = name_of(thread.parse().unwrap_or(0));
        *counts.entry((thread, name.to_owned())).or_default() += 1;
    }
    let each = counts.into_iter().flat_map(|((thread, call), count)| {
        (1..=count).step_by(every).map(move |nth| (thread.clone(), call.clone(), nth))
    });
    each.collect()
}

fn thread_name(process: Process, tid: i32) -> String {
    let path = format!("/proc/{}/task/{tid}/comm", process.0);
    std::fs::read_to_string(path).map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// Killed at each call while a client lives.
pub(in crate::scenario) fn running(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let broker = world.broker()?;
    // What happens once only, on the first use of something, is not of interest.
    life(world, &card)?;
    let trace = Strace::attach(Whom::Process(broker.0), "all", None)?;
    life(world, &card)?;
    let seen = trace.stop()?;
    let mut calls = calls(&seen, EVERY, |tid| thread_name(broker, tid));
    // All else comes and goes.
    calls.retain(|(thread, ..)| THREADS.contains(&thread.as_str()));
    let (mut killed, mut missed) = (0, Vec::new());
    for (name, call, nth) in calls {
        let what = format!("{call} {nth} of {name}");
        let died = killed_once(world, &card, (&name, &call, nth)).context(what.clone())?;
        if died {
            killed += 1;
        } else {
            missed.push(what);
        }
    }
    show(format_args!("killed at {killed} system calls; not met again: {}", missed.len()));
    note("killed at system calls", killed);
    ensure!(killed > missed.len() && killed > 10, "hardly any was met: {missed:?}");
    world.wait_ready()?;
    let device = world.device(&card)?.id;
    world.wait_counts(device, (0, 0, 0))
}

/// Whether it came to that call.
fn killed_once(
    world: &mut World,
    card: &Card,
    (name, call, nth): (&str, &str, usize),
) -> Result<bool> {
    let broker = world.broker()?;
    let tid = broker.thread(name)?;
    let trace = Strace::attach(Whom::Thread(tid), call, Some(&killed_at(call, nth)))?;
    let dead = dmashare_uapi::pidfd::open(broker.0)?;
    let (done, over) = nix::unistd::pipe()?;
    let died = std::thread::scope(|scope| -> Result<bool> {
        let socket = world.socket();
        let living = scope.spawn(move || {
            let _over: OwnedFd = over;
            life_at(&socket, card)
        });
        let mut fds = [dead.as_fd(), done.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        ensure!(poll(&mut fds, PollTimeout::try_from(BOUND)?)? > 0, "a client is stuck");
        let died = fds[0].revents().is_some_and(|it| !it.is_empty());
        if died {
            world.begin_broker(&[])?;
        }
        living.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        Ok(died)
    })?;
    if died {
        drop(trace);
    } else {
        trace.stop()?;
        // It may have come to it just now, and what is killed takes a moment to die.
        broker.at_rest(BOUND)?;
        let mut fds = [PollFd::new(dead.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? > 0 {
            world.begin_broker(&[])?;
            return Ok(true);
        }
    }
    Ok(died)
}

fn life(world: &World, card: &Card) -> Result<()> {
    life_at(&world.socket(), card)
}

/// All that a client does.
fn life_at(socket: &std::path::Path, card: &Card) -> Result<()> {
    let connect = |name: &str| Connection::builder().name(name).connect_to(socket);
    let (exporter, importer) = (connect("exporter")?, connect("importer")?);
    let buffer = Buffer::make(card, 16, 16)?;
    let node = buffer.node.as_fd();
    let export = exporter.export(node, &buffer.layout, &[buffer.dma_buf.as_fd()])?;
    let import = importer.import(exporter.grant(&export, Grant::default())?, Importer::Cpu)?;
    let mut source = Source::endless(true)?;
    let shared = exporter.share_fence(node, source.fd(), FenceOptions::default())?;
    let fence = importer.import_fence(exporter.grant(&shared, Grant::default())?)?;
    pends(&shared, &fence)?;
    let made = exporter.create_timeline(node, Policy::Auto, Direction::Acquire)?;
    let line = importer.import_timeline(exporter.grant(&made, Grant::default())?)?;
    made.promise(2)?;
    let mut of_point = Source::endless(true)?;
    made.submit(1, node, of_point.fd(), None)?;
    source.signal()?;
    let end = fence.wait(Some(BOUND))?;
    ensure!(matches!(end, FenceStatus::Ok { .. }), "its work is done, and it is {end:?}");
    of_point.signal()?;
    line.wait(1, Some(BOUND))?;
    let neutral = exporter.allocate(16, 16, buffer.layout.fourcc)?;
    importer.import(exporter.grant(&neutral, Grant::default())?, Importer::Cpu)?;
    drop((import, export, shared, fence, neutral));
    // All that was let go is gone when this is answered.
    importer.devices()?;
    exporter.devices()?;
    Ok(())
}

/// What is there while the service starts, again and again.
struct Standing {
    local: Local,
    memory: dmashare::MappedBuffer,
    fence: (SharedFence, ImportedFence),
    line: (Timeline, Timeline),
    _of_point: Source,
    _source: Source,
    _frame: Buffer,
}

impl Standing {
    fn new(world: &World) -> Result<Self> {
        let local = Local::new(world)?.with_deadline(Some(Duration::from_secs(3600)));
        let frame = Buffer::make(&local.card, 16, 16)?;
        let (exporter, importer) = (&local.exporter, &local.importer);
        let node = frame.node.as_fd();
        let export = exporter.export(node, &frame.layout, &[frame.dma_buf.as_fd()])?;
        let import = importer.import(exporter.grant(&export, Grant::default())?, Importer::Cpu)?;
        let memory = import.map(0, Protection::Read)?;
        let source = Source::endless(true)?;
        let shared = local.share(source.fd())?;
        let fence = local.import(&shared)?;
        let made = exporter.create_timeline(node, Policy::Auto, Direction::Acquire)?;
        let line = importer.import_timeline(exporter.grant(&made, Grant::default())?)?;
        made.promise(2)?;
        let of_point = Source::endless(true)?;
        made.submit(1, node, of_point.fd(), Some(Duration::from_secs(3600)))?;
        Ok(Self {
            memory,
            fence: (shared, fence),
            line: (made, line),
            _of_point: of_point,
            _source: source,
            _frame: frame,
            local,
        })
    }

    fn is_there(&self) -> Result<()> {
        use dmashare::PointState::{Pending, Promised};
        pends(&self.fence.0, &self.fence.1)?;
        let points = [self.line.1.query(1)?, self.line.0.query(2)?];
        ensure!(points == [Pending, Promised], "the points are {points:?}");
        self.memory.begin(Access::Read)?.end()?;
        self.local.exporter.devices()?;
        Ok(())
    }
}

/// Killed at each call of a start that takes over what there is; then it starts once more.
pub(in crate::scenario) fn starting(world: &mut World) -> Result<()> {
    let standing = Standing::new(world)?;
    standing.is_there()?;
    let trace = tempfile::NamedTempFile::new()?;
    let strace = |more: &[&str], to: &std::path::Path| {
        let words = ["strace", "-D", "-f", "-o", &to.to_string_lossy()].map(str::to_owned);
        let mut words = Vec::from(words);
        words.extend(more.iter().map(|&word| word.to_owned()));
        words
    };
    world.kill_broker_while(|_| Ok(()))?;
    standing.is_there()?;
    // One start, seen.
    world.kill_quietly()?;
    world.begin_broker(&strace(&["-e", "trace=all"], trace.path()))?;
    standing.is_there()?;
    let broker = world.broker()?;
    // The thread that takes over is the first one; the others come to be by it.
    let seen = std::fs::read_to_string(trace.path())?;
    let main = |tid: i32| if tid == broker.0 { "main" } else { "" }.to_owned();
    let mut calls = calls(&seen, EVERY_OF_START, main);
    calls.retain(|(thread, ..)| thread == "main");
    let (mut killed, mut missed) = (0, 0);
    let nowhere = std::path::Path::new("/dev/null");
    for (_, call, nth) in calls {
        let words = killed_at(&call, nth);
        world.kill_quietly()?;
        let trace = format!("trace={call}");
        match world.begin_broker(&strace(&["-e", &trace, "-e", &words], nowhere)) {
            Ok(()) => {
                missed += 1;
                // It may come to it just now.
                world.kill_quietly()?;
            }
            Err(_) => killed += 1,
        }
        world.begin_broker(&[]).with_context(|| format!("after {words}"))?;
        standing.is_there().with_context(|| words)?;
    }
    show(format_args!("killed at {killed} system calls of a start; not met again: {missed}"));
    note("killed at system calls of a start", killed);
    ensure!(killed > missed && killed > 10, "hardly any was met");
    world.wait_ready()?;
    world.wait_counts(standing.local.device, (1, 1, 2))
}
