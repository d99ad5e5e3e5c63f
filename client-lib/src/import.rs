//! Buffers of other processes'.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dmashare_proto::ObjectId;

use crate::device::Device;
use crate::error::Error;
use crate::import_core::ImportCore;
use crate::planes::plane_methods;

/// What will read an imported buffer.
#[derive(Clone, Copy, Debug)]
pub enum Importer<'a> {
    /// The CPU, by mappings.
    Cpu,
    /// A GPU too: an open DRM node of it.
    Device(BorrowedFd<'a>),
}

/// A buffer of another process's, until its device is lost: then its mappings are replaced by zero
/// pages, its fds are closed, and every method that needs them says [`Error::DeviceLost`].
///
/// Dropped, it is given back without waiting, together with the last of its mappings.
pub struct ImportedBuffer(pub(crate) Arc<ImportCore>);

impl ImportedBuffer {
    /// The broker's id for this import.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.0.id
    }

    /// The broker's id for the buffer: equal for all imports of it.
    #[must_use]
    pub fn buffer(&self) -> ObjectId {
        self.0.buffer
    }

    /// The device that it was made by; `None` where it is a neutral one, which no loss takes.
    #[must_use]
    pub fn device(&self) -> Option<&Device> {
        self.0.device.as_ref()
    }

    /// Whether that device is lost: one load.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.device.as_ref().is_some_and(Device::is_lost)
    }

    /// Whether the library is to copy it into a neutral buffer by itself when somebody asks for the
    /// device (before an eject): [`crate::Event::RemovalRequested`] then hands the copy over. The contents
    /// must be complete by then, so it is for buffers whose fences have ended. Not at first.
    pub fn preserve_on_request(&self, preserve: bool) {
        self.0.preserve.store(preserve, Ordering::Relaxed);
    }
}

plane_methods!(ImportedBuffer);

impl fmt::Debug for ImportedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device() {
            Some(device) => write!(f, "ImportedBuffer({} of {device:?})", self.id()),
            None => write!(f, "ImportedBuffer({}, neutral)", self.id()),
        }
    }
}
