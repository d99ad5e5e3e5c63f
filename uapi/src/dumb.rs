//! Dumb buffers: linear memory of a display driver, for tests and examples
//! (include/uapi/drm/drm_mode.h).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::{_IOWR, Ioctl};

use crate::gem;
use crate::ioctl::{Retry, check_abi, read_write};

#[repr(C)]
#[derive(Default)]
pub(crate) struct CreateDumbArg {
    height: u32,
    width: u32,
    bpp: u32,
    flags: u32,
    pub(crate) handle: u32,
    pub(crate) pitch: u32,
    pub(crate) size: u64,
}

#[repr(C)]
struct MapDumbArg {
    handle: u32,
    pad: u32,
    offset: u64,
}

const CREATE_DUMB: Ioctl = _IOWR::<CreateDumbArg>(b'd' as u32, 0xb2);
const MAP_DUMB: Ioctl = _IOWR::<MapDumbArg>(b'd' as u32, 0xb3);

check_abi! {
    sizes { CreateDumbArg: 32, MapDumbArg: 16 }
    numbers { CREATE_DUMB: 0xc020_64b2, MAP_DUMB: 0xc010_64b3 }
}

/// A dumb buffer, whose handle is closed when dropped. What was exported lives on.
#[derive(Debug)]
pub struct DumbBuffer<D: AsFd> {
    drm: D,
    handle: u32,
    pitch: u32,
    size: u64,
}

impl<D: AsFd> DumbBuffer<D> {
    /// Makes a buffer of `width` by `height` pixels of `bpp` bits on a **primary** node (a render
    /// node answers EACCES). ENOSYS if the driver has none; ENODEV if the device is unplugged.
    pub fn create(drm: D, width: u32, height: u32, bpp: u32) -> io::Result<Self> {
        let CreateDumbArg { handle, pitch, size, .. } = create(drm.as_fd(), width, height, bpp)?;
        Ok(Self { drm, handle, pitch, size })
    }

    /// A new descriptor of the buffer's dma-buf, readable and writable.
    pub fn export(&self) -> io::Result<OwnedFd> {
        gem::export(self.drm.as_fd(), self.handle)
    }

    /// Where in the DRM file it can be mapped.
    pub fn map_offset(&self) -> io::Result<u64> {
        let mut arg = MapDumbArg { handle: self.handle, pad: 0, offset: 0 };
        // SAFETY: MapDumbArg is the ioctl's structure.
        unsafe { read_write(self.drm.as_fd(), MAP_DUMB, Retry::InterruptedOrAgain, &mut arg)? };
        Ok(arg.offset)
    }

    /// The GEM handle, valid on this DRM file only.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Bytes from one line to the next.
    #[must_use]
    pub fn pitch(&self) -> u32 {
        self.pitch
    }

    /// Bytes in all.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl<D: AsFd> Drop for DumbBuffer<D> {
    fn drop(&mut self) {
        // DRM_IOCTL_MODE_DESTROY_DUMB is the same as closing the handle, in every driver.
        gem::close(self.drm.as_fd(), self.handle);
    }
}

/// The caller owns the handle that comes back.
pub(crate) fn create(
    drm: BorrowedFd<'_>,
    width: u32,
    height: u32,
    bpp: u32,
) -> io::Result<CreateDumbArg> {
    let mut arg = CreateDumbArg { height, width, bpp, ..CreateDumbArg::default() };
    // SAFETY: CreateDumbArg is the ioctl's structure.
    unsafe { read_write(drm, CREATE_DUMB, Retry::InterruptedOrAgain, &mut arg)? };
    Ok(arg)
}
