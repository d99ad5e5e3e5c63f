//! Scenario 11: A fence in the reservation object of an exported buffer: nobody can end it from here, so
//! the report names it.

use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use dmashare::{Event, Grant, Importer};
use dmashare_proto::report::Step;
use dmashare_uapi::dma_buf::{self, Access};
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::vgem::Vgem;

use crate::clock::{human, now_ns};
use crate::scenario::figures::show;
use crate::{BOUND, Buffer, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    let connection = world.connect("exporter and importer")?;
    let buffer = Buffer::make(&card, 32, 32)?;
    let planes = [buffer.dma_buf.as_fd()];
    let export = connection.export(buffer.node.as_fd(), &buffer.layout, &planes)?;
    let token = connection.grant(&export, Grant::default())?;
    let import = connection.import(token, Importer::Cpu)?;

    let vgem = Arc::new(Vgem::open().context("vgem")?);
    let fence = vgem.attach_to_dma_buf(buffer.dma_buf.as_fd(), true)?;
    let attached = dma_buf::export_sync_file(buffer.dma_buf.as_fd(), Access::Write)?;

    world.unplug(Unplug::Remove)?;
    ensure!(
        sync_file::status(attached.as_fd())? == Status::Pending,
        "the implicit fence ended by the unplug"
    );
    // The import is not acknowledged yet, so the device is still on the bus.
    world.wait_device(device, "the implicit fence is counted", |device| {
        device.is_some_and(|device| device.state == "lost" && device.implicit_fences == 1)
    })?;
    let report = world.report_with(device, Step::FdsDropped)?;
    let [found] = &report.implicit[..] else { anyhow::bail!("one was to be named: {report:?}") };
    ensure!(found.buffer == export.id(), "it is named at another buffer: {found:?}");
    ensure!(found.driver == "vgem" && !found.timeline.is_empty(), "it is named as {found:?}");
    ensure!(found.seen_ns <= now_ns() && found.ended_ns.is_none(), "its age: {found:?}");
    show(format_args!(
        "implicit fence of buffer {}: driver {}, timeline {}, pending for {} at least",
        found.buffer,
        found.driver,
        found.timeline,
        human(now_ns() - found.seen_ns)
    ));

    fence.signal()?;
    let ended = world.bus().until("the end of the implicit fence", BOUND, |bus| {
        Ok(bus.report(device)?.implicit.first().and_then(|fence| fence.ended_ns))
    })?;
    ensure!(ended >= found.seen_ns, "it ended before it was seen");
    let mut lost = false;
    while !lost {
        let events = connection.dispatch(Some(BOUND))?;
        ensure!(!events.is_empty(), "the loss was not told");
        lost = events.iter().any(|event| matches!(event, Event::DeviceLost(_)));
    }
    drop(import);
    world.wait_gone(device)
}
