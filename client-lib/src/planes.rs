//! What an imported and a neutral buffer have in common: planes to lend and to map.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use dmashare_uapi::mapping::Prot;
use dmashare_uapi::memfd::page_size;

use crate::error::Error;
use crate::import_core::ImportCore;
use crate::mapped::MappedBuffer;

impl ImportCore {
    pub(crate) fn lend<R>(
        &self,
        plane: usize,
        with: impl FnOnce(BorrowedFd<'_>) -> R,
    ) -> Result<R, Error> {
        self.size(plane)?;
        let fds = self.fds()?;
        Ok(with(fds[plane].as_fd()))
    }

    pub(crate) fn dup(&self, plane: usize) -> Result<OwnedFd, Error> {
        self.lend(plane, |fd| fd.try_clone_to_owned())?
            .map_err(|source| Error::Io { what: "cannot duplicate a plane's fd", source })
    }

    pub(crate) fn map_whole(
        self: &Arc<Self>,
        plane: usize,
        protection: Prot,
    ) -> Result<MappedBuffer, Error> {
        let len = usize::try_from(self.size(plane)?).map_err(|_| {
            Error::InvalidArgument(format!("plane {plane} is larger than the address space"))
        })?;
        self.map_range(plane, 0, len, protection)
    }

    pub(crate) fn map_range(
        self: &Arc<Self>,
        plane: usize,
        offset: u64,
        len: usize,
        protection: Prot,
    ) -> Result<MappedBuffer, Error> {
        let size = self.size(plane)?;
        if len == 0 || offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(Error::InvalidArgument(format!(
                "{len} bytes at {offset} do not lie inside the {size} of plane {plane}"
            )));
        }
        if !offset.is_multiple_of(page_size() as u64) {
            return Err(Error::InvalidArgument(format!(
                "the offset {offset} is no multiple of the page size {}",
                page_size()
            )));
        }
        let mapping = self.map(plane, offset, len, protection)?;
        Ok(MappedBuffer::new(mapping, plane, Arc::clone(self)))
    }

    /// Gives back what a handle stands for, and waits for the broker.
    pub(crate) fn give_back(this: Arc<Self>) -> Result<(), Error> {
        match Arc::try_unwrap(this) {
            Ok(mut core) => core.release(),
            Err(shared) => Err(Error::InvalidArgument(format!(
                "buffer {} has mappings; it is given back with the last of them",
                shared.id
            ))),
        }
    }

    fn size(&self, plane: usize) -> Result<u64, Error> {
        self.sizes.get(plane).copied().ok_or_else(|| {
            Error::InvalidArgument(format!(
                "buffer {} has {} planes, so no plane {plane}",
                self.id,
                self.sizes.len()
            ))
        })
    }
}

/// Methods of a type whose one field is an `Arc<ImportCore>`.
macro_rules! plane_methods {
    ($type:ident) => {
        impl $type {
            /// Size, format and planes.
            #[must_use]
            pub fn layout(&self) -> &dmashare_proto::message::Layout {
                &self.0.layout
            }

            /// Bytes of each plane's dma-buf.
            #[must_use]
            pub fn sizes(&self) -> &[u64] {
                &self.0.sizes
            }

            /// Whether CPU access needs DMA_BUF_IOCTL_SYNC, which [`crate::MappedBuffer::begin`] then
            /// issues.
            #[must_use]
            pub fn needs_cpu_sync(&self) -> bool {
                self.0.cpu_sync
            }

            /// Lends a plane's dma-buf to `with`, for a PRIME or EGL import. A loss meanwhile leaves it
            /// open until `with` returns, so that should not wait for anything.
            ///
            /// # Errors
            /// [`Error::DeviceLost`]; [`Error::InvalidArgument`] for a plane that there is not.
            pub fn with_plane_fd<R>(
                &self,
                plane: usize,
                with: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> R,
            ) -> Result<R, Error> {
                self.0.lend(plane, with)
            }

            /// A plane's dma-buf as an fd of the caller's own, which no revocation closes: close it
            /// when the device is lost, before the loss is acknowledged.
            ///
            /// # Errors
            /// As [`Self::with_plane_fd`], and the kernel's (EMFILE).
            pub fn dup_plane_fd(&self, plane: usize) -> Result<std::os::fd::OwnedFd, Error> {
                self.0.dup(plane)
            }

            /// Maps a plane's whole dma-buf.
            ///
            /// # Errors
            /// As [`Self::map_range`].
            pub fn map(
                &self,
                plane: usize,
                protection: crate::Protection,
            ) -> Result<crate::MappedBuffer, Error> {
                self.0.map_whole(plane, protection)
            }

            /// Maps `len` bytes of a plane's dma-buf from `offset`, a multiple of the page size.
            ///
            /// # Errors
            /// [`Error::DeviceLost`]; [`Error::InvalidArgument`] for what lies not inside the plane;
            /// the kernel's, of the exporting driver's mmap.
            pub fn map_range(
                &self,
                plane: usize,
                offset: u64,
                len: usize,
                protection: crate::Protection,
            ) -> Result<crate::MappedBuffer, Error> {
                self.0.map_range(plane, offset, len, protection)
            }

            /// Gives it back, and waits for the broker.
            ///
            /// # Errors
            /// [`Error::InvalidArgument`] while mappings of it live: it is given back with the last of
            /// them. Or the request failed; that the device is lost is no failure.
            pub fn release(self) -> Result<(), Error> {
                crate::import_core::ImportCore::give_back(self.0)
            }
        }
    };
}
pub(crate) use plane_methods;
