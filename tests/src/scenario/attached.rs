//! A guard in a buffer's reservation object, for importers that know implicit sync only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmashare::{Access, Cause, Error, ErrorCode, FenceOptions, FenceStatus, Grant, Importer};
use dmashare_uapi::dma_buf::{self, Access as Implicit};
use dmashare_uapi::sync_file::{self, Status};

use crate::{BOUND, Backend, Buffer, Source, Unplug, World};

/// What an importer that reads implicitly has to wait for now.
fn pending_in(dma_buf: BorrowedFd<'_>) -> Result<(OwnedFd, bool)> {
    let sync_file = dma_buf::export_sync_file(dma_buf, Implicit::Read)?;
    let is_pending = sync_file::status(sync_file.as_fd())? == Status::Pending;
    Ok((sync_file, is_pending))
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let (maker, other) = (world.connect("exporter")?, world.connect("importer")?);
    let buffer = Buffer::make(&card, 32, 32)?;
    let planes = [buffer.dma_buf.as_fd()];
    let export = maker.export(buffer.node.as_fd(), &buffer.layout, &planes)?;
    let import = other.import(maker.grant(&export, Grant::default())?, Importer::Cpu)?;
    let node = card.open()?;
    let share =
        |source: &Source| maker.share_fence(node.as_fd(), source.fd(), FenceOptions::default());

    let mut source = Source::endless(false)?;
    let fence = share(&source)?;
    ensure!(!pending_in(buffer.dma_buf.as_fd())?.1, "something is pending before");
    maker.attach(&fence, &export, Access::Write)?;
    let (before, is_pending) = pending_in(buffer.dma_buf.as_fd())?;
    ensure!(is_pending, "nothing is pending in the reservation object");
    // poll on the dma-buf itself, as implicit importers do.
    ensure!(
        !sync_file::wait(buffer.dma_buf.as_fd(), Some(Duration::ZERO))?,
        "the dma-buf is readable while the guard is pending"
    );
    source.signal()?;
    ensure!(sync_file::wait(before.as_fd(), Some(BOUND))?, "the guard did not end");
    ensure!(!pending_in(buffer.dma_buf.as_fd())?.1, "it is pending after the source's end");
    // It has ended: nothing is to be put there, and nobody waits.
    maker.attach(&fence, &export, Access::Write)?;

    // An importer may as well, with a fence that it imported.
    let source = Source::endless(false)?;
    let fence = share(&source)?;
    let imported = other.import_fence(maker.grant(&fence, Grant::default())?)?;
    other.attach(&imported, &import, Access::Write)?;
    let (before, is_pending) = pending_in(buffer.dma_buf.as_fd())?;
    ensure!(is_pending, "nothing is pending in the reservation object");
    // Objects of another kind, and of another client.
    let wrong = other.attach(&imported, &export, Access::Write).err();
    let code = wrong.as_ref().and_then(Error::code);
    ensure!(code == Some(ErrorCode::UNKNOWN_OBJECT), "another client's buffer: {wrong:?}");

    world.unplug(Unplug::Remove)?;
    ensure!(sync_file::wait(before.as_fd(), Some(BOUND))?, "the guard outlived the device");
    let status = sync_file::status(before.as_fd())?;
    match world.backend() {
        Backend::SwSync => {
            ensure!(status == Status::Error(libc::ENOENT), "what was exported before: {status:?}");
        }
        _ => ensure!(status == Status::Signalled, "what was exported before: {status:?}"),
    }
    ensure!(!pending_in(buffer.dma_buf.as_fd())?.1, "it is pending after the unplug");
    ensure!(sync_file::wait(buffer.dma_buf.as_fd(), Some(BOUND))?, "the dma-buf is not readable");
    let end = imported.wait(Some(BOUND))?;
    let FenceStatus::Failed(error) = end else { anyhow::bail!("the fence ended as {end:?}") };
    ensure!(error.cause == Some(Cause::Unplugged), "{error:?}");
    let late = other.attach(&imported, &import, Access::Write).err().context("on a lost buffer")?;
    ensure!(late.code() == Some(ErrorCode::DEVICE_LOST), "{late}");
    ensure!(source.status()? == Status::Pending, "the source ended; this shows nothing");
    Ok(())
}
