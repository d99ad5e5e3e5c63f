//! Buffers of this process's that others may use.

use std::fmt;

use dmashare_proto::ObjectId;

use crate::device::Device;
use crate::error::Error;
use crate::handle::{Handle, handle_methods};

/// A buffer that the broker knows. While this lives, tokens for it can be made. Imports outlive
/// it: a buffer stays until its last import is given back. Dropped, it is given back without
/// waiting.
pub struct ExportedBuffer(pub(crate) Handle);

handle_methods!(ExportedBuffer, 0, "The device that it was made by.");

impl fmt::Debug for ExportedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportedBuffer({} of {:?})", self.id(), self.device())
    }
}
