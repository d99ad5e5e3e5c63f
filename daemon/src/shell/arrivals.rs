//! Devices that come.

use std::sync::Arc;

use super::{Shared, Shell, poll};
use crate::devices::{DeviceDesc, DeviceSource};

impl Shell {
    pub(super) fn arrived(&mut self, desc: DeviceDesc) {
        let name = desc.name.clone();
        if !self.event(|broker, out| broker.device_added(desc, out)) {
            tracing::error!(
                name,
                "the state page has no room for another device; it is not served"
            );
        }
        self.find_keeper_for_orphans();
    }
}

/// Takes in devices as they come, for ever.
pub(super) async fn follow(shell: Shared, mut source: Box<dyn DeviceSource>) {
    let Some(fd) = source.as_fd().map(|fd| fd.try_clone_to_owned()) else {
        return std::future::pending().await;
    };
    let ready = match fd.and_then(|fd| poll::register(Arc::new(fd))) {
        Ok(ready) => ready,
        Err(error) => {
            tracing::error!(%error, "arrivals of devices cannot be followed");
            return;
        }
    };
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
