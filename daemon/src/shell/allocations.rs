//! Neutral buffers are made beside the main thread: the kernel clears their pages, which takes its time
//! for large ones. One after the other, in the order in which they were asked for.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::{ErrorCode, WireError};
use tokio::sync::mpsc::UnboundedReceiver;

use super::Shared;
use super::beside::beside;
use crate::core::{Allocation, CheckedPlane};
use crate::heap::{Heaps, Made};

/// Makes what is asked for, until nobody can ask any more.
pub(super) async fn make(
    shell: Shared,
    heaps: Arc<Heaps>,
    mut wanted: UnboundedReceiver<Allocation>,
) {
    while let Some(allocation) = wanted.recv().await {
        let size = allocation.size;
        let heaps = Arc::clone(&heaps);
        let made = beside("heap", move || heaps.alloc(size)).await;
        let made = made.unwrap_or_else(|error| {
            Err(WireError::new(ErrorCode::INTERNAL, format!("it failed: {error}")).errno(&error))
        });
        let mut shell = shell.borrow_mut();
        let made = made.and_then(|made| shell.looked_at(made));
        shell.event(|broker, out| broker.allocated(allocation, made, out));
    }
}

impl super::Shell {
    fn looked_at(&self, made: Made) -> Result<(CheckedPlane<Arc<OwnedFd>>, bool), WireError> {
        let Made { fd, cpu_sync } = made;
        let found = self.machine.dma_buf(fd.as_fd())?;
        let (inode, size, exporter) = (found.inode, found.size, found.exporter);
        Ok((CheckedPlane { fd: Arc::new(fd), inode, size, exporter }, cpu_sync))
    }
}
