//! What the examples have in common: buffers of a GPU, made as simply as the kernel allows.

pub mod gpus;
pub mod peer;
pub mod vulkan;
pub mod window;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use dmashare::{Layout, Plane};
use drm::buffer::Buffer as _;
use drm::control::Device as _;
use drm_fourcc::DrmFourcc;

/// An open primary node: the one that makes dumb buffers, which every driver with a screen has.
pub struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for Card {}
impl drm::control::Device for Card {}

impl Card {
    /// Opens it.
    ///
    /// # Errors
    /// The card is not there, or one may not.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.with_context(|| format!("open {}", path.display()))?))
    }

    /// A linear XRGB8888 buffer of it, as a dma-buf.
    ///
    /// # Errors
    /// The card is gone, or out of memory.
    pub fn buffer(&self, width: u32, height: u32) -> Result<(OwnedFd, Layout)> {
        let dumb = self
            .create_dumb_buffer((width, height), DrmFourcc::Xrgb8888, 32)
            .context("make a dumb buffer")?;
        let (handle, stride) = (dumb.handle(), dumb.pitch());
        let fd = self.buffer_to_prime_fd(handle, drm::CLOEXEC | drm::RDWR).context("export it")?;
        // The dma-buf holds the memory from here.
        self.destroy_dumb_buffer(dumb).context("give the handle back")?;
        let layout = Layout {
            width,
            height,
            fourcc: DrmFourcc::Xrgb8888 as u32,
            modifier: 0,
            planes: vec![Plane { offset: 0, stride }],
        };
        Ok((fd, layout))
    }
}
