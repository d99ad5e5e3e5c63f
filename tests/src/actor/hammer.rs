//! Calls without a pause, of which each is to succeed, or to fail because the device is lost.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use dmashare::{
    Cause, Connection, Error, ErrorCode, ExportedBuffer, FenceOptions, FenceStatus, Grant, Grantee,
    ImportedBuffer, ImportedFence, Importer, SharedFence, Token,
};
use serde::{Deserialize, Serialize};

use crate::{BOUND, Buffer, Card, Source};

/// Objects of each kind that are kept at a time; older ones are given back.
const KEPT: usize = 24;
/// Rounds after the loss was first met, all of which have to fail.
const AFTER: u32 = 20;

/// What became of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls that succeeded.
    pub succeeded: u32,
    /// Calls that failed because the device is lost.
    pub lost: u32,
    /// Objects that were there at the loss, each of which turned out to be swept.
    pub swept: u32,
    /// Fences that had ended by themselves before it.
    pub ended: u32,
}

/// What was made.
#[derive(Default)]
struct Kept {
    imports: VecDeque<ImportedBuffer>,
    fences: VecDeque<ImportedFence>,
    exports: VecDeque<ExportedBuffer>,
    shared: VecDeque<(SharedFence, Source)>,
}

/// A call that succeeded, or met the loss; anything else is a failure of the test.
fn count<T>(tally: &mut Tally, what: &str, result: Result<T, Error>) -> Result<Option<T>> {
    match result {
        Ok(value) => {
            tally.succeeded += 1;
            Ok(Some(value))
        }
        Err(error) if error.is_device_lost() => {
            tally.lost += 1;
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("{what}: neither done nor device-lost")),
    }
}

pub(super) fn hammer(
    connection: &Connection,
    card: &Card,
    rounds: Option<u32>,
    foreign: Option<&str>,
) -> Result<Tally> {
    let foreign: Option<Token> = foreign.map(str::parse).transpose()?;
    let (mut tally, mut kept) = (Tally::default(), Kept::default());
    // Opened once: an unplugged node cannot be opened any more, but it is still a node.
    let first = Buffer::make(card, 16, 16)?;
    let mut left = rounds.unwrap_or(u32::MAX);
    while left > 0 {
        let lost = tally.lost;
        round(connection, &first, card.simulated, foreign, &mut tally, &mut kept)?;
        left -= 1;
        if lost == 0 && tally.lost > 0 && rounds.is_none() {
            left = AFTER;
        }
    }
    if tally.lost > 0 {
        check_swept(&mut tally, kept)?;
    }
    Ok(tally)
}

fn round(
    connection: &Connection,
    first: &Buffer,
    simulated: bool,
    foreign: Option<Token>,
    tally: &mut Tally,
    kept: &mut Kept,
) -> Result<()> {
    let node = first.node.as_fd();
    let grant = Grant { to: Grantee::Anyone, ..Grant::default() };
    // A card that was pulled makes no more buffers; what is left of it still does for an export.
    let made = Buffer::make_on(node.try_clone_to_owned()?, simulated, 16, 16);
    let buffer = made.as_ref().unwrap_or(first);
    let export = connection.export(node, &buffer.layout, &[buffer.dma_buf.as_fd()]);
    if let Some(export) = count(tally, "export", export)? {
        if let Some(token) = count(tally, "grant", connection.grant(&export, grant))? {
            let import = connection.import(token, Importer::Cpu);
            kept.imports.extend(count(tally, "import", import)?);
        }
        kept.exports.push_back(export);
    }
    if let Some(token) = foreign {
        match connection.import(token, Importer::Cpu) {
            // The other process is through, and has taken its buffer along.
            Err(error) if error.code() == Some(ErrorCode::BAD_TOKEN) => {}
            result => kept.imports.extend(count(tally, "import of another's", result)?),
        }
    }
    let source = Source::vgem(simulated)?;
    let shared = connection.share_fence(node, source.fd(), FenceOptions::default());
    if let Some(fence) = count(tally, "share a fence", shared)? {
        if let Some(token) = count(tally, "grant a fence", connection.grant(&fence, grant))? {
            let import = connection.import_fence(token);
            kept.fences.extend(count(tally, "import a fence", import)?);
        }
        kept.shared.push_back((fence, source));
    }
    give_back(tally, kept)
}

fn give_back(tally: &mut Tally, kept: &mut Kept) -> Result<()> {
    while kept.imports.len() > KEPT {
        if let Some(import) = kept.imports.pop_front() {
            count(tally, "release an import", import.release())?;
        }
    }
    while kept.fences.len() > KEPT {
        if let Some(fence) = kept.fences.pop_front() {
            count(tally, "release a fence", fence.release())?;
        }
    }
    while kept.exports.len() > KEPT {
        if let Some(export) = kept.exports.pop_front() {
            count(tally, "release a buffer", export.release())?;
        }
    }
    while kept.shared.len() > KEPT {
        if let Some((fence, mut source)) = kept.shared.pop_front() {
            source.signal()?;
            count(tally, "release a shared fence", fence.release())?;
        }
    }
    Ok(())
}

/// Everything that was made in time belongs to the lost device, and was taken back.
fn check_swept(tally: &mut Tally, kept: Kept) -> Result<()> {
    for import in &kept.imports {
        if !import.is_lost() || import.dup_plane_fd(0).is_ok() {
            bail!("{import:?} was imported, and is still there");
        }
        tally.swept += 1;
    }
    for export in &kept.exports {
        if !export.is_lost() {
            bail!("{export:?} was exported, and is still there");
        }
        tally.swept += 1;
    }
    for fence in &kept.fences {
        match fence.wait(Some(BOUND)).context("wait for a guard")? {
            FenceStatus::Failed(error) if error.errno() == libc::ENODEV => {
                if error.cause.is_some_and(|cause| cause != Cause::Unplugged) {
                    bail!("a fence ended with the cause {:?}", error.cause);
                }
                tally.swept += 1;
            }
            // The kernel ends a vgem source by itself after 10 s.
            FenceStatus::Ok { .. } => tally.ended += 1,
            other => bail!("a fence of a lost device is {other:?}"),
        }
    }
    // Sources that are still pending say that nobody but the broker has ended the guards.
    drop(kept.shared);
    Ok(())
}
