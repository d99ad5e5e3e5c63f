//! Scenario 6: Unplug while a thread of the importer reads the mapping.

use anyhow::{Result, ensure};

use super::pair::Pair;
use crate::actor::Task;
use crate::clock::human;
use crate::scenario::figures::{note, show};
use crate::{BOUND, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let buffer = pair.share_buffer(world, 512, 512)?;
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 0xee })?;
    ensure!(pair.importer.call(Task::DmaBufs)?.count()? > 0, "the import has no descriptor");

    let reading = pair.importer.begin(Task::ReadUntilLost { key: buffer.imported })?;
    reading.at_it(BOUND)?;
    world.unplug(Unplug::Remove)?;

    // A signal would have ended the process.
    let read = reading.wait(BOUND)?.read()?;
    ensure!(read.end_fails, "a bracket that was open over the loss ended well: {read:?}");
    ensure!(read.errno == libc::ENODEV, "the loss was told as {read:?}");
    ensure!(read.begin_fails, "`begin` works on a lost device: {read:?}");
    ensure!(read.left_over == 0, "{} bytes are still to be read: {read:?}", read.left_over);
    let loss = pair.importer.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.imports == 1, "the client was told of {loss:?}");
    let open = pair.importer.call(Task::DmaBufs)?.count()?;
    ensure!(open == 0, "the importer has {open} dma-bufs open after the loss");
    world.wait_gone(pair.device)?;
    let ns = read.told_ns.saturating_sub(loss.at_ns);
    show(format_args!("{} good reads; gate closed to reader told: {}", read.good, human(ns)));
    note("gate closed to reader told, ns", ns);
    Ok(())
}
