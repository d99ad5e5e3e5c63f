//! Neutral buffers on a machine where memfds stand for dma-bufs.

use std::io;
use std::os::fd::OwnedFd;

use dmashare_uapi::sim;

use super::Heap;

/// Memfds.
pub struct Simulated;

impl Heap for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn alloc(&self, size: u64) -> io::Result<OwnedFd> {
        sim::buffer(size)
    }

    /// They are plain memory everywhere.
    fn cpu_sync(&self) -> bool {
        false
    }
}
