//! What happens while there is no service: a device goes, or is exchanged, work ends, and what was kept
//! is another version's.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare::{
    Access, Cause, Connection, Direction, Grant, ImportedBuffer, Importer, PointState, Protection,
    SharedFence,
};
use dmashare_proto::keeper::Key;

use crate::scenario::local::{Local, ends_by, ends_well, pends, told};
use crate::scenario::timeline::{Line, end, failed, hangs_up, has_hung_up, is_ok, state};
use crate::{BOUND, Buffer, Source, Unplug, World};

/// The broker's own record, which begins with the version of the format (core/records.rs).
const BROKER: Key = Key(1, 0, 0);

/// A buffer, an import of it, and a pending fence, of the card that goes.
struct Held {
    import: ImportedBuffer,
    source: Source,
    shared: SharedFence,
    fence: dmashare::ImportedFence,
}

fn held(world: &World, local: &Local) -> Result<Held> {
    let frame = Buffer::make(&local.card, 64, 64)?;
    let planes = [frame.dma_buf.as_fd()];
    let exported = local.exporter.export(frame.node.as_fd(), &frame.layout, &planes)?;
    let token = local.exporter.grant(&exported, Grant::default())?;
    let import = local.importer.import(token, Importer::Cpu)?;
    let source = Source::endless(world.is_simulated())?;
    let shared = local.share(source.fd())?;
    let fence = local.import(&shared)?;
    Ok(Held { import, source, shared, fence })
}

/// The card goes: who comes back finds that, ends what is pending, and tells everybody.
pub(in crate::scenario) fn gone(world: &mut World) -> Result<()> {
    lost_meanwhile(world, |world| world.unplug(Unplug::Remove)).map(drop)
}

/// The card goes, and another one is in its place: it is another device.
pub(in crate::scenario) fn exchanged(world: &mut World) -> Result<()> {
    let former = lost_meanwhile(world, |world| {
        world.unplug(Unplug::Remove)?;
        world.bring_back().map(drop)
    })?;
    world.wait_ready()?;
    let local = Local::new(world)?;
    ensure!(local.device > former, "{} came after {former}", local.device);
    let held = held(world, &local)?;
    world.wait_counts(local.device, (1, 1, 1))?;
    pends(&held.shared, &held.fence)
}

fn lost_meanwhile(
    world: &mut World,
    lose: impl FnOnce(&World) -> Result<()>,
) -> Result<dmashare::DeviceId> {
    let local = Local::new(world)?;
    let held = held(world, &local)?;
    let memory = held.import.map(0, Protection::Read)?;
    let line = Line::new(world, Direction::Acquire)?;
    line.made.promise(2)?;
    let of_point = Source::endless(world.is_simulated())?;
    line.submit(1, &of_point)?;
    std::thread::scope(|scope| -> Result<()> {
        let waiter = scope.spawn(|| end(&line.imported, 2));
        world.kill_broker_while(lose)?;
        let ended = waiter.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))??;
        failed(ended, Cause::Vanished)
    })?;
    ends_by(world, &held.fence, Cause::Vanished)?;
    failed(end(&line.imported, 1)?, Cause::Vanished)?;
    hangs_up(&line.imported)?;
    ensure!(memory.begin(Access::Read).is_err(), "a buffer of a device that is gone");
    let lost = told(&local.importer, local.device)?;
    ensure!(lost.cause() == Cause::Vanished, "the loss is told as {:?}", lost.cause());
    lost.acknowledge()?;
    drop((memory, held, line));
    world.bus().until("the broker on the bus", BOUND, |bus| Ok(bus.is_owned()?.then_some(())))?;
    world.wait_gone(local.device)?;
    Ok(local.device)
}

/// Timelines go on: promises, points that are pending, points whose work ended meanwhile, and who waits.
pub(in crate::scenario) fn timelines(world: &mut World) -> Result<()> {
    let line = Line::new(world, Direction::Acquire)?;
    let back = Line::new(world, Direction::Release)?;
    line.made.promise(6)?;
    back.made.promise(2)?;
    let mut sources = Vec::new();
    for point in 1..=4 {
        let source = Source::endless(world.is_simulated())?;
        line.submit(point, &source)?;
        sources.push(source);
    }
    sources[0].signal()?;
    is_ok(end(&line.imported, 1)?)?;
    // 3 ends before 2: it is not its turn.
    sources[2].signal()?;
    state(&line.imported, 3, PointState::Pending)?;

    std::thread::scope(|scope| -> Result<()> {
        let third = scope.spawn(|| end(&line.imported, 3));
        let promised = scope.spawn(|| end(&line.imported, 6));
        let released = scope.spawn(|| end(&back.made, 1));
        world.kill_broker_while(|_| sources[1].signal())?;
        let joined = |waiter: std::thread::ScopedJoinHandle<'_, _>| {
            waiter.join().map_err(|_| anyhow::anyhow!("a waiter panicked"))
        };
        is_ok(joined(third)??)?;
        is_ok(end(&line.imported, 2)?)?;
        state(&line.imported, 4, PointState::Pending)?;
        state(&line.imported, 6, PointState::Promised)?;
        state(&line.imported, 7, PointState::Unknown)?;
        back.imported.submit_done(1)?;
        is_ok(joined(released)??)?;
        sources[3].signal()?;
        is_ok(end(&line.imported, 4)?)?;
        line.made.submit_done(5)?;
        is_ok(end(&line.imported, 5)?)?;
        ensure!(line.made.submit_done(5).is_err(), "a point is submitted twice");
        ensure!(!has_hung_up(&line.imported)?, "the device is there");
        // Watched as before.
        world.unplug(Unplug::Remove)?;
        failed(joined(promised)??, Cause::Unplugged)
    })?;
    failed(end(&back.made, 2)?, Cause::Unplugged)?;
    hangs_up(&line.imported)?;
    Ok(())
}

/// What was kept is of another version: it ends, with an error, and the service starts with nothing.
pub(in crate::scenario) fn other_format(world: &mut World) -> Result<()> {
    spoiled(world, &[0x7f], "format")
}

/// What was kept makes no sense.
pub(in crate::scenario) fn nonsense(world: &mut World) -> Result<()> {
    spoiled(world, &[1, 0xff, 0xff], "cannot be read")
}

fn spoiled(world: &mut World, bytes: &[u8], said: &str) -> Result<()> {
    let local = Local::new(world)?;
    let held = held(world, &local)?;
    world.kill_broker_while(|world| world.spoil(BROKER, bytes))?;
    // A guard ends by being closed, if it is a real one; whoever asks is told that nobody knows any more.
    ensure!(held.shared.query().err().is_some_and(|it| it.is_disconnected()), "not disconnected");
    ensure!(local.importer.devices().err().is_some_and(|it| it.is_disconnected()));
    let log = world.log_of_run()?;
    ensure!(log.contains(said), "the log does not say why:\n{log}");
    drop((held, local));
    world.wait_ready()?;
    let local = Local::new(world)?;
    let again = self::held(world, &local)?;
    world.wait_counts(local.device, (1, 1, 1))?;
    let mut source = again.source;
    source.signal()?;
    ends_well(&again.fence)?;
    Connection::connect_to(world.socket()).context("a client that comes now")?;
    Ok(())
}
