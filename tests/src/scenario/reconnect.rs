//! The broker is started again while clients are connected: they are connected again without their
//! doing, are told what is gone, and share on.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use dmashare::{Access, Connection, Event, Grant, Importer, Protection, Reconnected};
use drm_fourcc::DrmFourcc;

use crate::clock::{human, now_ns};
use crate::scenario::figures::{note, show};
use crate::scenario::local::told;
use crate::{BOUND, Buffer, Unplug, World};

fn connect(world: &World, name: &str) -> Result<Connection> {
    Ok(Connection::builder().name(name).reconnect(true).connect_to(world.socket())?)
}

/// What a loop reads: first the end, then the new beginning.
fn back(connection: &Connection) -> Result<Reconnected> {
    let mut ended = false;
    loop {
        let events = connection.dispatch(Some(BOUND))?;
        ensure!(!events.is_empty(), "the connection did not come back");
        for event in events {
            match event {
                Event::Disconnected(_) => ended = true,
                Event::Reconnected(reconnected) => {
                    ensure!(ended, "it came back and had never ended");
                    return Ok(reconnected);
                }
                _ => {}
            }
        }
    }
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let (producer, consumer) = (connect(world, "producer")?, connect(world, "consumer")?);
    let fd = consumer.as_fd().try_clone_to_owned()?;
    let card = world.egpu()?;
    world.arrived(&producer, &card)?;
    let frame = Buffer::make(&card, 64, 64)?;
    frame.fill(0x77)?;
    let share = |world: &World| {
        let device = world.arrived(&consumer, &card)?;
        let planes = [frame.dma_buf.as_fd()];
        let exported = producer.export(frame.node.as_fd(), &frame.layout, &planes)?;
        let token = producer.grant(&exported, Grant::default())?;
        let import = consumer.import(token, Importer::Cpu)?;
        anyhow::Ok((device, exported, import))
    };
    let count = |memory: &dmashare::MappedBuffer, byte: u8| {
        let mut bytes = vec![0; memory.len()];
        let reading = memory.begin(Access::Read)?;
        memory.copy_to_slice(0, &mut bytes)?;
        reading.end()?;
        anyhow::Ok(bytes.into_iter().filter(|seen| *seen == byte).count())
    };
    let (device, exported, import) = share(world)?;
    let memory = import.map(0, Protection::Read)?;
    let neutral = producer.allocate(64, 64, DrmFourcc::Xrgb8888 as u32)?;
    let kept = neutral.map(0, Protection::ReadWrite)?;
    let writing = kept.begin(Access::Write)?;
    kept.copy_from_slice(0, &vec![0x33; kept.len()])?;
    writing.end()?;
    let instance = consumer.instance();
    let old = import.device().cloned();

    let before_ns = now_ns();
    world.restart_broker()?;
    let (told_producer, told_consumer) = (back(&producer)?, back(&consumer)?);
    let ns = now_ns() - before_ns;
    show(format_args!("from the restart to both connected again: {}", human(ns)));
    note("restart to both connected again, ns", ns);
    ensure!(!told_consumer.same_instance && consumer.instance() != instance, "{told_consumer:?}");
    ensure!(told_producer.imports.is_empty(), "the producer had no imports: {told_producer:?}");
    ensure!(told_consumer.imports == [import.id()], "{told_consumer:?}");
    ensure!(old.is_some_and(|device| device.is_lost()), "a device of the former broker's is there");
    ensure!(memory.is_revoked() && memory.begin(Access::Read).is_err(), "the import is not gone");
    // What needs no broker is as it was.
    ensure!(count(&kept, 0x33)? == kept.len(), "the neutral buffer has other contents");
    drop((memory, import, exported, kept, neutral));

    // From here as from the beginning, on the same fd.
    let (_, exported, import) = share(world)?;
    let memory = import.map(0, Protection::Read)?;
    let seen = count(&memory, 0x77)?;
    ensure!(seen >= 64 * 64 * 4, "{seen} bytes are the exporter's");
    let new = world.arrived(&consumer, &card)?;
    ensure!(new != device, "an id is used again");
    world.unplug(Unplug::Remove)?;
    ensure!(dmashare_uapi::sync_file::wait(fd.as_fd(), Some(BOUND))?, "the loss wakes no loop");
    let lost = told(&consumer, new)?;
    ensure!(lost.imports().len() == 1, "{lost:?}");
    lost.acknowledge()?;
    drop((memory, import, exported));
    world.wait_gone(new)
}
