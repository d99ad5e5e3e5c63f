//! The part of a GPU that the demo needs, by an open node of it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use dmashare_uapi::drm_node;
use dmashare_uapi::gem::GemHandle;
use dmashare_uapi::mapping::{Mapping, Prot};

use super::frame::{HEIGHT, WIDTH};
use crate::{Buffer, Source};

/// A handle of another GPU's buffer on this one.
pub type Handle = GemHandle<Arc<OwnedFd>>;

/// A GPU.
pub struct Gpu {
    simulated: bool,
    node: Arc<OwnedFd>,
}

impl Gpu {
    /// Opens its node.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(simulated: bool, node: &Path) -> Result<Self> {
        let fd = if simulated { File::open(node).map(OwnedFd::from) } else { drm_node::open(node) };
        let node = fd.with_context(|| format!("cannot open {}", node.display()))?;
        Ok(Self { simulated, node: Arc::new(node) })
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }

    /// A buffer to draw into.
    ///
    /// # Errors
    /// The driver's.
    pub fn canvas(&self) -> Result<Canvas> {
        let node = self.node.as_fd().try_clone_to_owned()?;
        let buffer = Buffer::make_on(node, self.simulated, WIDTH, HEIGHT)?;
        let len = usize::try_from(buffer.size)?;
        let map = Mapping::map(buffer.dma_buf.as_fd(), 0, len, Prot::ReadWrite)
            .context("cannot map a buffer")?;
        Ok(Canvas { buffer, map })
    }

    /// The fence of work that has begun and is not done.
    ///
    /// # Errors
    /// The kernel's.
    pub fn work(&self) -> Result<Source> {
        Source::endless(self.simulated)
    }

    /// Takes another GPU's buffer in, where there is a driver to do it.
    ///
    /// # Errors
    /// The driver's.
    pub fn take_in(&self, dma_buf: BorrowedFd<'_>) -> Result<Option<Handle>> {
        if self.simulated {
            return Ok(None);
        }
        let handle = GemHandle::import(Arc::clone(&self.node), dma_buf);
        handle.map(Some).context("the importing GPU does not take the buffer")
    }
}

/// A buffer of the GPU's, mapped for drawing.
pub struct Canvas {
    /// The buffer.
    pub buffer: Buffer,
    /// Its bytes.
    pub map: Mapping,
}

impl Canvas {
    /// Bytes from one row to the next.
    #[must_use]
    pub fn stride(&self) -> u32 {
        self.buffer.layout.planes[0].stride
    }
}
