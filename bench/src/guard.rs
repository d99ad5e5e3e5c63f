//! From the end of a source to the wake of who waits for its guard, beside a bare loop that polls sources and
//! signals guards: the least that anybody in the middle can do.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dmashare::{FenceOptions, Grant, ImportedFence, SharedFence};
use dmashare_tests::{Source, World};
use dmashare_uapi::sim;
use dmashare_uapi::sync_file::{self, Status};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::report::{Finding, Goal, Section};
use crate::turns::{Timed, take_timed};

const BOUND: Option<Duration> = Some(Duration::from_secs(60));
const AN_HOUR: Duration = Duration::from_secs(3600);
/// One client has as many as are asked for.
pub const CONFIG: &str = "\
    [fence]\nmax_deadline_ms = 3600000\n\
    [limits]\nobjects_per_client = 30000\nobjects_per_uid = 60000\npending_fences_per_uid = 30000\n";

/// What the loop is told: a source to watch, and the guard that ends with it.
type Watch = (OwnedFd, Source);

/// The bare loop, in a thread of its own.
struct Loop {
    watch: Sender<Watch>,
    woken: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Says that a source is watched.
    watched: Receiver<()>,
}

impl Loop {
    /// With `asks`, it asks each source how it has ended.
    fn start(asks: bool) -> Result<Self> {
        let woken = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let stop = Arc::new(AtomicBool::new(false));
        let ((watch, new), (say, watched)) = (channel(), channel());
        let (its_end, its_stop) = (Arc::clone(&woken), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            turn(asks, (&its_end, &its_stop), &new, &say).expect("the bare loop");
        });
        Ok(Self { watch, woken, stop, thread: Some(thread), watched })
    }

    fn watch(&self, source: OwnedFd, guard: Source) {
        self.watch.send((source, guard)).expect("the loop");
        self.woken.write(1).expect("an eventfd");
        self.watched.recv().expect("the loop");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.woken.write(1);
        debug_assert!(written.is_ok(), "an eventfd of our own: {written:?}");
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            debug_assert!(ended.is_ok(), "the bare loop panicked");
        }
    }
}

fn turn(
    asks: bool,
    (woken, stop): (&EventFd, &AtomicBool),
    new: &Receiver<Watch>,
    say: &Sender<()>,
) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(woken, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut all: Vec<Option<Watch>> = vec![None];
    let mut free = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    while !stop.load(Ordering::Relaxed) {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            if event.data() == 0 {
                woken.read()?;
                for watch in new.try_iter() {
                    let place = free.pop().unwrap_or_else(|| {
                        all.push(None);
                        all.len() - 1
                    });
                    epoll.add(&watch.0, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
                    all[place] = Some(watch);
                    say.send(())?;
                }
                continue;
            }
            let place = usize::try_from(event.data())?;
            let (source, mut guard) = all[place].take().context("it was watched")?;
            if asks {
                guard_ends_as(&source)?;
            }
            guard.signal()?;
            epoll.delete(&source)?;
            free.push(place);
        }
    }
    Ok(())
}

/// What a guard that says how its source has ended must know of it.
fn guard_ends_as(source: &OwnedFd) -> Result<Status> {
    match sync_file::status(source.as_fd()) {
        Ok(status) => Ok(status),
        // A simulated one.
        Err(_) => Ok(sim::status(source.as_fd())?),
    }
}

/// A fence of the broker's, at both ends.
type Both = (SharedFence, ImportedFence);

/// Measures it with so many others pending on all sides.
pub fn measure(world: &World, rounds: usize, others: usize) -> Result<Section> {
    dmashare_tests::hostile::new_files_limit()?;
    let simulated = world.is_simulated();
    let (exporter, importer) = (world.connect("exporter")?, world.connect("importer")?);
    let node = world.egpu()?.open_render()?;
    let options = FenceOptions { deadline: Some(AN_HOUR), ..FenceOptions::default() };
    let share = |source: &Source| -> Result<Both> {
        let (node, grant) = (node.as_fd(), Grant::default());
        let (shared, token) = exporter.share_fence_granted(node, source.fd(), options, grant)?;
        Ok((shared, importer.import_fence(token)?))
    };
    let (bare, asking) = (Loop::start(false)?, Loop::start(true)?);
    let mut kept = Vec::new();
    for _ in 0..others {
        let source = Source::endless(simulated)?;
        for each in [&bare, &asking] {
            each.watch(source.fd().try_clone_to_owned()?, Source::endless(simulated)?);
        }
        kept.push((share(&source)?, source));
    }
    let by = |each: &Loop| {
        let mut source = Source::endless(simulated).expect("a source");
        let guard = Source::endless(simulated).expect("a guard");
        let waited = guard.fd().try_clone_to_owned().expect("a descriptor");
        each.watch(source.fd().try_clone_to_owned().expect("a descriptor"), guard);
        // As below: the loop has slept as long, and so has its processor.
        importer.devices().expect("the broker");
        ended(&mut source, waited.as_fd())
    };
    let by_broker = || {
        let mut source = Source::endless(simulated).expect("a source");
        let (_shared, fence) = share(&source).expect("a fence");
        // The reactor has it when this is answered.
        importer.devices().expect("the broker");
        ended(&mut source, fence.fd().expect("a pending fence has a guard"))
    };
    let what = match others {
        0 => "a guard, from its source's end to the importer's wake".to_owned(),
        others => format!("a guard beside {others} others that are pending"),
    };
    let all = vec![
        Timed { name: "a bare loop (epoll, signal)", run: Box::new(|| by(&bare)) },
        Timed { name: "one that asks how a source has ended", run: Box::new(|| by(&asking)) },
        Timed { name: "dmashared's reactor", run: Box::new(by_broker) },
    ];
    let times = take_timed(format!("A fence: {what}"), rounds, all);
    drop(kept);
    let beside = "a bare poll-and-signal loop";
    let p99 = format!("{what}, 99th percentile");
    let findings = vec![
        Finding::times(&what, beside, times.ratio(2, 0), Goal::AtMost(1.3)),
        Finding::times(&p99, beside, times.p99_ratio(2, 0), Goal::AtMost(2.0)),
    ];
    let mut section = Section { tables: vec![times.table()], findings, ..Section::default() };
    section.plots.push(times.plot(&format!("guard-{others}.svg")));
    if simulated {
        section.notes.push(
            "A simulated fence's state is read from /proc: that is what the difference between the loops is."
                .to_owned(),
        );
    }
    Ok(section)
}

fn ended(source: &mut Source, guard: std::os::fd::BorrowedFd<'_>) -> f64 {
    let start = Instant::now();
    source.signal().expect("a source of ours");
    let ended = sync_file::wait(guard, BOUND).expect("a wait");
    let took = start.elapsed().as_nanos() as f64;
    assert!(ended, "the guard did not end");
    took
}
