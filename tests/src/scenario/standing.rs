//! What clients say of themselves, and what holds ejects up: on the socket, and on the bus.

use anyhow::{Context, Result, ensure};
use dmashare::{DeviceId, ErrorCode, InhibitMode, LossPolicy};
use zbus::zvariant::{ObjectPath, OwnedFd, OwnedObjectPath};

use crate::bus::{self, Bus};
use crate::{BOUND, Unplug, World};

/// Id, device, mode, why, who, pid, uid.
type Row = (u64, OwnedObjectPath, String, String, String, u32, u32);

fn wait_held(world: &World, wanted: &[(&str, &str)]) -> Result<Vec<Row>> {
    world.bus().until("the inhibitors", BOUND, |bus| {
        let rows: Vec<Row> = bus.broker_property("Inhibitors")?;
        let there = rows.iter().map(|row| (row.2.as_str(), row.3.as_str()));
        Ok(there.eq(wanted.iter().copied()).then_some(rows))
    })
}

fn inhibit(bus: &Bus, device: &str, mode: &str, why: &str) -> Result<OwnedFd, zbus::Error> {
    let body = (ObjectPath::try_from(device)?, mode, "test", why);
    let called = bus.connection().call_method(
        Some(bus::NAME),
        bus::ROOT,
        Some(bus::NAME),
        "Inhibit",
        &body,
    )?;
    called.body().deserialize()
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let client = world.connect("speaker")?;
    let card = world.egpu()?;
    let device = world.arrived(&client, &card)?;
    let pid = std::process::id();
    let said = |on_loss: &str, survives: bool| {
        world.bus().until("what the client declared", BOUND, |bus| {
            let there = (
                bus.client_property::<String>(pid, "speaker", "OnLoss")?,
                bus.client_property::<bool>(pid, "speaker", "SurvivesRemoval")?,
            );
            Ok((there == (Some(on_loss.to_owned()), Some(survives))).then_some(()))
        })
    };
    said("wait", false)?;
    client.declare(LossPolicy::Relaunch, true)?;
    said("relaunch", true)?;
    client.declare(LossPolicy::Ignore, false)?;
    said("ignore", false)?;

    // On the socket: each until it is dropped.
    let delay = client.inhibit(None, InhibitMode::Delay, "saving a file")?;
    let block = client.inhibit(Some(device), InhibitMode::Block, "a recording")?;
    let rows = wait_held(world, &[("delay", "saving a file"), ("block", "a recording")])?;
    ensure!(rows[0].1.as_str() == "/" && rows[1].1.as_str() == Bus::device_path(device));
    ensure!(rows.iter().all(|row| row.4 == "speaker" && row.5 == pid), "{rows:?}");
    delay.release()?;
    drop(block);
    wait_held(world, &[])?;
    let refused = |device, why: &str, code| {
        let error = client.inhibit(device, InhibitMode::Block, why);
        let error = error.err().context("it was taken all the same")?;
        ensure!(error.code() == Some(code), "{error}");
        Ok(())
    };
    refused(None, " ", ErrorCode::BAD_VALUE)?;
    refused(None, "two\nlines", ErrorCode::BAD_VALUE)?;
    refused(None, &"x".repeat(129), ErrorCode::BAD_VALUE)?;
    refused(Some(DeviceId(u64::MAX)), "nothing", ErrorCode::UNKNOWN_DEVICE)?;

    // On the bus: each until its descriptor is closed.
    let failed = |error: zbus::Error| anyhow::anyhow!("Inhibit: {error}");
    let held = inhibit(world.bus(), "/", "delay", "a job").map_err(failed)?;
    let path = Bus::device_path(device);
    let also = inhibit(world.bus(), &path, "block", "a film").map_err(failed)?;
    wait_held(world, &[("delay", "a job"), ("block", "a film")])?;
    drop(held);
    wait_held(world, &[("block", "a film")])?;

    // They hold no pull up, and a lost device's cannot be taken.
    world.unplug(Unplug::Remove)?;
    world.wait_gone(device)?;
    refused(Some(device), "too late", ErrorCode::DEVICE_LOST)?;
    let name = match inhibit(world.bus(), &path, "block", "too late") {
        Err(zbus::Error::MethodError(name, _, _)) => name.to_string(),
        other => anyhow::bail!("a lost device's eject is held up: {other:?}"),
    };
    ensure!(name == "org.dmashare.Error.DeviceLost", "{name}");
    drop(also);
    wait_held(world, &[])?;
    // With its client an inhibitor ends.
    let last = client.inhibit(None, InhibitMode::Block, "the last")?;
    wait_held(world, &[("block", "the last")])?;
    drop((last, client));
    wait_held(world, &[])?;
    Ok(())
}
