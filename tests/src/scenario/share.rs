//! Scenarios 2 and 3: A buffer goes from a process to another, and outlives the first.

use anyhow::{Result, ensure};

use super::pair::Pair;
use crate::World;
use crate::actor::Task;

/// Contents written by one are read by the other, both ways.
pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let buffer = pair.share_buffer(world, 64, 64)?;
    world.wait_counts(pair.device, (1, 1, 0))?;
    let bytes = 64 * 64 * 4;

    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 0x5a })?;
    let count = Task::Count { key: buffer.imported, byte: 0x5a };
    let seen = pair.importer.call(count)?.count()?;
    ensure!(seen == bytes, "{seen} of {bytes} bytes are the exporter's");

    pair.importer.call(Task::Fill { key: buffer.imported, byte: 0xa5 })?;
    let count = Task::Count { key: buffer.exported, byte: 0xa5 };
    let seen = pair.exporter.call(count)?.count()?;
    ensure!(seen == bytes, "{seen} of {bytes} bytes are the importer's");

    pair.importer.call(Task::Release { key: buffer.imported })?;
    world.wait_counts(pair.device, (1, 0, 0))?;
    pair.exporter.call(Task::Release { key: buffer.exported })?;
    world.wait_counts(pair.device, (0, 0, 0))
}

/// The exporter is killed; the importer keeps the buffer until it gives it back.
pub(super) fn exporter_killed(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let buffer = pair.share_buffer(world, 64, 64)?;
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 0x11 })?;
    world.wait_counts(pair.device, (1, 1, 0))?;

    let Pair { exporter, importer, device, .. } = pair;
    let pid = exporter.process().0.cast_unsigned();
    exporter.kill()?;
    world.bus().until("the exporter is no client any more", crate::BOUND, |bus| {
        Ok((!bus.clients()?.contains(&pid)).then_some(()))
    })?;
    world.wait_counts(device, (1, 1, 0))?;
    let seen = importer.call(Task::Count { key: buffer.imported, byte: 0x11 })?.count()?;
    ensure!(seen == 64 * 64 * 4, "{seen} bytes are left of what the exporter wrote");

    importer.call(Task::Release { key: buffer.imported })?;
    world.wait_counts(device, (0, 0, 0))
}
