//! The bodies of messages about neutral buffers: memory of the broker's own, which belongs to no GPU.

use serde::{Deserialize, Serialize};

use crate::ids::ObjectId;
use crate::message::Layout;

/// A neutral buffer to make, linear, with the alignment that GPUs want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocate {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// A DRM format code (`drm_fourcc.h`).
    pub fourcc: u32,
}

/// A neutral buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocated {
    /// The new buffer.
    pub buffer: ObjectId,
    /// Size and layout, chosen by the broker.
    pub layout: Layout,
    /// Bytes of each plane's dma-buf.
    pub sizes: Vec<u64>,
    /// Whether CPU access is to be bracketed by DMA_BUF_IOCTL_SYNC.
    pub cpu_sync: bool,
}
