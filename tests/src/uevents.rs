//! The kernel's events, as a test sees them: with the times at which they came.

use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dmashare_uapi::sync_file;
use dmashare_uapi::uevent::KernelUevents;

use crate::clock::now_ns;

/// An event.
#[derive(Clone, Debug)]
pub struct Seen {
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// `add`, `remove`, …
    pub action: String,
    /// Below /sys.
    pub devpath: String,
    /// `drm`, `pci`, …
    pub subsystem: String,
}

type Shared = Arc<(Mutex<Vec<Seen>>, Condvar)>;

/// Everything that the kernel has told since this was made.
pub struct Uevents(Shared);

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    /// There is no such socket here.
    pub fn listen() -> Result<Self> {
        let socket = KernelUevents::open().context("the kernel's uevents")?;
        let shared = Shared::default();
        let log = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            let mut buffer = vec![0; dmashare_uapi::uevent::MESSAGE_MAX];
            // Ends with the listener, at the latest a second after it.
            while let Some(log) = log.upgrade() {
                while let Ok(Some(event)) = socket.recv(&mut buffer) {
                    let seen = Seen {
                        at_ns: now_ns(),
                        action: event.action.to_owned(),
                        devpath: event.devpath.to_owned(),
                        subsystem: event.subsystem.to_owned(),
                    };
                    log.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
                    log.1.notify_all();
                }
                drop(log);
                // It polls for POLLIN, of whatever kind the descriptor is.
                if sync_file::wait(socket.as_fd(), Some(Duration::from_secs(1))).is_err() {
                    return;
                }
            }
        });
        Ok(Self(shared))
    }

    /// The first event that matches, waiting for it.
    ///
    /// # Errors
    /// None came in time.
    pub fn wait(&self, what: &str, bound: Duration, is: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let end = Instant::now() + bound;
        let mut log = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(seen) = log.iter().find(|seen| is(seen)) {
                return Ok(seen.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no uevent for {what} within {bound:?}");
            }
            log = self.0.1.wait_timeout(log, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether an event that matches has come by now.
    #[must_use]
    pub fn has(&self, is: impl Fn(&Seen) -> bool) -> bool {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(is)
    }

    /// `remove` of a folder in sysfs.
    ///
    /// # Errors
    /// None came in time.
    pub fn wait_removed(&self, devpath: &str, bound: Duration) -> Result<Seen> {
        self.wait(&format!("remove of {devpath}"), bound, |seen| {
            seen.action == "remove" && seen.devpath == devpath
        })
    }
}
