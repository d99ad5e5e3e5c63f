//! What calls take: objects of the broker's, whatever handle they are in.

use crate::export::ExportedBuffer;
use crate::fence::{ImportedFence, SharedFence};
use crate::import::ImportedBuffer;
use crate::neutral::NeutralBuffer;
use crate::timeline::Timeline;

/// What a token can be made for.
pub trait Shared: sealed::Object {}

impl Shared for ExportedBuffer {}
impl Shared for NeutralBuffer {}
impl Shared for SharedFence {}
/// One that this process made; the broker refuses an imported one.
impl Shared for Timeline {}

/// A fence, shared or imported.
pub trait Fence: sealed::Object {}

impl Fence for SharedFence {}
impl Fence for ImportedFence {}

/// A buffer: exported, imported, or neutral.
pub trait Buffer: sealed::Object {}

impl Buffer for ExportedBuffer {}
impl Buffer for ImportedBuffer {}
impl Buffer for NeutralBuffer {}

pub(crate) mod sealed {
    use dmashare_proto::ObjectId;

    pub trait Object {
        fn object(&self) -> ObjectId;
    }

    impl Object for super::NeutralBuffer {
        fn object(&self) -> ObjectId {
            self.id()
        }
    }

    impl Object for super::ImportedBuffer {
        fn object(&self) -> ObjectId {
            self.id()
        }
    }
}
