//! A loss that the hardware knows nothing of: for all clients, for one of them, and who may.

use std::collections::HashMap;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use dmashare::{Cause, DeviceId};
use dmashare_proto::report::Step;
use dmashare_uapi::sync_file::Status;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use super::masked::Masked;
use super::pair::{Pair, WAIT_MS, long_deadline_ms};
use crate::actor::Task;
use crate::bus::{NAME, ROOT, Signal};
use crate::clock::human;
use crate::scenario::figures::{note, show};
use crate::{Actor, BOUND, Buffer, Bus, Card, Source, Unplug, User, World};

const DEVICE: &str = "org.dmashare.Device1";
const POLKIT: &str = "polkit.service";
const PIXELS: u64 = 32 * 32 * 4;

/// Asks as this process's user, which in the virtual machine is root.
fn rehearse(world: &World, device: DeviceId, client: u64, after_ms: u32) -> Result<()> {
    let (path, body) = (Bus::device_path(device), (client, after_ms));
    let connection = world.bus().connection();
    connection
        .call_method(Some(NAME), path, Some(DEVICE), "Rehearse", &body)
        .with_context(|| format!("Rehearse({client}, {after_ms}) of device {device}"))?;
    Ok(())
}

/// The id of a client on the bus.
pub(super) fn client_of(world: &World, actor: &Actor) -> Result<u64> {
    type Objects = HashMap<OwnedObjectPath, HashMap<String, HashMap<String, OwnedValue>>>;
    let pid = actor.process().0.unsigned_abs();
    world.bus().until("the client on the bus", BOUND, |bus| {
        let manager = Some("org.freedesktop.DBus.ObjectManager");
        let reply =
            bus.connection().call_method(Some(NAME), ROOT, manager, "GetManagedObjects", &())?;
        let objects: Objects = reply.body().deserialize()?;
        for mut interfaces in objects.into_values() {
            let Some(mut client) = interfaces.remove("org.dmashare.Client1") else { continue };
            let mut take = |name| client.remove(name).context("a property of Client1");
            if u32::try_from(take("Pid")?)? == pid {
                return Ok(Some(u64::try_from(take("Id")?)?));
            }
        }
        Ok(None)
    })
}

pub(super) fn has_come_back(world: &World, card: &Card, old: DeviceId) -> Result<DeviceId> {
    world.bus().until("the device comes back as another", BOUND, |_| {
        let device = world.device(card).ok().filter(|device| device.id != old);
        Ok(device.map(|device| device.id))
    })
}

/// Its driver makes a buffer, and the CPU gets at it.
fn is_untouched(card: &Card) -> Result<()> {
    let buffer = Buffer::make(card, 32, 32).context("the card itself after a rehearsal")?;
    buffer.fill(3)?;
    ensure!(buffer.count(3)? == PIXELS, "the card's memory is not what it was");
    Ok(())
}

pub(super) fn all(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let source = Source::endless(world.is_simulated())?;
    let fence = pair.share_fence(&source, long_deadline_ms(world))?;
    let buffer = pair.share_buffer(world, 32, 32)?;
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 7 })?;
    let waiting = pair.importer.begin(Task::Wait { key: fence.imported, bound_ms: WAIT_MS })?;
    waiting.at_it(BOUND)?;
    let (place, path) = (world.bus().now(), Bus::device_path(pair.device));

    rehearse(world, pair.device, 0, 50)?;

    let end = waiting.wait(BOUND)?.fence()?;
    ensure!(source.status()? == Status::Pending, "the source ended by itself; this shows nothing");
    ensure!(
        end.errno == Some(libc::ENODEV) && end.cause == Some(Cause::Rehearsed),
        "the waiter woke with {end:?}"
    );
    let cause = world.bus().wait("Lost", place, BOUND, |signal| {
        let is_it = signal.member == "Lost" && signal.path == path;
        is_it.then(|| signal.message.body().deserialize::<(String, u64, u32, u32, u32)>())
    })??;
    let (cause, _, buffers, imports, fences) = cause;
    ensure!(
        (cause.as_str(), buffers, imports, fences) == ("rehearsed", 1, 1, 1),
        "Lost told {cause}, {buffers} buffers, {imports} imports, {fences} fences"
    );
    for client in [&pair.exporter, &pair.importer] {
        let loss = client.call(Task::AwaitLoss { device: pair.device })?.loss()?;
        ensure!(loss.cause == Cause::Rehearsed, "a client was told {loss:?}");
    }
    let refusal = pair.importer.refusal(Task::Count { key: buffer.imported, byte: 7 })?;
    ensure!(refusal.device_lost, "begin on a lost device gave {refusal:?}");
    let again = has_come_back(world, &pair.card, pair.device)?;
    ensure!(again > pair.device, "{again} came after {}", pair.device);
    world.wait_gone(pair.device)?;
    let report = world.report_with(pair.device, Step::Gone)?;
    ensure!(report.cause == Cause::Rehearsed && report.rehearsed_for.is_none(), "{report:?}");
    ensure!(report.overdue.is_empty() && report.guards == 1, "{report:?}");
    let awake_ns = end.woke_ns.context("a poll on the guard did not wake")?;
    let from = report.at(Step::Uevent).context("the beginning of the rehearsal")?;
    let awake_ns = awake_ns.saturating_sub(from);
    show(format_args!("from its beginning to the waiter awake: {}", human(awake_ns)));
    note("rehearsal to waiter awake, ns", awake_ns);

    // The card itself is what it was, also for who exported from it, and shares anew.
    is_untouched(&pair.card)?;
    let seen = pair.exporter.call(Task::Count { key: buffer.exported, byte: 7 })?.count()?;
    ensure!(seen == PIXELS, "the exporter's own buffer has changed: {seen} bytes");
    let second = Pair::new(world)?;
    ensure!(second.device == again, "{} is not {again}", second.device);
    shares(world, &second)?;

    // What is real is still seen.
    world.unplug(Unplug::Remove)?;
    let loss = second.importer.call(Task::AwaitLoss { device: again })?.loss()?;
    ensure!(loss.cause == Cause::Unplugged, "a client was told {loss:?}");
    world.wait_gone(again)
}

/// A buffer goes over, whole.
fn shares(world: &World, pair: &Pair) -> Result<()> {
    let buffer = pair.share_buffer(world, 32, 32)?;
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 9 })?;
    let seen = pair.importer.call(Task::Count { key: buffer.imported, byte: 9 })?.count()?;
    ensure!(seen == PIXELS, "{seen} bytes came over");
    Ok(())
}

pub(super) fn one(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let other = world.client("other importer", User::Alice)?;
    let buffer = pair.share_buffer(world, 32, 32)?;
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 7 })?;
    let token = pair.token_for(&other, buffer.exported)?;
    let by = Some(world.igpu()?);
    let theirs = other.call(Task::Import { token, by })?.key()?;
    let sources = [Source::endless(world.is_simulated())?, Source::endless(world.is_simulated())?];
    // One guard is the importer's alone, one is of both.
    let alone = pair.share_fence(&sources[0], long_deadline_ms(world))?;
    let both = pair.share_fence(&sources[1], long_deadline_ms(world))?;
    let their_fence = pair.import_fence(&other, both.shared)?;
    let waiting = pair.importer.begin(Task::Wait { key: alone.imported, bound_ms: WAIT_MS })?;
    waiting.at_it(BOUND)?;
    world.wait_counts(pair.device, (1, 2, 2))?;
    let place = world.bus().now();

    rehearse(world, pair.device, client_of(world, &pair.importer)?, 0)?;

    let end = waiting.wait(BOUND)?.fence()?;
    ensure!(
        end.errno == Some(libc::ENODEV) && end.cause == Some(Cause::Rehearsed),
        "the waiter woke with {end:?}"
    );
    // Everybody else goes on; whoever imports the fence now has a guard that is as pending as it is.
    for (who, key) in [
        (&other, their_fence),
        (&pair.importer, both.imported),
        (&other, pair.import_fence(&other, alone.shared)?),
    ] {
        let state = who.call(Task::Status { key })?.fence()?;
        ensure!(state.errno.is_none() && state.raw == Some(0), "another's guard: {state:?}");
    }
    let loss = pair.importer.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(
        (loss.cause, loss.imports, loss.fences) == (Cause::Rehearsed, 1, 1),
        "the client was told {loss:?}"
    );
    world.wait_counts(pair.device, (1, 1, 2))?;
    let seen = other.call(Task::Count { key: theirs, byte: 7 })?.count()?;
    ensure!(seen == PIXELS, "the other importer sees {seen} bytes");
    let refusal = pair.importer.refusal(Task::Count { key: buffer.imported, byte: 7 })?;
    ensure!(refusal.device_lost, "begin on an import that was taken back gave {refusal:?}");
    is_untouched(&pair.card)?;

    // For this client the card is another device from here; the others call it as before.
    pair.exporter.call(Task::Fill { key: buffer.exported, byte: 9 })?;
    let import = |who: &Actor| {
        let (token, by) = (pair.token_for(who, buffer.exported)?, Some(world.igpu()?));
        who.call(Task::Import { token, by })?.object()
    };
    let (key, _, again) = import(&pair.importer)?;
    ensure!(again > pair.device, "the importer was told {again} after {}", pair.device);
    let seen = pair.importer.call(Task::Count { key, byte: 9 })?.count()?;
    ensure!(seen == PIXELS, "{seen} bytes came over after the rehearsal");
    let (_, _, known) = import(&other)?;
    ensure!(known == pair.device, "the other importer was told {known}, not {}", pair.device);

    let report = world.bus().until("the report of the rehearsal", BOUND, |bus| {
        let all = bus.reports()?;
        let mut of = all.into_iter().filter(|report| report.rehearsed_for.is_some());
        Ok(of.next().filter(|report| report.at(Step::Gone).is_some()))
    })?;
    ensure!(report.device == pair.device && report.cause == Cause::Rehearsed, "{report:?}");
    ensure!((report.guards, report.imports, report.told) == (1, 1, 1), "{report:?}");
    ensure!(report.overdue.is_empty(), "{report:?}");
    let lost = |signal: &Signal| signal.member == "Lost";
    ensure!(!world.bus().has(place, lost), "the bus was told of a loss");

    // The real loss is told to everyone, each in their own words.
    world.unplug(Unplug::Remove)?;
    for (client, device) in [(&pair.importer, again), (&other, pair.device)] {
        let loss = client.call(Task::AwaitLoss { device })?.loss()?;
        ensure!(loss.cause == Cause::Unplugged, "a client was told {loss:?}");
    }
    world.wait_gone(pair.device)
}

/// busctl of another user.
pub(super) fn as_user(user: &str, device: DeviceId, client: u64) -> Result<Output> {
    let (path, client) = (Bus::device_path(device), client.to_string());
    let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()];
    Command::new("setpriv")
        .args(ids)
        .args(["busctl", "--system", "call", NAME, &path, DEVICE, "Rehearse", "tu", &client, "0"])
        .output()
        .context("setpriv and busctl")
}

/// It must be refused, and say why.
pub(super) fn refused(
    user: &str,
    device: DeviceId,
    client: u64,
    what: &str,
    says: &str,
) -> Result<()> {
    let refused = as_user(user, device, client)?;
    let why = String::from_utf8_lossy(&refused.stderr).trim().to_owned();
    ensure!(!refused.status.success(), "{user} may rehearse for {what}");
    ensure!(why.contains(says), "{user}'s refusal for {what} says: {why}");
    show(format_args!("{user}, {what}: {why}"));
    Ok(())
}

/// While polkit cannot even be started: it has no say in the caller's own clients, nor in what root
/// does.
pub(super) fn who(world: &mut World) -> Result<()> {
    let pair = Pair::new(world)?;
    let (alice, bob) = (client_of(world, &pair.exporter)?, client_of(world, &pair.importer)?);
    let place = world.bus().now();
    let masked = Masked::begin(POLKIT)?;
    let stopped = Command::new("systemctl").args(["stop", POLKIT]).status()?;
    ensure!(stopped.success(), "systemctl stop {POLKIT}: {stopped}");
    for (client, what) in [(alice, "another user's client"), (0, "all clients")] {
        refused("bob", pair.device, client, what, "polkit could not be asked")?;
    }
    let unknown = as_user("bob", pair.device, u64::MAX)?;
    let why = String::from_utf8_lossy(&unknown.stderr).trim().to_owned();
    ensure!(why.contains("there is no client"), "a client that is none: {why}");

    let own = as_user("bob", pair.device, bob)?;
    let why = String::from_utf8_lossy(&own.stderr).trim().to_owned();
    ensure!(own.status.success(), "bob may not rehearse for his own client: {why}");
    let loss = pair.importer.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!((loss.cause, loss.imports) == (Cause::Rehearsed, 0), "it was told {loss:?}");

    // Nothing of what was refused took place.
    unharmed(world, &pair, place)?;

    // What was refused to bob is root's to do.
    rehearse(world, pair.device, alice, 0)?;
    let loss = pair.exporter.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.cause == Cause::Rehearsed, "alice was told {loss:?}");
    masked.end()
}

/// For all that the clients and the bus see, nothing was lost since.
pub(super) fn unharmed(world: &World, pair: &Pair, since: usize) -> Result<()> {
    shares(world, pair)?;
    let lost = |signal: &Signal| signal.member == "Lost";
    ensure!(!world.bus().has(since, lost), "the bus was told of a loss");
    ensure!(world.device(&pair.card)?.id == pair.device, "the device is another one");
    Ok(())
}
