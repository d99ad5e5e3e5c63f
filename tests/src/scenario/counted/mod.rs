//! What a share, a fence and an access cost: counts, which are the same on any machine, and are held against what
//! they may be. Who adds to one has a reason for it, and writes that down; who takes away writes the lower
//! number down.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use dmashare::{FenceOptions, Grant, Importer};

use super::figures::{note, show};
use super::local::{Local, ends_well};
use crate::{Buffer, Source, World};

mod allocations;
mod calls;
mod instructions;

pub(super) use allocations::{fence as allocations_of_a_fence, share as allocations_of_a_share};
pub(super) use calls::{fence as calls_of_a_fence, share as calls_of_a_share};
pub(super) use instructions::{fence as instructions_of_a_fence, share as instructions_of_a_share};

/// What is done over and over, and the two who do it.
struct Work {
    local: Local,
    what: What,
}

enum What {
    /// A buffer is exported, imported by its token, and let go of by both.
    Share(Buffer),
    /// A fence is shared, imported by its token, ends, and is let go of by both.
    Fence { node: OwnedFd, simulated: bool },
}

impl Work {
    fn share(world: &World) -> Result<Self> {
        let local = Local::new(world)?;
        let what = What::Share(Buffer::make(&local.card, 16, 16)?);
        Ok(Self { local, what })
    }

    fn fence(world: &World) -> Result<Self> {
        let local = Local::new(world)?;
        let what = What::Fence { node: local.card.open_render()?, simulated: world.is_simulated() };
        Ok(Self { local, what })
    }

    fn name(&self) -> &'static str {
        match self.what {
            What::Share(_) => "a share",
            What::Fence { .. } => "a fence",
        }
    }

    fn once(&self) -> Result<()> {
        let Local { exporter, importer, .. } = &self.local;
        let grant = Grant::default();
        match &self.what {
            What::Share(buffer) => {
                let (node, planes) = (buffer.node.as_fd(), [buffer.dma_buf.as_fd()]);
                let (export, token) =
                    exporter.export_granted(node, &buffer.layout, &planes, grant)?;
                drop(importer.import(token, Importer::Cpu)?);
                drop(export);
                Ok(())
            }
            What::Fence { node, simulated } => {
                let mut source = Source::endless(*simulated)?;
                let options = FenceOptions::default();
                let (_shared, token) =
                    exporter.share_fence_granted(node.as_fd(), source.fd(), options, grant)?;
                let fence = importer.import_fence(token)?;
                source.signal()?;
                ends_well(&fence)
            }
        }
    }

    /// So often, and until the broker has answered everything: what was let go of without an answer is by
    /// then.
    fn times(&self, times: usize) -> Result<()> {
        (0..times).try_for_each(|_| self.once())?;
        self.local.importer.devices()?;
        self.local.exporter.devices().map(drop).context("the last answer")
    }
}

/// Shows a count, and holds it against what it may be.
fn no_more(what: &str, of: &str, each: f64, most: f64) -> Result<()> {
    show(format_args!("{of}: {each:.1} {what}"));
    note(&format!("{what} of the broker's, {of}"), each);
    ensure!(each <= most, "{of} costs {each:.1} {what}, not {most} at most");
    Ok(())
}
