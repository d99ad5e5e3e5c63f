//! Ten thousand pending guards and one unplug: each ends, once, and is counted as one, here and at
//! the broker; and nothing of them is left.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use dmashare::{Cause, FenceStatus, ImportedFence, SharedFence};
use dmashare_proto::report::Step;
use dmashare_uapi::sim::{self, SimFence};
use dmashare_uapi::sw_sync::Timeline;
use dmashare_uapi::sync_file::{self, Status};

use super::local::{Local, raw, shown, told};
use crate::clock::{human, now_ns};
use crate::hostile::new_files_limit;
use crate::process::eventually;
use crate::scenario::figures::{note, show};
use crate::{BOUND, Backend, Process, Unplug, World};

/// A client has two objects of each: a fence that it shared, and one that it imported.
pub(super) const CONFIG: &str = "\
    [fence]\nmax_deadline_ms = 3600000\n\
    [limits]\nobjects_per_client = 20000\npending_fences_per_uid = 20000\n";

const MANY: usize = 10_000;
/// Of eventfds, which are to fit into any user's limit of descriptors, the broker's three of each
/// among them.
const SIMULATED: usize = 1_000;
/// A guard of vgem's cannot be kept for longer than 10 s, and in the virtual machine each of the
/// three calls to make one takes a millisecond. So as many are made as can be in half of that time;
/// the counts are exact for that number.
const VGEM_BUDGET: Duration = Duration::from_secs(5);
/// Threads that share and import: one waits for the broker while another prepares.
const THREADS: usize = 3;

/// How many guards a machine can have of fences that were made for it.
pub(super) fn most_guards(world: &World) -> usize {
    if world.is_simulated() { SIMULATED } else { MANY }
}

/// Pending fences, each of its own.
pub(super) struct Sources {
    fences: Vec<OwnedFd>,
    /// Dropped, it ends them.
    _timeline: Option<Timeline>,
}

impl Sources {
    pub(super) fn make(simulated: bool, count: usize) -> Result<Self> {
        if simulated {
            let fences = (0..count).map(|_| SimFence::new()).collect::<Result<_, _>>()?;
            return Ok(Self { fences, _timeline: None });
        }
        let timeline = Timeline::open().context("sw_sync, for source fences")?;
        let fences = (1..=u32::try_from(count)?)
            .map(|value| timeline.create_fence(value, c"dmashare-test"))
            .collect::<Result<_, _>>()?;
        Ok(Self { fences, _timeline: Some(timeline) })
    }

    pub(super) fn are_pending(&self, simulated: bool) -> Result<bool> {
        for fence in &self.fences {
            let fence = fence.as_fd();
            let status = if simulated { sim::status(fence)? } else { sync_file::status(fence)? };
            if status != Status::Pending {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A fence at both ends.
pub(super) type Both = (SharedFence, ImportedFence);

pub(super) fn run(world: &mut World) -> Result<()> {
    new_files_limit()?;
    let (count, deadline, budget) = match world.backend() {
        Backend::Simulated => (SIMULATED, Some(Duration::from_secs(3600)), Duration::MAX),
        Backend::Vgem => (MANY, None, VGEM_BUDGET),
        _ => (MANY, Some(Duration::from_secs(3600)), Duration::MAX),
    };
    let local = Local::new(world)?.with_deadline(deadline);
    let sources = Sources::make(world.is_simulated(), count)?;
    let broker = world.broker()?;
    let before = kept(broker)?;

    let begin = Instant::now();
    let fences = make(&local, &sources, budget)?;
    let took = begin.elapsed();
    let made = fences.len();
    ensure!(made > 100, "only {made} guards in {took:?}: that is not many");
    let held = broker.descriptors()?.len();
    world.unplug(Unplug::Remove)?;

    // This side: each guard by itself, in the kernel.
    for (_, fence) in &fences {
        ensure!(sync_file::wait(fence.fd().context("no guard")?, Some(BOUND))?, "{fence:?} pends");
    }
    let awake_ns = now_ns();
    ensure!(sources.are_pending(world.is_simulated())?, "a source ended; this shows nothing");
    let expected = shown(world, libc::ENODEV);
    for (_, fence) in &fences {
        let raw = raw(fence)?;
        ensure!(raw == expected, "the guard of {fence:?} ended as {raw:?}, not {expected:?}");
    }
    // By the broker's word: each has one end, as its exporter and its importer are told.
    let asked = Instant::now();
    let mut ends = HashSet::new();
    for (shared, fence) in &fences {
        for end in [shared.query()?, fence.status()?] {
            let FenceStatus::Failed(error) = end else { anyhow::bail!("{fence:?} is {end:?}") };
            ensure!(error.cause == Some(Cause::Unplugged), "{fence:?} ended by {error:?}");
            ends.insert(error.at);
        }
    }
    let asked = asked.elapsed();
    ensure!(ends.len() == 1, "one sweep ended them, at {} times", ends.len());
    // The broker's side.
    for connection in [&local.exporter, &local.importer] {
        let lost = told(connection, local.device)?;
        ensure!(lost.fences() as usize == made, "{made} were to be told of, not {}", lost.fences());
    }
    world.wait_gone(local.device)?;
    let report = world.report_with(local.device, Step::Gone)?;
    ensure!(report.guards as usize == made, "{made} guards were made, the report: {report:?}");
    ensure!(report.passed == 0 && report.overdue.is_empty(), "{report:?}");

    drop((fences, sources));
    eventually(&format!("the broker has {before} descriptors again"), BOUND, || {
        Ok(kept(broker)? == before)
    })?;
    ensure!(world.broker()? == broker, "the broker was started anew in between");
    tell(&report, made, took, asked, held, awake_ns)
}

fn tell(
    report: &dmashare_proto::report::UnplugReport,
    made: usize,
    took: Duration,
    asked: Duration,
    held: usize,
    awake_ns: u64,
) -> Result<()> {
    let uevent_ns = report.at(Step::Uevent).context("no uevent in the report")?;
    let awake = awake_ns.saturating_sub(uevent_ns);
    let each = |time: Duration, calls: usize| time.as_nanos() as u64 / (calls as u64).max(1);
    show(format_args!(
        "{made} guards ({held} descriptors at the broker); a call to make one: {}, to ask for one: {}",
        human(each(took, made * 3)),
        human(each(asked, made * 2))
    ));
    note("guards", made);
    note("guards: a call to make one, ns", each(took, made * 3));
    for step in [Step::GuardsSignalled, Step::ClientsTold, Step::FdsDropped, Step::Gone] {
        let at_ns = report.at(step).with_context(|| format!("no {}", step.name()))?;
        let ns = at_ns.saturating_sub(uevent_ns);
        show(format_args!("{:>18}: {}", step.name(), human(ns)));
        note(&format!("{}, ns", step.name()), ns);
    }
    show(format_args!("uevent to all waiters awake: {}", human(awake)));
    note("uevent to all waiters awake, ns", awake);
    Ok(())
}

/// Shares sources and imports their guards until all are, or the time is up.
pub(super) fn make(local: &Local, sources: &Sources, budget: Duration) -> Result<Vec<Both>> {
    let (begin, next) = (Instant::now(), AtomicUsize::new(0));
    let work = || {
        let mut made = Vec::new();
        while begin.elapsed() < budget {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = sources.fences.get(at) else { break };
            let shared = local.share(source.as_fd())?;
            let imported = local.import(&shared)?;
            made.push((shared, imported));
        }
        anyhow::Ok(made)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(all)
    })
}

/// The broker's descriptors, without the buffers that vgem's guards keep for the next ones.
fn kept(broker: Process) -> Result<usize> {
    Ok(broker.descriptors()?.len() - broker.vgem_dma_bufs()?)
}
