//! A broker with ten thousand objects is told to stop: it does, and every guard has ended.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dmashare_uapi::sync_file;

use super::local::Local;
use super::many_guards::{Sources, make, most_guards};
use crate::hostile::{Raw, new_files_limit};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Buffer, World};

const OBJECTS: usize = 10_000;
/// Ten times what it is to take.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(world: &mut World) -> Result<()> {
    new_files_limit()?;
    let local = Local::new(world)?.with_deadline(Some(Duration::from_secs(3600)));
    let sources = Sources::make(world.is_simulated(), most_guards(world) / 2)?;
    let fences = make(&local, &sources, Duration::MAX)?;
    let mut raw = Raw::hello(&world.socket(), "many")?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    // A fence is an object, and so is its importer's handle on it.
    let buffers = OBJECTS - 2 * fences.len();
    for _ in 0..buffers {
        raw.export(&buffer)?;
    }
    let pid = world.broker()?;
    let descriptors = pid.descriptors()?.len();
    world.bus().until("all objects on the bus", BOUND, |bus| {
        let device = bus.device(local.device)?.context("the device has gone")?;
        Ok((device.buffers as usize == buffers).then_some(()))
    })?;

    let begin = Instant::now();
    world.stop_broker()?;
    let took = begin.elapsed();
    show(format_args!(
        "{} guards and {buffers} buffers ({descriptors} descriptors): stopped in {took:?}",
        fences.len()
    ));
    note("stop with 10,000 objects, µs", u64::try_from(took.as_micros())?);
    ensure!(took < LIMIT, "it took {took:?} to stop");
    for (_, fence) in &fences {
        let guard = fence.fd().context("no guard")?;
        ensure!(sync_file::wait(guard, Some(BOUND))?, "{fence:?} pends after the stop");
    }
    ensure!(sources.are_pending(world.is_simulated())?, "a source ended; this shows nothing");
    Ok(())
}
