//! The last frame is kept: a buffer of the eGPU is copied into a neutral one, by hand and when
//! somebody asks for the card.

use anyhow::{Context, Result, ensure};
use dmashare::{
    Connection, Event, Grant, ImportedBuffer, Importer, NeutralBuffer, Protection, Removal,
};

use super::{read, wait_neutral};
use crate::scenario::local::told;
use crate::{BOUND, Buffer, Unplug, World};
use std::os::fd::AsFd;

/// So narrow that both have other strides: 33 pixels are 132 bytes.
const WIDTH: u32 = 33;
const HEIGHT: u32 = 20;

/// Row after row, pixels alone.
fn pixels(bytes: &[u8], stride: u32) -> Vec<u8> {
    let rows = bytes.chunks(stride as usize).take(HEIGHT as usize);
    rows.flat_map(|row| &row[..WIDTH as usize * 4]).copied().collect()
}

fn of_copy(copy: &NeutralBuffer) -> Result<Vec<u8>> {
    let memory = copy.map(0, Protection::Read)?;
    Ok(pixels(&read(&memory)?, copy.layout().planes[0].stride))
}

fn asked_for(connection: &Connection) -> Result<Removal> {
    loop {
        let events = connection.dispatch(Some(BOUND))?;
        ensure!(!events.is_empty(), "the request was not told");
        for event in events {
            if let Event::RemovalRequested(removal) = event {
                return Ok(removal);
            }
        }
    }
}

fn import(from: &Connection, buffer: &Buffer, to: &Connection) -> Result<ImportedBuffer> {
    let exported = from.export(buffer.node.as_fd(), &buffer.layout, &[buffer.dma_buf.as_fd()])?;
    let token = from.grant(&exported, Grant::default())?;
    Ok(to.import(token, Importer::Cpu)?)
}

pub(in crate::scenario) fn run(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let (producer, compositor) = (world.connect("producer")?, world.connect("compositor")?);
    let device = world.arrived(&compositor, &card)?;
    world.arrived(&producer, &card)?;
    let (frame, other) = (Buffer::make(&card, WIDTH, HEIGHT)?, Buffer::make(&card, WIDTH, HEIGHT)?);
    let (shown, unshown) =
        (import(&producer, &frame, &compositor)?, import(&producer, &other, &compositor)?);
    let stride = frame.layout.planes[0].stride;
    let source = shown.map(0, Protection::ReadWrite)?;
    let bytes = super::pattern(source.len());
    super::write(&source, &bytes)?;
    let expected = pixels(&bytes, stride);

    // By hand.
    let copy = compositor.preserve(&shown)?;
    ensure!(copy.layout().planes[0].stride == 256, "rows of 256 bytes: {:?}", copy.layout());
    ensure!(of_copy(&copy)? == expected, "the copy has other pixels");
    copy.release()?;
    wait_neutral(world, 0, 0)?;

    // When somebody asks for the card: what was asked to be kept, and nothing else.
    shown.preserve_on_request(true);
    unshown.preserve_on_request(true);
    unshown.preserve_on_request(false);
    world.synthetic(&card, "remove")?;
    let removal = asked_for(&compositor)?;
    ensure!(removal.device == device && !removal.why.is_empty(), "{removal:?}");
    let [(id, copy)] = <[_; 1]>::try_from(removal.preserved)
        .map_err(|copies| anyhow::anyhow!("copies of {copies:?}"))?;
    ensure!(id == shown.id(), "{id} was copied, not {}", shown.id());
    let copy = copy?;
    ensure!(asked_for(&producer)?.preserved.is_empty(), "the producer has no imports");
    // The card is there, and all of it works.
    world.wait_counts(device, (2, 2, 0))?;
    ensure!(read(&source)? == bytes, "the request has changed the buffer");
    world.synthetic(&card, "add")?;

    // The last frame outlives the card.
    let memory = copy.map(0, Protection::Read)?;
    world.unplug(Unplug::Remove)?;
    let lost = told(&compositor, device)?;
    ensure!(lost.imports().len() == 2, "{lost:?}");
    lost.acknowledge()?;
    world.wait_gone(device)?;
    ensure!(of_copy(&copy)? == expected, "the copy is gone with the card");
    drop(memory);
    let late = compositor.preserve(&shown).err().context("a copy of what is gone")?;
    ensure!(late.is_device_lost(), "{late}");
    drop(copy);
    // What was made for the copy that did not come about is given back.
    wait_neutral(world, 0, 0)
}
