//! Descriptors of every other kind, offered as a dma-buf, as a sync_file and as a DRM node.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use dmashare_proto::message::{Import, Importer, Policy, Request};
use dmashare_proto::{ErrorCode, Token};

use crate::hostile::objects::{export, share_fence};
use crate::hostile::{Bystanders, Raw, expect, menagerie};
use crate::scenario::figures::show;
use crate::{Buffer, Role, Source, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let card = world.egpu()?;
        let good = Good {
            buffer: Buffer::make(&card, 16, 16)?,
            fence: Source::endless(world.is_simulated())?,
            simulated: world.is_simulated(),
        };
        let mut raw = Raw::hello(&world.socket(), "menagerie")?;
        let mut offered = 0;
        for beast in menagerie::all()? {
            offered += good.offer(&mut raw, beast.fd.as_fd(), beast.called).context(beast.name)?;
        }
        good.offer_good_ones_elsewhere(&mut raw)?;
        // None of it was held against the client.
        let exported = raw.export(&good.buffer)?;
        raw.release(exported.buffer)?;
        show(format_args!("{offered} offers refused"));
        Ok(())
    })?;
    pair.undisturbed(world)
}

struct Good {
    buffer: Buffer,
    fence: Source,
    simulated: bool,
}

impl Good {
    /// Offers a descriptor as each of the three things that it is not.
    fn offer(&self, raw: &mut Raw, fd: BorrowedFd<'_>, called: &str) -> Result<u32> {
        self.as_dma_buf(raw, fd, called).context("as a dma-buf")?;
        let fds = [self.buffer.node.as_fd(), fd];
        let error = raw.refused(&share_fence(Policy::Auto), &fds)?;
        expect(&error, ErrorCode::WRONG_FD, &["a sync_file", called]).context("as a sync_file")?;
        self.as_node(raw, fd, called).context("as a DRM node")?;
        Ok(5)
    }

    fn as_dma_buf(&self, raw: &mut Raw, fd: BorrowedFd<'_>, called: &str) -> Result<()> {
        let request = export(&self.buffer.layout);
        let error = raw.refused(&request, &[self.buffer.node.as_fd(), fd])?;
        expect(&error, ErrorCode::WRONG_FD, &["a dma-buf", called])
    }

    fn as_node(&self, raw: &mut Raw, fd: BorrowedFd<'_>, called: &str) -> Result<()> {
        let by_device = Import { token: Token([7; 16]), by: Importer::Device };
        for (request, fds) in [
            (export(&self.buffer.layout), vec![fd, self.buffer.dma_buf.as_fd()]),
            (share_fence(Policy::Pass), vec![fd, self.fence.fd()]),
            (Request::Import(by_device), vec![fd]),
        ] {
            let error = raw.refused(&request, &fds)?;
            // A simulated node is a file, so a file is a node there, of no device that is known; and
            // a token that is wrong is named where both are.
            let known = [ErrorCode::UNKNOWN_DEVICE, ErrorCode::BAD_TOKEN];
            if !(self.simulated && known.contains(&error.code)) {
                expect(&error, ErrorCode::WRONG_FD, &["a DRM node", called])
                    .context(request.name())?;
            }
        }
        Ok(())
    }

    /// Good ones in each other's place.
    fn offer_good_ones_elsewhere(&self, raw: &mut Raw) -> Result<()> {
        let (node, dma_buf) = (self.buffer.node.as_fd(), self.buffer.dma_buf.as_fd());
        let fence = self.fence.fd();
        self.as_dma_buf(raw, node, "").context("a node as a dma-buf")?;
        self.as_dma_buf(raw, fence, "").context("a fence as a dma-buf")?;
        for (fd, what) in [(node, "a node"), (dma_buf, "a dma-buf")] {
            let error = raw.refused(&share_fence(Policy::Auto), &[node, fd])?;
            expect(&error, ErrorCode::WRONG_FD, &["a sync_file"]).context(what)?;
        }
        for (fd, what) in [(fence, "a fence"), (dma_buf, "a dma-buf")] {
            self.as_node(raw, fd, "").with_context(|| format!("{what} as a DRM node"))?;
        }
        Ok(())
    }
}
