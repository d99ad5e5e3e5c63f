//! Release points: the way back, from a compositor to a client that waits for its buffer.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use dmashare::{Cause, Direction, PointState};
use dmashare_uapi::syncobj::WaitFor;

use super::{Line, end, failed, hangs_up, import, in_kernel, is_ok, state};
use crate::{BOUND, Source, World};

/// The importer signals on the syncobj itself, submits through the broker, and is rescued from.
pub(in crate::scenario) fn run(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Release)?;
    line.made.promise(4)?;
    // As compositors do: on the syncobj, with the broker none the wiser.
    match in_kernel(world, &line.imported)? {
        Some(kernel) => {
            let waiter = std::thread::scope(|scope| {
                let waiter = scope.spawn(|| end(&line.made, 1));
                kernel.timeline_signal(1).map(|()| waiter.join())
            });
            is_ok(waiter?.map_err(|_| anyhow::anyhow!("the waiter panicked"))??)?;
        }
        None => line.imported.submit_done(1)?,
    }
    is_ok(end(&line.made, 1)?)?;
    // With a source, of a device that stays.
    let igpu = world.igpu()?.open()?;
    let mut source = Source::endless(world.is_simulated())?;
    line.imported.submit(2, igpu.as_fd(), source.fd(), None)?;
    state(&line.made, 2, PointState::Pending)?;
    source.signal()?;
    is_ok(end(&line.made, 2)?)?;
    line.imported.submit_done(3)?;
    is_ok(end(&line.made, 3)?)?;

    let kernel = in_kernel(world, &line.made)?;
    std::thread::scope(|scope| -> Result<()> {
        let waiter = scope.spawn(|| end(&line.made, 4));
        world.unplug(crate::Unplug::Remove)?;
        let ended = waiter.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))??;
        failed(ended, Cause::Unplugged)
    })?;
    if let Some(kernel) = kernel {
        ensure!(kernel.wait(4, WaitFor::Signalled, Some(BOUND))?, "4 was not rescued");
    }
    hangs_up(&line.made)?;
    is_ok(end(&line.made, 3)?)
}

/// The compositor goes without releasing: the client is not left waiting.
pub(in crate::scenario) fn importer_goes(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Release)?;
    line.made.promise(2)?;
    let another = world.connect("another compositor")?;
    let second = import(&line.maker, &line.made, &another)?;
    line.imported.submit_done(1)?;
    is_ok(end(&line.made, 1)?)?;
    drop(line.imported);
    drop(line.other);
    state(&line.made, 2, PointState::Promised)?;
    std::thread::scope(|scope| -> Result<()> {
        let waiter = scope.spawn(|| end(&line.made, 2));
        drop((second, another));
        let ended = waiter.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))??;
        failed(ended, Cause::Exporter(libc::EOWNERDEAD))
    })?;
    if let Some(kernel) = in_kernel(world, &line.made)? {
        ensure!(kernel.wait(2, WaitFor::Signalled, Some(BOUND))?, "2 never came in the kernel");
    }
    ensure!(line.card == world.egpu()?, "the card is untouched");
    Ok(())
}
