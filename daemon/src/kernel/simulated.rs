//! The same questions on a machine where files stand for nodes, memfds for dma-bufs, and eventfds
//! for fences.

use std::os::fd::BorrowedFd;

use dmashare_proto::WireError;
use dmashare_uapi::sim;
use dmashare_uapi::sync_file::Status;

use super::{DmaBuf, internal, look, wrong};
use crate::devices::NodeId;

pub(super) fn node(fd: BorrowedFd<'_>) -> Result<NodeId, WireError> {
    match sim::node_id(fd).map_err(|error| internal(&error))? {
        Some(id) => Ok(NodeId(id.dev, id.ino)),
        None => Err(wrong("a DRM node (simulated: a file)", &look(fd)?)),
    }
}

pub(super) fn dma_buf(fd: BorrowedFd<'_>) -> Result<DmaBuf, WireError> {
    match sim::buffer_id(fd).map_err(|error| internal(&error))? {
        Some(id) if id.size == sim::FAULTY => panic!("a buffer that was made for this"),
        Some(id) => Ok(DmaBuf { inode: id.inode, size: id.size, exporter: "drm".to_owned() }),
        None => Err(wrong("a dma-buf (simulated: its memfd)", &look(fd)?)),
    }
}

pub(super) fn fence(fd: BorrowedFd<'_>) -> Result<Status, WireError> {
    match sim::is_fence(fd).map_err(|error| internal(&error))? {
        true => sim::status(fd).map_err(|error| internal(&error)),
        false => Err(wrong("a sync_file (simulated: an eventfd)", &look(fd)?)),
    }
}
