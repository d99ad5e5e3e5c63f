//! Somebody asks for a device that is still there.

use std::sync::Arc;

use dmashare_proto::message::RemovalRequested;
use dmashare_proto::{DeviceId, ObjectId};

use crate::connection::Connection;
use crate::error::Error;
use crate::import::ImportedBuffer;
use crate::inner::Inner;
use crate::neutral::NeutralBuffer;

/// Somebody asks that a device be let go of: by a synthetic `remove` uevent, or before an eject. The
/// device is present, and everything of it works: what is to be kept can be moved.
#[derive(Debug)]
#[non_exhaustive]
pub struct Removal {
    /// Which device.
    pub device: DeviceId,
    /// Who asks, in words.
    pub why: String,
    /// The imports that [`ImportedBuffer::preserve_on_request`] was called for, and what became of each:
    /// a copy, or why there is none.
    pub preserved: Vec<(ObjectId, Result<NeutralBuffer, Error>)>,
}

impl Removal {
    /// Makes the copies that are wanted, which asks the broker for memory.
    pub(crate) fn answer(inner: &Arc<Inner>, request: RemovalRequested) -> Self {
        let RemovalRequested { device, why } = request;
        let connection = Connection::of(inner);
        let wanted = inner.imports.to_preserve(device).into_iter().map(ImportedBuffer);
        let preserved = wanted.map(|import| (import.id(), connection.preserve(&import))).collect();
        Self { device, why, preserved }
    }
}
