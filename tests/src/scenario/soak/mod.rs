//! The eGPU is pulled and comes back, again and again, while clients come and go, some of them by being
//! killed: what the service's processes and the kernel have at the end is what they had after the first
//! cycles.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use dmashare::{Cause, Connection};

use super::local::{Local, ends_by, told};
use crate::actor::Task;
use crate::scenario::figures::{note, show};
use crate::{Actor, Unplug, User, World};

mod sizes;
mod visit;

use sizes::Sizes;

/// Of the test command; [`CYCLES_ASKED`] asks for another number.
pub(super) const CYCLES: u32 = 30;
/// For runs by hand: the scenario's bound grows with it.
pub(super) const CYCLES_ASKED: &str = "DMASHARE_CYCLES";
/// Cycles before the base is taken, one in so many of all, and at least so many: the service keeps a
/// number of reports and of causes, and allocators and the kernel's caches have filled.
const WARM_PART: u32 = 10;
const WARM: u32 = 8;
/// Cycles between two looks for whoever waits for the end of a long run.
const TOLD: u32 = 100;
/// A client is killed in one of so many cycles: a process of its own takes its time to start.
const DEATHS: u32 = 3;
/// Clients of this process in each cycle, of two connections each: they come and go before the unplug.
const VISITORS: usize = 2;

/// How many cycles are asked for.
pub(super) fn cycles() -> u32 {
    let asked = std::env::var(CYCLES_ASKED).ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(CYCLES).max(WARM + 2)
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let (cycles, begin) = (cycles(), Instant::now());
    let warm = (cycles / WARM_PART).max(WARM);
    let broker = world.broker()?;
    // It sees every loss, and has what it has from the first to the last.
    let watcher = world.connect("watcher")?;
    let (mut base, mut killed, passers) = (None, 0, AtomicU64::new(0));
    for cycle in 0..cycles {
        killed +=
            one(world, &watcher, cycle, &passers).with_context(|| format!("cycle {cycle}"))?;
        if cycle + 1 == warm {
            base = Some(Sizes::at_rest(world)?);
        }
        if let Some(base) = base.as_ref().filter(|_| (cycle + 1).is_multiple_of(TOLD)) {
            show(format_args!("after {} cycles:", cycle + 1));
            base.tell(&Sizes::now(world)?);
        }
    }
    let base = base.context("no base was taken")?;
    base.wait_for(world)?;
    let last = Sizes::at_rest(world)?;
    ensure!(world.broker()? == broker, "the service was started anew in between");
    let took = begin.elapsed().as_millis() / u128::from(cycles);
    show(format_args!(
        "{cycles} cycles of {took} ms, {killed} clients killed, {} passed by; from cycle {warm} on:",
        passers.load(Ordering::Relaxed)
    ));
    note("ms a cycle", u64::try_from(took)?);
    base.compare(&last, cycles - warm)
}

/// A card's time, from where it is there to where its successor is; gives how many clients were killed.
fn one(world: &World, watcher: &Connection, cycle: u32, passers: &AtomicU64) -> Result<u32> {
    let mut resident = visit::Stay::begin(Local::new(world)?, world.is_simulated())?;
    let device = resident.local.device;
    let visitors = (0..VISITORS).map(|_| Local::new(world)).collect::<Result<Vec<_>>>()?;
    // Killed before the unplug, or after it.
    let (dies, is_late) = (cycle.is_multiple_of(DEATHS), (cycle / DEATHS).is_multiple_of(2));
    let mut dying = dies.then(|| busy(world, &resident.local)).transpose()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let passer = scope.spawn(|| visit::pass_by(&world.socket(), &over, passers));
        let lost = || -> Result<()> {
            let come: Vec<_> = visitors
                .into_iter()
                .map(|local| scope.spawn(|| visit::come_and_go(local, world.is_simulated())))
                .collect();
            come.into_iter().try_for_each(joined)?;
            if let Some(dying) = dying.take_if(|_| !is_late) {
                dying.kill()?;
            }
            world.unplug(Unplug::Remove)?;
            dying.take().map_or(Ok(()), Actor::kill)?;
            ends_by(world, &resident.fence, Cause::Unplugged)?;
            told(&resident.local.importer, device)?.acknowledge()?;
            told(watcher, device)?.acknowledge()?;
            resident.is_lost()?;
            world.wait_gone(device)
        }();
        over.store(true, Ordering::Relaxed);
        joined(passer)?;
        lost
    })?;
    // Only now, with its mapping of the old card's memory.
    drop(resident);
    world.replug()?;
    Ok(u32::from(dies))
}

/// A process that has some of everything, and more by the moment.
fn busy(world: &World, local: &Local) -> Result<Actor> {
    let (card, device) = (local.card.clone(), local.device);
    let actor = world.client("dies", User::Bob)?;
    // Its end is never asked for: it is killed.
    let _running = actor.begin(Task::Hammer { card, rounds: None, foreign: None })?;
    world.wait_counts_of(device, |device| device.imports > 4 && device.fences > 3)?;
    Ok(actor)
}

fn joined(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a client panicked"))?
}
