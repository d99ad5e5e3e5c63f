//! The service is killed, or upgraded, and goes on with what it had: nobody has lost anything, nothing has
//! ended by it, and nobody's call has failed.

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use dmashare::{
    Access, Cause, Connection, FenceStatus, Grant, ImportedFence, Importer, Protection, Token,
};
use drm_fourcc::DrmFourcc;

use super::local::{Local, ends_by, ends_well, pends, told};
use crate::clock::{human, now_ns};
use crate::process::named;
use crate::scenario::figures::{note, show};
use crate::{BOUND, Backend, Buffer, Source, Unplug, World};

pub(super) mod each_call;
pub(super) mod meanwhile;
pub(super) mod slow_reader;
pub(super) mod watchdog;

/// Clients under load, two each, if DMASHARE_PAIRS does not say another number.
const PAIRS: usize = 6;
/// What each pair has of buffers and pending fences all the time, if DMASHARE_KEPT does not.
const KEPT: usize = 8;
/// Kills in a run, if DMASHARE_KILLS does not.
const KILLS: u64 = 12;
/// No fence may have to wait for its deadline, however slow the machine is.
pub(super) const CONFIG: &str = "[fence]\nmax_deadline_ms = 3600000\n";

fn asked<T: std::str::FromStr>(variable: &str, else_: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(else_)
}

/// Killed in a quiet moment, with something of everything there.
pub(super) fn killed(world: &mut World) -> Result<()> {
    goes_on(world, World::kill_broker)
}

/// Stopped and started, as a package is upgraded.
pub(super) fn upgraded(world: &mut World) -> Result<()> {
    goes_on(world, World::upgrade_broker)
}

/// Something of everything is there, and goes on over what `restart` does.
pub(super) fn goes_on(world: &mut World, restart: impl Fn(&mut World) -> Result<()>) -> Result<()> {
    let local = Local::new(world)?;
    let (exporter, importer) = (&local.exporter, &local.importer);
    let frame = Buffer::make(&local.card, 64, 64)?;
    frame.fill(0x77)?;
    let planes = [frame.dma_buf.as_fd()];
    let exported = exporter.export(frame.node.as_fd(), &frame.layout, &planes)?;
    let import = importer.import(exporter.grant(&exported, Grant::default())?, Importer::Cpu)?;
    let memory = import.map(0, Protection::Read)?;
    let unused = exporter.grant(&exported, Grant::default())?;
    let neutral = exporter.allocate(64, 64, DrmFourcc::Xrgb8888 as u32)?;
    let neutral_token = exporter.grant(&neutral, Grant::default())?;
    let endless = || Source::endless(world.is_simulated());
    let (mut ends, lasts, mut ends_meanwhile) = (endless()?, endless()?, endless()?);
    let shared = [&ends, &lasts, &ends_meanwhile].map(|source| local.share(source.fd()));
    let [ends_shared, lasts_shared, meanwhile_shared] = shared;
    let (ends_shared, lasts_shared, meanwhile_shared) =
        (ends_shared?, lasts_shared?, meanwhile_shared?);
    let ends_fence = local.import(&ends_shared)?;
    let lasts_fence = local.import(&lasts_shared)?;
    let meanwhile_fence = local.import(&meanwhile_shared)?;
    let instance = importer.instance();
    world.wait_counts(local.device, (1, 1, 3))?;

    let before_ns = now_ns();
    ends_meanwhile.signal()?;
    restart(world)?;
    pends(&lasts_shared, &lasts_fence)?;
    let first_ns = now_ns() - before_ns;
    show(format_args!("to the first answer: {}", human(first_ns)));
    note("restart to the first answer, ns", first_ns);
    ends_well(&meanwhile_fence)?;
    pends(&ends_shared, &ends_fence)?;
    ensure!(importer.instance() == instance, "another instance");
    world.wait_ready()?;
    world.wait_counts(local.device, (1, 1, 2))?;

    // What was there is used on.
    let reading = memory.begin(Access::Read)?;
    let mut bytes = vec![0; memory.len()];
    memory.copy_to_slice(0, &mut bytes)?;
    reading.end()?;
    ensure!(bytes.iter().filter(|byte| **byte == 0x77).count() >= 64 * 64 * 4, "other contents");
    let again = importer.import(unused, Importer::Cpu)?;
    let neutral_import = importer.import(neutral_token, Importer::Cpu)?;
    ensure!(importer.import(unused, Importer::Cpu).is_err(), "a token is used twice");
    world.wait_counts(local.device, (1, 2, 2))?;
    ends.signal()?;
    ends_well(&ends_fence)?;
    drop((again, neutral_import, neutral));
    world.wait_counts(local.device, (1, 1, 1))?;

    // It is watched as before: what is left ends with the device, and once.
    world.unplug(Unplug::Remove)?;
    ends_by(world, &lasts_fence, Cause::Unplugged)?;
    ensure!(memory.begin(Access::Read).is_err(), "a buffer of a device that is gone");
    let lost = told(importer, local.device)?;
    lost.acknowledge()?;
    drop((memory, import, exported, ends_shared, lasts_shared, meanwhile_shared));
    drop((ends_fence, lasts_fence, meanwhile_fence));
    drop((ends, lasts, ends_meanwhile));
    world.wait_gone(local.device)
}

/// The keeper may have a few descriptors more than it has: another life gives it none twice.
pub(super) fn full_keeper(world: &mut World) -> Result<()> {
    const BUFFERS: usize = 500;
    let local = Local::new(world)?;
    let frame = Buffer::make(&local.card, 16, 16)?;
    let planes = [frame.dma_buf.as_fd()];
    let export = || local.exporter.export(frame.node.as_fd(), &frame.layout, &planes);
    let exported = (0..BUFFERS).map(|_| export()).collect::<Result<Vec<_>, _>>()?;
    let count = u32::try_from(BUFFERS)?;
    let [keeper] = named("dmashare-keeper")?[..] else { bail!("not one keeper") };
    let most = keeper.descriptors()?.len() + BUFFERS / 4;
    let limit = format!("--nofile={most}:{most}");
    let status = Command::new("prlimit").args(["--pid", &keeper.0.to_string(), &limit]).status()?;
    ensure!(status.success(), "prlimit: {status}");
    for _ in 0..3 {
        world.kill_broker()?;
        world.wait_ready()?;
        world.wait_counts(local.device, (count, 0, 0))?;
        drop(export()?);
    }
    ensure!(named("dmashare-keeper")? == [keeper], "the keeper is another process");
    exported.into_iter().try_for_each(|buffer| buffer.release())?;
    world.wait_counts(local.device, (0, 0, 0))
}

/// Killed again and again, at any instant, while many share, import, wait and let go.
pub(super) fn under_load(world: &mut World) -> Result<()> {
    let (kills, pairs) = (asked("DMASHARE_KILLS", KILLS), asked("DMASHARE_PAIRS", PAIRS));
    let kept = asked("DMASHARE_KEPT", KEPT);
    let an_hour = (world.backend() != Backend::Vgem).then_some(Duration::from_secs(3600));
    let local = || {
        Local::new(world).map(|local| match an_hour {
            Some(_) => local.with_deadline(an_hour),
            None => local,
        })
    };
    let locals = (0..pairs).map(|_| local()).collect::<Result<Vec<_>>>()?;
    let device = locals[0].device;
    let simulated = world.is_simulated();
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut answers = Vec::new();
    std::thread::scope(|scope| {
        let (stop, rounds) = (&stop, &rounds);
        let threads: Vec<_> = locals
            .iter()
            .map(|local| scope.spawn(move || busy(local, (simulated, kept), stop, rounds)))
            .collect();
        let mut killing = || -> Result<()> {
            let full = u64::try_from(pairs * kept)?;
            for kill in 0..kills {
                // Once all have what they keep; then as far as they have come, and a little more each time.
                let from = rounds.load(Ordering::Relaxed);
                let until = (from + 3 + (kill * 7) % 11).max(full);
                let bound = now_ns() + u64::try_from(BOUND.as_nanos())?;
                while rounds.load(Ordering::Relaxed) < until {
                    ensure!(now_ns() < bound, "the clients have come to a standstill");
                    if threads.iter().any(std::thread::ScopedJoinHandle::is_finished) {
                        return Ok(());
                    }
                    std::thread::yield_now();
                }
                let before_ns = now_ns();
                world.kill_broker().with_context(|| format!("kill {kill}"))?;
                let probe = Connection::connect_to(world.socket())?;
                probe.devices()?;
                answers.push(now_ns() - before_ns);
            }
            Ok(())
        };
        let killed = killing();
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        killed
    })?;
    answers.sort_unstable();
    let median = answers.get(answers.len() / 2).copied().unwrap_or(0);
    let most = answers.last().copied().unwrap_or(0);
    show(format_args!(
        "{kills} kills in {} rounds of {pairs} pairs, which have {} buffers and as many pending fences; \
         from kill to first answer: {} (median), {}",
        rounds.load(Ordering::Relaxed),
        pairs * kept,
        human(median),
        human(most)
    ));
    note("kill to first answer, median, ns", median);
    world.wait_ready()?;
    world.wait_counts(device, (0, 0, 0))
}

/// Shares and lets go, until it is told to stop; any error is one that the restart has made.
fn busy(
    local: &Local,
    (simulated, kept): (bool, usize),
    stop: &AtomicBool,
    rounds: &AtomicU64,
) -> Result<()> {
    let frame = Buffer::make(&local.card, 16, 16)?;
    let (mut buffers, mut fences) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let planes = [frame.dma_buf.as_fd()];
        let exported = local.exporter.export(frame.node.as_fd(), &frame.layout, &planes)?;
        let token: Token = local.exporter.grant(&exported, Grant::default())?;
        let import = local.importer.import(token, Importer::Cpu)?;
        buffers.push((exported, import));
        let source = Source::endless(simulated)?;
        let shared = local.share(source.fd())?;
        let fence = local.import(&shared)?;
        ensure!(!shared.query()?.is_ended(), "a fence has ended by itself");
        fences.push((source, shared, fence));
        if fences.len() > kept {
            let (mut source, shared, fence): (Source, _, ImportedFence) = fences.remove(0);
            source.signal()?;
            let end = fence.wait(Some(BOUND))?;
            ensure!(matches!(end, FenceStatus::Ok { .. }), "its work is done, and it is {end:?}");
            drop((shared, fence, buffers.remove(0)));
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    for (mut source, _shared, fence) in fences {
        source.signal()?;
        let end = fence.wait(Some(BOUND))?;
        ensure!(matches!(end, FenceStatus::Ok { .. }), "its work is done, and it is {end:?}");
    }
    Ok(())
}
