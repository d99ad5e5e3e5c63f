//! Neutral buffers: what belongs to no GPU stays, with its contents, when one is pulled.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare::{
    Access, Connection, Error, ErrorCode, Grant, ImportedBuffer, Importer, MappedBuffer,
    NeutralBuffer, Protection,
};
use dmashare_uapi::gem::GemHandle;
use drm_fourcc::DrmFourcc;

use super::figures::show;
use super::local::told;
use crate::{BOUND, Role, Unplug, World};

pub(super) mod preserve;

/// So that a quota is soon used up.
pub(super) const SMALL: &str = "[limits]\nneutral_mib_per_uid = 4\n";

pub(super) const SYSTEM_HEAP: &str = "[neutral]\nheap = \"system\"\n";

/// What is on the broker's bus object: neutral buffers and their bytes.
fn wait_neutral(world: &World, buffers: u32, bytes: u64) -> Result<()> {
    world.bus().until("the count of neutral buffers", BOUND, |bus| {
        let there = (bus.broker_property("NeutralBuffers")?, bus.broker_property("NeutralBytes")?);
        Ok((there == (buffers, bytes)).then_some(()))
    })
}

/// A value that differs from pixel to pixel.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8)) as u8).collect()
}

fn write(memory: &MappedBuffer, bytes: &[u8]) -> Result<()> {
    let writing = memory.begin(Access::Write)?;
    memory.copy_from_slice(0, bytes)?;
    Ok(writing.end()?)
}

fn read(memory: &MappedBuffer) -> Result<Vec<u8>> {
    let mut bytes = vec![0; memory.len()];
    let reading = memory.begin(Access::Read)?;
    memory.copy_to_slice(0, &mut bytes)?;
    reading.end()?;
    Ok(bytes)
}

fn hand_over(from: &Connection, buffer: &NeutralBuffer, to: &Connection) -> Result<ImportedBuffer> {
    let token = from.grant(buffer, Grant::default())?;
    Ok(to.import(token, Importer::Cpu)?)
}

/// From udmabuf, where the machine has it.
pub(super) fn run(world: &mut World) -> Result<()> {
    survives(world, if world.is_simulated() { "simulated" } else { "udmabuf" })
}

pub(super) fn system_heap(world: &mut World) -> Result<()> {
    survives(world, "system")
}

/// Made by one, read by another, on its GPU too; the eGPU is pulled, and nothing of it changes.
fn survives(world: &World, heap: &str) -> Result<()> {
    let used: String = world.bus().broker_property("Heap")?;
    ensure!(used == heap, "the broker allocates from {used}, not {heap}");
    let (maker, reader) = (world.connect("maker")?, world.connect("reader")?);
    let card = world.egpu()?;
    let device = world.arrived(&maker, &card)?;
    let buffer = maker.allocate(250, 100, DrmFourcc::Xrgb8888 as u32)?;
    let layout = buffer.layout().clone();
    ensure!((layout.width, layout.height, layout.modifier) == (250, 100, 0), "{layout:?}");
    let plane = layout.planes[0];
    ensure!(plane.stride == 1024 && plane.offset == 0, "rows of 256 bytes: {plane:?}");
    let size = buffer.sizes()[0];
    ensure!(size == 1024 * 100, "a hundred rows are whole pages: {size}");
    wait_neutral(world, 1, size)?;

    let mine = buffer.map(0, Protection::ReadWrite)?;
    ensure!(read(&mine)?.iter().all(|byte| *byte == 0), "new memory is not zero");
    let bytes = pattern(mine.len());
    write(&mine, &bytes)?;
    let import = hand_over(&maker, &buffer, &reader)?;
    ensure!(import.device().is_none() && !import.is_lost(), "{import:?} is of a device");
    let theirs = import.map(0, Protection::Read)?;
    ensure!(read(&theirs)? == bytes, "the reader sees something else");
    importable(world, &import)?;
    // It counts on no device.
    world.wait_counts(device, (0, 0, 0))?;

    world.unplug(Unplug::Remove)?;
    let lost = told(&reader, device)?;
    ensure!(lost.imports().len() == 0 && !lost.is_awaited(), "{lost:?} takes what is neutral");
    drop(told(&maker, device)?);
    world.wait_gone(device)?;
    ensure!(read(&theirs)? == bytes, "the contents are gone with the card");
    let other = pattern(mine.len()).into_iter().map(|byte| !byte).collect::<Vec<_>>();
    write(&mine, &other)?;
    ensure!(read(&theirs)? == other, "sharing has ended with the card");
    importable_on(world, &import, Role::Igpu)?;

    // The import outlives its maker; with it the memory goes.
    drop((mine, buffer, maker));
    ensure!(read(&theirs)? == other, "the contents are gone with the maker");
    wait_neutral(world, 1, size)?;
    drop(theirs);
    import.release()?;
    wait_neutral(world, 0, 0)
}

/// Which of the machine's GPUs take a neutral buffer.
fn importable(world: &World, import: &ImportedBuffer) -> Result<()> {
    if world.is_simulated() {
        return Ok(());
    }
    for role in [Role::Egpu, Role::Igpu, Role::Stay] {
        let card = world.card(role)?;
        let node = card.open()?;
        let taken = import.with_plane_fd(0, |fd| GemHandle::import(node.as_fd(), fd).map(drop))?;
        show(format_args!("{role:?} ({}) imports it: {taken:?}", card.driver));
    }
    importable_on(world, import, Role::Igpu)
}

fn importable_on(world: &World, import: &ImportedBuffer, role: Role) -> Result<()> {
    if world.is_simulated() {
        return Ok(());
    }
    let node = world.card(role)?.open()?;
    import
        .with_plane_fd(0, |fd| GemHandle::import(node.as_fd(), fd).map(drop))?
        .with_context(|| format!("{role:?} does not take a neutral buffer"))
}

/// What a user may have at once, what is impossible, and who leaves.
pub(super) fn quota(world: &mut World) -> Result<()> {
    let xrgb = DrmFourcc::Xrgb8888 as u32;
    let client = world.connect("hoarder")?;
    let refused = |result: Result<NeutralBuffer, Error>, code: ErrorCode, word: &str| {
        let error = result.err().context("it was made all the same")?;
        let is_it = error.code() == Some(code) && error.to_string().contains(word);
        ensure!(is_it, "{error} is not {code:?} about {word:?}");
        Ok(())
    };
    let megabyte = || client.allocate(512, 512, xrgb);
    let held = (0..4).map(|_| megabyte()).collect::<Result<Vec<_>, _>>()?;
    wait_neutral(world, 4, 4 << 20)?;
    let over = ErrorCode::OVER_QUOTA;
    refused(megabyte(), over, "limits.neutral_mib_per_uid = 4 MiB")?;
    // The quota is the user's, not the connection's.
    let again = world.connect("hoarder-again")?;
    refused(again.allocate(1, 1, xrgb), over, "limits.neutral_mib_per_uid")?;
    let mut held = held.into_iter();
    held.next().context("four")?.release()?;
    let more = again.allocate(512, 512, xrgb)?;
    refused(megabyte(), over, "limits.neutral_mib_per_uid")?;

    let layout = ErrorCode::BAD_LAYOUT;
    refused(client.allocate(0, 1, xrgb), layout, "no pixels")?;
    refused(client.allocate(1 << 17, 1, xrgb), layout, "at most")?;
    refused(client.allocate(1, 1, 0x1234_5678), layout, "no DRM format code")?;
    refused(client.allocate(1, 1, DrmFourcc::Nv15 as u32), layout, "no linear layout")?;
    refused(client.allocate(1 << 16, 1 << 16, xrgb), over, "limits.neutral_mib_per_uid")?;

    // It is no GPU's: it cannot be exported as one's.
    let card = world.card(Role::Stay)?;
    if !card.simulated {
        let node = card.open_render()?;
        let exported = more.with_plane_fd(0, |fd| {
            again.export(node.as_fd(), more.layout(), &[fd]).err().map(|error| error.to_string())
        })?;
        let exported = exported.context("a neutral buffer was exported as a GPU's")?;
        ensure!(exported.contains("belongs to no GPU"), "{exported}");
    }
    drop((held, client, more, again));
    wait_neutral(world, 0, 0)
}
