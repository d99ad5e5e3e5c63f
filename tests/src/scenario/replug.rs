//! Scenario 8: A card that comes back is a new device, twenty times.

use anyhow::{Result, ensure};
use dmashare::{Connection, ErrorCode, ExportedBuffer, Grant, Importer, Token};

use super::pair::Pair;
use crate::actor::{Refusal, Task};
use crate::process::eventually;
use crate::scenario::figures::{note, show};
use crate::{BOUND, Buffer, Source, Unplug, World};

const CYCLES: u32 = 20;
/// Cycles before the daemon's size is taken: it has its reports, and its allocator its arenas.
const WARM: u32 = 4;
/// How much the daemon may grow from then on, in KiB.
const GROWTH_KIB: u64 = 1024;

/// What is left in a process of a device that is gone.
struct Old {
    buffer: Buffer,
    export: ExportedBuffer,
    token: Token,
    fence: Token,
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let mut pair = Pair::new(world)?;
    let connection = world.connect("keeper")?;
    let broker = world.broker()?;
    let (mut base, mut last) = ((0, 0), (0, 0));
    for cycle in 0..CYCLES {
        let gone = pair.device;
        let old = share_and_lose(world, &pair, &connection)?;
        (pair.card, pair.device) = world.replug()?;
        ensure!(pair.device > gone, "{} came after {gone}", pair.device);
        refused(&connection, &old)?;
        drop(old);
        // What is here is one for each client, and for the cards.
        let descriptors = || broker.descriptors().map(|all| all.len());
        if cycle + 1 == WARM {
            base = (descriptors()?, broker.resident_kib()?);
        } else if cycle >= WARM {
            let what = format!("the daemon has {} descriptors, as after the first cycles", base.0);
            eventually(&what, BOUND, || Ok(descriptors()? <= base.0))?;
        }
        last = (descriptors()?, broker.resident_kib()?);
    }
    ensure!(world.broker()? == broker, "the daemon was started anew in between");
    show(format_args!(
        "{CYCLES} cycles; the daemon: {} → {} descriptors, {} → {} KiB",
        base.0, last.0, base.1, last.1
    ));
    note("resident KiB before and after", vec![base.1, last.1]);
    ensure!(last.1 <= base.1 + GROWTH_KIB, "the daemon grew from {} to {} KiB", base.1, last.1);
    Ok(())
}

/// Buffers and a fence are shared on the device, and it goes away.
fn share_and_lose(world: &World, pair: &Pair, connection: &Connection) -> Result<Old> {
    let buffer = Buffer::make(&pair.card, 16, 16)?;
    let node = std::os::fd::AsFd::as_fd(&buffer.node);
    let planes = [std::os::fd::AsFd::as_fd(&buffer.dma_buf)];
    let export = connection.export(node, &buffer.layout, &planes)?;
    let token = connection.grant(&export, Grant::default())?;
    let source = Source::endless(world.is_simulated())?;
    let fence = connection.share_fence(node, source.fd(), dmashare::FenceOptions::default())?;
    let fence = connection.grant(&fence, Grant::default())?;

    let shared = pair.share_buffer(world, 32, 32)?;
    pair.exporter.call(Task::Fill { key: shared.exported, byte: 7 })?;
    let seen = pair.importer.call(Task::Count { key: shared.imported, byte: 7 })?.count()?;
    ensure!(seen == 32 * 32 * 4, "sharing does not work: {seen} bytes");

    world.unplug(Unplug::Remove)?;
    pair.importer.call(Task::AwaitLoss { device: pair.device })?;
    world.wait_gone(pair.device)?;
    pair.importer.call(Task::Release { key: shared.imported })?;
    pair.exporter.call(Task::Release { key: shared.exported })?;
    Ok(Old { buffer, export, token, fence })
}

/// Every name of the old device and of what it had is refused.
fn refused(connection: &Connection, old: &Old) -> Result<()> {
    let node = std::os::fd::AsFd::as_fd(&old.buffer.node);
    let planes = [std::os::fd::AsFd::as_fd(&old.buffer.dma_buf)];
    let check = |what: &str, error: dmashare::Error| {
        let known = [ErrorCode::BAD_TOKEN, ErrorCode::UNKNOWN_DEVICE, ErrorCode::UNKNOWN_OBJECT];
        let is_clear = error.is_device_lost() || error.code().is_some_and(|c| known.contains(&c));
        ensure!(
            is_clear,
            "{what} of a gone device: {:?}",
            Refusal::from(anyhow::Error::new(error))
        );
        Ok(())
    };
    match connection.import(old.token, Importer::Cpu) {
        Ok(_) => anyhow::bail!("a token of a gone device still gives a buffer"),
        Err(error) => check("a token", error)?,
    }
    match connection.import_fence(old.fence) {
        Ok(_) => anyhow::bail!("a token of a gone device still gives a fence"),
        Err(error) => check("a fence's token", error)?,
    }
    match connection.grant(&old.export, Grant::default()) {
        Ok(_) => anyhow::bail!("a buffer of a gone device can still be granted"),
        Err(error) => check("a buffer's id", error)?,
    }
    match connection.export(node, &old.buffer.layout, &planes) {
        Ok(_) => anyhow::bail!("a node of a gone device still takes a buffer"),
        Err(error) => check("a node", error),
    }
}
