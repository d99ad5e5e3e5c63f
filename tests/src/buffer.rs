//! A buffer that a GPU made, and how its maker reads and writes it.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use dmashare::{Layout, Plane};
use dmashare_uapi::dma_buf::{self, Access};
use dmashare_uapi::dumb::DumbBuffer;
use dmashare_uapi::mapping::{Mapping, Prot};
use dmashare_uapi::sim;

use crate::Card;

/// A linear buffer of 32-bit pixels, with the node that it was made on.
pub struct Buffer {
    /// The node, open.
    pub node: OwnedFd,
    /// The buffer.
    pub dma_buf: OwnedFd,
    /// Its layout, in one plane.
    pub layout: Layout,
    /// Its bytes.
    pub size: u64,
    simulated: bool,
}

impl Buffer {
    /// Has a card make one.
    ///
    /// # Errors
    /// The card is gone, or cannot.
    pub fn make(card: &Card, width: u32, height: u32) -> Result<Self> {
        Self::make_on(card.open()?, card.simulated, width, height)
    }

    /// The same, on a node that is open already.
    ///
    /// # Errors
    /// The card is gone, or cannot.
    pub fn make_on(node: OwnedFd, simulated: bool, width: u32, height: u32) -> Result<Self> {
        let (dma_buf, stride, size) = if simulated {
            let size = u64::from(width) * 4 * u64::from(height);
            (sim::buffer(size)?, width * 4, size)
        } else {
            let dumb =
                DumbBuffer::create(node.as_fd(), width, height, 32).context("dumb buffer")?;
            (dumb.export().context("PRIME export")?, dumb.pitch(), dumb.size())
        };
        let layout = Layout {
            width,
            height,
            fourcc: drm_fourcc::DrmFourcc::Xrgb8888 as u32,
            modifier: 0,
            planes: vec![Plane { offset: 0, stride }],
        };
        Ok(Self { node, dma_buf, layout, size, simulated })
    }

    /// Fills it with one byte's value, as its maker.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn fill(&self, byte: u8) -> Result<()> {
        self.access(Access::Write, |memory| Ok(memory.copy_from(0, &vec![byte; memory.len()])?))
    }

    /// Draws it, as its maker: `pixel` gives the colour (XRGB) at a column and a row.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn draw(&self, pixel: impl Fn(u32, u32) -> u32) -> Result<()> {
        let stride = self.layout.planes[0].stride as usize;
        self.access(Access::Write, |memory| {
            for y in 0..self.layout.height {
                let row: Vec<u8> =
                    (0..self.layout.width).flat_map(|x| pixel(x, y).to_le_bytes()).collect();
                memory.copy_from(y as usize * stride, &row)?;
            }
            Ok(())
        })
    }

    /// How many of its bytes are `byte`, as its maker sees it.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn count(&self, byte: u8) -> Result<u64> {
        self.access(Access::Read, |memory| {
            let mut bytes = vec![0; memory.len()];
            memory.copy_to(0, &mut bytes)?;
            Ok(bytes.into_iter().filter(|&found| found == byte).count() as u64)
        })
    }

    fn access<R>(&self, access: Access, f: impl FnOnce(&Mapping) -> Result<R>) -> Result<R> {
        let fd = self.dma_buf.as_fd();
        let memory = Mapping::map(fd, 0, usize::try_from(self.size)?, Prot::ReadWrite)?;
        if !self.simulated {
            dma_buf::sync_start(fd, access)?;
        }
        let result = f(&memory);
        if !self.simulated {
            dma_buf::sync_end(fd, access)?;
        }
        result
    }
}
