//! An object of the broker's that this process has to give back.

use std::sync::Arc;

use dmashare_proto::{ErrorCode, ObjectId, Request};

use crate::device::Device;
use crate::error::Error;
use crate::inner::Inner;

impl Inner {
    /// Gives an object back. One that its device's loss has taken already is as good as given.
    pub(crate) fn release(self: &Arc<Self>, id: ObjectId, device: &Device) -> Result<(), Error> {
        match self.tell(&Request::Release(id)) {
            Err(Error::Broker(error))
                if matches!(error.code, ErrorCode::UNKNOWN_OBJECT | ErrorCode::DEVICE_LOST)
                    && device.is_lost() =>
            {
                Ok(())
            }
            result => result,
        }
    }
}

/// Gives its object back once: by `release`, which says how it went, or when dropped, which waits
/// for nothing.
pub(crate) struct Handle {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: ObjectId,
    pub(crate) device: Device,
    returned: bool,
}

impl Handle {
    pub(crate) fn new(inner: &Arc<Inner>, id: ObjectId, device: Device) -> Self {
        Self { inner: Arc::clone(inner), id, device, returned: false }
    }

    pub(crate) fn release(mut self) -> Result<(), Error> {
        self.returned = true;
        self.inner.release(self.id, &self.device)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.returned {
            self.inner.channel.post(&Request::Release(self.id));
        }
    }
}
