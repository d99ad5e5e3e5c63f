//! An actor's connection, and the thread that serves its events.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};
use dmashare::{Connection, DeviceId, Event};

use super::Loss;
use super::objects::Objects;
use crate::BOUND;
use crate::clock::now_ns;

/// What was lost.
#[derive(Default)]
pub(super) struct Losses {
    seen: Mutex<HashMap<DeviceId, Loss>>,
    more: Condvar,
}

impl Losses {
    /// Waits for one.
    pub fn wait(&self, device: DeviceId) -> Result<Loss> {
        let end = Instant::now() + BOUND;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(&loss) = seen.get(&device) {
                return Ok(loss);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the loss of device {device} was not told within {BOUND:?}");
            }
            seen = self.more.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Serves events until the connection is closed. A loss is taken care of as a program is to: its
/// own handles first, then the acknowledgement.
pub(super) fn serve(connection: &Connection, objects: &Objects, losses: &Arc<Losses>) {
    while let Ok(events) = connection.dispatch(None) {
        for event in events {
            let Event::DeviceLost(lost) = event else { continue };
            let told_ns = now_ns();
            let loss = Loss {
                device: lost.device(),
                cause: lost.cause(),
                at_ns: u64::try_from(lost.at().as_nanos()).unwrap_or(u64::MAX),
                told_ns,
                imports: lost.imports().len(),
                buffers: lost.buffers(),
                fences: lost.fences(),
            };
            objects.drop_gem_handles(loss.device);
            drop(lost);
            losses.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(loss.device, loss);
            losses.more.notify_all();
        }
    }
}
