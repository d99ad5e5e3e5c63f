//! Buffers of this process's that others may use.

use std::fmt;

use dmashare_proto::ObjectId;

use crate::device::Device;
use crate::error::Error;
use crate::handle::Handle;

/// A buffer that the broker knows. While this lives, tokens for it can be made. Imports outlive
/// it: a buffer stays until its last import is given back. Dropped, it is given back without
/// waiting.
pub struct ExportedBuffer(pub(crate) Handle);

impl ExportedBuffer {
    /// The broker's id for it.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.0.id
    }

    /// The device that it was made by.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Whether that device is lost: one load.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.device.is_lost()
    }

    /// Gives it back, and waits for the broker.
    ///
    /// # Errors
    /// The request failed. That the device is lost is no failure.
    pub fn release(self) -> Result<(), Error> {
        self.0.release()
    }
}

impl fmt::Debug for ExportedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportedBuffer({} of {:?})", self.id(), self.device())
    }
}

/// What a token can be made for.
pub trait Shared: sealed::Shared {}

impl Shared for ExportedBuffer {}
impl Shared for crate::SharedFence {}

pub(crate) mod sealed {
    use dmashare_proto::ObjectId;

    pub trait Shared {
        fn object(&self) -> ObjectId;
    }

    impl Shared for super::ExportedBuffer {
        fn object(&self) -> ObjectId {
            self.id()
        }
    }

    impl Shared for crate::SharedFence {
        fn object(&self) -> ObjectId {
            self.id()
        }
    }
}
