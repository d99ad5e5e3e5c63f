//! A client that never acknowledges a loss: named, with what it holds, and met by the policy.

use anyhow::{Context, Result, ensure};
use dmashare_proto::report::{Overdue, Step};
use dmashare_proto::{DeviceId, Token};
use std::os::unix::process::ExitStatusExt;

use crate::hostile::python::Python;
use crate::hostile::{Bystanders, Raw};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Buffer, Role, Unplug, World};

pub(super) const REPORT: &str = "[broker]\nack_timeout_ms = 400\noverdue = \"report\"\n";
pub(super) const DISCONNECT: &str = "[broker]\nack_timeout_ms = 400\noverdue = \"disconnect\"\n";
pub(super) const KILL: &str = "[broker]\nack_timeout_ms = 400\noverdue = \"kill\"\n";

pub(super) fn run_report(world: &mut World) -> Result<()> {
    meet(world, "report", |world, sloth, device| {
        // It stays connected, and the device is not gone while it does.
        let lost = world.bus().device(device)?.context("the device is gone")?;
        ensure!(lost.state == "lost" && lost.imports == 1, "the device is {lost:?}");
        let status = sloth.finish()?;
        ensure!(status.success(), "it was disturbed: {status}");
        Ok(())
    })
}

pub(super) fn run_disconnect(world: &mut World) -> Result<()> {
    meet(world, "disconnect", |_, mut sloth, _| {
        let said = sloth.says_field("failed")?.to_string();
        ensure!(said.contains("closed the connection"), "it said {said}");
        let status = sloth.ends()?;
        ensure!(status.code() == Some(3), "it ended with {status}");
        Ok(())
    })
}

pub(super) fn run_kill(world: &mut World) -> Result<()> {
    meet(world, "kill", |_, mut sloth, _| {
        let status = sloth.ends()?;
        ensure!(status.signal() == Some(libc::SIGKILL), "it ended with {status}");
        Ok(())
    })
}

/// Another process takes a buffer, keeps it after the loss, and is met.
fn meet(
    world: &World,
    policy: &str,
    then: impl FnOnce(&World, Python, DeviceId) -> Result<()>,
) -> Result<()> {
    let pair = Bystanders::start(world, Role::Stay)?;
    pair.meanwhile(|| {
        let card = world.egpu()?;
        let device = world.device(&card)?.id;
        let mut owner = Raw::hello(&world.socket(), "owner")?;
        let buffer = Buffer::make(&card, 16, 16)?;
        let object = owner.export(&buffer)?.buffer;
        let token = hex(owner.grant(object, 1)?);
        let arguments = ["import", &token, "--no-acknowledge"];
        let sloth = Python::start(&world.socket(), "sloth", &arguments, &[])?;
        sloth.says_field("import")?;
        drop(buffer);

        world.unplug(Unplug::Remove)?;

        let said = sloth.says_field("event")?;
        ensure!(said == "DeviceLost", "it was told {said}");
        let entry = named(world, device)?;
        show(format_args!("{entry:?}"));
        ensure!(entry.pid == sloth.process().0, "not {} but {entry:?}", sloth.process().0);
        ensure!(entry.name == "sloth", "its name is {:?}", entry.name);
        ensure!(entry.action == policy, "the policy is {policy}, and {entry:?}");
        let held = entry.holds.iter().any(|it| it.starts_with("fd ") && it.contains("dma-buf"));
        ensure!(held, "what it holds is not named: {entry:?}");
        then(world, sloth, device)?;
        world.wait_gone(device)?;
        let report = world.report_with(device, Step::Gone)?;
        ensure!(report.overdue.len() == 1, "named more than once: {:?}", report.overdue);
        note("gone after, µs", report.micros(Step::Gone).unwrap_or(0));
        world.replug()?;
        Ok(())
    })?;
    pair.undisturbed(world)
}

fn named(world: &World, device: DeviceId) -> Result<Overdue> {
    world.bus().until("a late client in the report", BOUND, |bus| {
        Ok(bus.report(device).ok().and_then(|report| report.overdue.first().cloned()))
    })
}

fn hex(token: Token) -> String {
    token.0.iter().map(|byte| format!("{byte:02x}")).collect()
}
