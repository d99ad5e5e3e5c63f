//! The broker is killed with guards pending, and does not come back by itself: the kernel releases
//! everybody who waits. Then it is started again.
//!
//! Not on simulated devices: the kernel ends no eventfd.

use std::os::fd::AsFd;

use anyhow::{Context, Result, anyhow, ensure};
use dmashare::{FenceStatus, ImportedFence};
use dmashare_uapi::pidfd;
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::vgem::FENCE_LIFETIME;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::local::{Local, ends_well, fd, raw};
use super::masked::Masked;
use super::pair::{Pair, WAIT_MS, long_deadline_ms};
use crate::actor::Task;
use crate::clock::{human, now_ns};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Backend, Source, World};

const GUARDS: usize = 64;
const BROKER: &str = "dmashared.service";

pub(super) fn run(world: &mut World) -> Result<()> {
    let masked = Masked::begin(BROKER)?;
    let instance = all_released(world)?;
    masked.end()?;

    world.restart_broker()?;
    let pair = Pair::new(world)?;
    let buffer = pair.share_buffer(world, 16, 16)?;
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 3 })?;
    let seen = pair.importer.call(Task::Count { key: buffer.imported, byte: 3 })?.count()?;
    ensure!(seen >= 16 * 16 * 4, "sharing does not work: {seen} bytes");
    let local = Local::new(world)?;
    ensure!(local.importer.instance() != instance, "it is the instance that was killed");
    let mut source = Source::endless(false)?;
    let fence = local.guard(source.fd())?;
    source.signal()?;
    ends_well(&fence)
}

/// Gives the instance that was killed.
fn all_released(world: &World) -> Result<[u8; 16]> {
    let (pair, local) = (Pair::new(world)?, Local::new(world)?);
    let broker = world.broker()?;
    let pidfd = pidfd::open(broker.0)?;
    let mut sources = Vec::new();
    let mut fences = Vec::new();
    let made_ns = now_ns();
    for _ in 0..GUARDS {
        let source = Source::endless(false)?;
        fences.push(local.guard(source.fd())?);
        sources.push(source);
    }
    let source = Source::endless(false)?;
    let shared = pair.share_fence(&source, long_deadline_ms(world))?;
    let waiting = pair.importer.begin(Task::Wait { key: shared.imported, bound_ms: WAIT_MS })?;
    waiting.at_it(BOUND)?;

    let killed_ns = std::thread::scope(|scope| {
        let wait =
            |fence| move || Ok::<_, anyhow::Error>(sync_file::wait(fd(fence)?, Some(BOUND))?);
        let threads: Vec<_> = fences.iter().map(|fence| scope.spawn(wait(fence))).collect();
        for fence in &fences {
            ensure!(raw(fence)? == Status::Pending, "{fence:?} ended before the broker was killed");
        }
        let killed_ns = now_ns();
        kill(Pid::from_raw(broker.0), Signal::SIGKILL)?;
        for thread in threads {
            let woke = thread.join().map_err(|_| anyhow!("a waiter panicked"))??;
            ensure!(woke, "the broker is dead, and a waiter was not released");
        }
        anyhow::Ok(killed_ns)
    })?;
    let awake_ns = now_ns();
    ensure!(sync_file::wait(pidfd.as_fd(), Some(BOUND))?, "the broker does not die");

    let mut last_ns = 0;
    for fence in &fences {
        let at_ns = released(world, fence)?;
        ensure!(at_ns >= killed_ns, "{fence:?} ended before the broker was killed");
        last_ns = last_ns.max(at_ns);
    }
    ensure!(
        last_ns < made_ns + u64::try_from(FENCE_LIFETIME.as_nanos())?,
        "it took so long that vgem's own end may have released them; this shows nothing"
    );
    // In another process, that asks the library.
    match world.backend() {
        Backend::SwSync => {
            let end = waiting.wait(BOUND)?.fence()?;
            ensure!(
                end.errno == Some(libc::ENOENT) && end.cause.is_none(),
                "the importer was told {end:?}"
            );
            ensure!(end.raw == Some(-libc::ENOENT), "the importer saw {end:?}");
        }
        _ => {
            let refusal = waiting.refused(BOUND)?;
            ensure!(refusal.errno == libc::ECONNRESET, "the importer was told {refusal:?}");
        }
    }
    for source in &sources {
        ensure!(source.status()? == Status::Pending, "a source ended; this shows nothing");
    }
    for connection in [&local.exporter, &local.importer] {
        let error = connection.devices().err().context("a dead broker answers")?;
        ensure!(error.is_disconnected() && connection.is_closed(), "it was told {error:?}");
    }
    ensure!(world.broker().is_err(), "it was started again");
    let (last, awake) = (last_ns.saturating_sub(killed_ns), awake_ns.saturating_sub(killed_ns));
    show(format_args!(
        "{GUARDS} guards; killed to the last one ended: {}, to all waiters awake: {}",
        human(last),
        human(awake)
    ));
    note("killed to the last guard ended, ns", last);
    note("killed to all waiters awake, ns", awake);
    Ok(local.importer.instance())
}

/// What is seen of a guard that nobody is left to end; gives when the kernel did.
fn released(world: &World, fence: &ImportedFence) -> Result<u64> {
    let info = sync_file::info(fd(fence)?)?;
    match world.backend() {
        // The kernel shows that it failed, and the library says so, without a cause.
        Backend::SwSync => {
            ensure!(info.status == Status::Error(libc::ENOENT), "the guard: {info:?}");
            let end = fence.status()?;
            let FenceStatus::Failed(error) = end else { anyhow::bail!("it is told as {end:?}") };
            ensure!(error.errno() == libc::ENOENT && error.cause.is_none(), "told as {error:?}");
            ensure!(!error.is_device_lost(), "told as a loss: {error:?}");
        }
        // The kernel shows nothing: the library says that it does not know, and never *done*.
        _ => {
            ensure!(info.status == Status::Signalled, "the guard: {info:?}");
            let error = fence.status().err().context("it is told how the fence ended")?;
            ensure!(error.is_disconnected(), "told as {error:?}");
        }
    }
    info.fences.iter().map(|fence| fence.timestamp_ns).max().context("a sync_file of no fence")
}
