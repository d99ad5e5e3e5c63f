//! Devices that come.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

use super::{Shared, Shell, poll};
use crate::devices::{DeviceDesc, DeviceSource};

impl Shell {
    pub(super) fn arrived(&mut self, desc: DeviceDesc) {
        let name = desc.name.clone();
        if !self.event(|broker, out| broker.device_added(desc, out)) {
            tracing::error!(name: "page-full",
                name,
                "the state page has no room for another device; it is not served"
            );
        }
        self.find_keeper_for_orphans();
    }
}

/// What tells that a source has something, registered; `None` where nothing ever comes.
///
/// # Errors
/// It cannot be registered.
pub(super) fn register(source: &dyn DeviceSource) -> io::Result<Option<AsyncFd<Arc<OwnedFd>>>> {
    let Some(fd) = source.as_fd() else { return Ok(None) };
    poll::register(Arc::new(fd.try_clone_to_owned()?)).map(Some)
}

/// Takes in devices as they come, for ever.
pub(super) async fn follow(
    shell: Shared,
    mut source: Box<dyn DeviceSource>,
    ready: Option<AsyncFd<Arc<OwnedFd>>>,
) {
    let Some(ready) = ready else { return std::future::pending().await };
    loop {
        let Ok(mut guard) = ready.readable().await else { return };
        // Cleared first: what comes while the source is read makes it ready again.
        guard.clear_ready();
        match source.arrivals() {
            Ok(devices) => {
                for desc in devices {
                    shell.borrow_mut().arrived(desc);
                }
            }
            Err(error) => tracing::error!(%error, "an arrival could not be read"),
        }
    }
}
