//! An object of the broker's that this process has to give back.

use std::sync::Arc;

use dmashare_proto::message::DeviceAt;
use dmashare_proto::{ErrorCode, ObjectId, Request};

use crate::device::Device;
use crate::error::Error;
use crate::inner::Inner;

impl Inner {
    /// Gives an object back. One that its device's loss has taken already is as good as given.
    pub(crate) fn release(
        self: &Arc<Self>,
        id: ObjectId,
        device: Option<&Device>,
    ) -> Result<(), Error> {
        match self.tell(&Request::Release(id)) {
            Err(Error::Broker(error))
                if matches!(error.code, ErrorCode::UNKNOWN_OBJECT | ErrorCode::DEVICE_LOST)
                    && device.is_some_and(Device::is_lost) =>
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
    /// A slot beyond the state page is the broker's mistake.
    pub(crate) fn new(inner: &Arc<Inner>, id: ObjectId, at: DeviceAt) -> Result<Self, Error> {
        let device = Device::new(&inner.page, at)?;
        Ok(Self { inner: Arc::clone(inner), id, device, returned: false })
    }

    pub(crate) fn release(mut self) -> Result<(), Error> {
        self.returned = true;
        self.inner.release(self.id, Some(&self.device))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.returned {
            self.inner.channel.post(&Request::Release(self.id));
        }
    }
}

/// What every type around a [`Handle`] has. `$handle` is its field, `$device` says what the device is
/// to it.
macro_rules! handle_methods {
    ($type:ident, $handle:tt, $device:literal) => {
        impl $type {
            /// The broker's id for it.
            #[must_use]
            pub fn id(&self) -> ObjectId {
                self.$handle.id
            }

            #[doc = $device]
            #[must_use]
            pub fn device(&self) -> &Device {
                &self.$handle.device
            }

            /// Whether that device is lost: one load.
            #[must_use]
            pub fn is_lost(&self) -> bool {
                self.$handle.device.is_lost()
            }

            /// Gives it back, and waits for the broker.
            ///
            /// # Errors
            /// The request failed. That the device is lost is no failure.
            pub fn release(self) -> Result<(), Error> {
                // The rest of it, with its fds, is dropped before the broker is told.
                let handle = {
                    let this = self;
                    this.$handle
                };
                handle.release()
            }
        }

        impl $crate::object::sealed::Object for $type {
            fn object(&self) -> ObjectId {
                self.id()
            }
        }
    };
}
pub(crate) use handle_methods;
