//! What clients do in a cycle.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use dmashare::{
    Access, Connection, ExportedBuffer, Grant, ImportedBuffer, ImportedFence, Importer,
    MappedBuffer, Protection, SharedFence,
};
use drm_fourcc::DrmFourcc;

use crate::scenario::local::{Local, ends_well};
use crate::{Buffer, Source};

/// What one has who stays over the unplug.
pub(super) struct Stay {
    pub local: Local,
    pub fence: ImportedFence,
    import: ImportedBuffer,
    memory: MappedBuffer,
    export: ExportedBuffer,
    shared: SharedFence,
    source: Source,
    buffer: Buffer,
}

impl Stay {
    /// Has one of each.
    pub fn begin(local: Local, simulated: bool) -> Result<Self> {
        let buffer = Buffer::make(&local.card, 32, 32)?;
        let planes = [buffer.dma_buf.as_fd()];
        let export = local.exporter.export(buffer.node.as_fd(), &buffer.layout, &planes)?;
        let token = local.exporter.grant(&export, Grant::default())?;
        let import = local.importer.import(token, Importer::Cpu)?;
        let memory = import.map(0, Protection::Read)?;
        let source = Source::endless(simulated)?;
        let shared = local.share(source.fd())?;
        let fence = local.import(&shared)?;
        Ok(Self { local, fence, import, memory, export, shared, source, buffer })
    }

    /// Checks that all of it is known to be lost.
    pub fn is_lost(&mut self) -> Result<()> {
        ensure!(self.memory.begin(Access::Read).is_err(), "memory of a card that is gone");
        ensure!(self.import.is_lost() && self.export.is_lost(), "objects of a card that is gone");
        Ok(())
    }
}

/// Comes, uses a buffer and a fence, and goes.
pub(super) fn come_and_go(local: Local, simulated: bool) -> Result<()> {
    let mut stay = Stay::begin(local, simulated)?;
    stay.buffer.fill(0x5c)?;
    let mut bytes = vec![0; stay.memory.len()];
    let reading = stay.memory.begin(Access::Read)?;
    stay.memory.copy_to_slice(0, &mut bytes)?;
    reading.end()?;
    ensure!(bytes.iter().filter(|byte| **byte == 0x5c).count() >= 32 * 32 * 4, "other contents");
    ensure!(!stay.shared.query()?.is_ended(), "a fence has ended by itself");
    stay.source.signal()?;
    ends_well(&stay.fence)
}

/// Clients that have nothing to do with the card, one after the other; each of them has something.
pub(super) fn pass_by(socket: &Path, over: &AtomicBool, passers: &AtomicU64) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        let connection = Connection::builder().name("passes by").connect_to(socket)?;
        connection.devices()?;
        let neutral = connection.allocate(16, 16, DrmFourcc::Xrgb8888 as u32)?;
        connection.grant(&neutral, Grant::default())?;
        passers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
