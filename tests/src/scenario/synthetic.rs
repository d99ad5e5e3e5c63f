//! Scenario 9: A synthetic `remove` is a request to let go, and no loss.

use anyhow::{Result, ensure};

use super::pair::Pair;
use crate::actor::Task;
use crate::scenario::figures::show;
use crate::{BOUND, Bus, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let buffer = pair.share_buffer(world, 32, 32)?;
    let place = world.bus().now();
    let path = Bus::device_path(pair.device);

    world.synthetic(&pair.card, "remove")?;
    let why = world.bus().wait("RemovalRequested", place, BOUND, |signal| {
        let is_it = signal.member == "RemovalRequested" && signal.path == path;
        is_it.then(|| signal.message.body().deserialize::<String>())
    })??;
    show(format_args!("RemovalRequested: {why}"));

    // Nothing was taken back, and sharing goes on.
    world.wait_counts(pair.device, (1, 1, 0))?;
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 9 })?;
    let seen = pair.importer.call(Task::Count { key: buffer.imported, byte: 9 })?.count()?;
    ensure!(seen == 32 * 32 * 4, "{seen} bytes came over after the request");
    let another = pair.share_buffer(world, 16, 16)?;
    world.wait_counts(pair.device, (2, 2, 0))?;
    pair.importer.call(Task::Release { key: another.imported })?;
    pair.exporter.call(Task::Release { key: another.exported })?;

    // The `add` that lets compositors take it into use again is no new device either.
    world.synthetic(&pair.card, "add")?;
    world.wait_counts(pair.device, (1, 1, 0))?;
    let device = world.device(&world.egpu()?)?;
    ensure!(device.id == pair.device && device.state == "present", "{device:?}");
    let lost = |signal: &crate::bus::Signal| signal.member == "Lost";
    ensure!(!world.bus().has(place, lost), "the broker told of a loss");

    // The real thing is still recognised.
    world.unplug(Unplug::Remove)?;
    pair.importer.call(Task::AwaitLoss { device: pair.device })?;
    world.wait_gone(pair.device)
}
