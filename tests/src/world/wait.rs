//! What is waited for.

use std::time::Instant;

use anyhow::{Result, bail};
use dmashare::{Connection, DeviceId};
use dmashare_proto::report::{Step, UnplugReport};

use super::{BOUND, World};
use crate::{Card, bus};

impl World {
    /// Waits until the broker has told a client of a card that came; gives its id.
    ///
    /// # Errors
    /// It has not in time; it came with other nodes.
    pub fn arrived(&self, watcher: &Connection, card: &Card) -> Result<DeviceId> {
        let end = Instant::now() + BOUND;
        loop {
            let found = watcher
                .devices()?
                .into_iter()
                .find(|info| !info.device.is_lost() && info.pci == card.pci);
            if let Some(info) = found {
                let nodes = card.nodes.iter().map(|node| node.to_string_lossy());
                if !info.nodes.iter().cloned().eq(nodes) {
                    bail!("{card:?} came with the nodes {:?}", info.nodes);
                }
                return Ok(info.device.id());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the broker did not tell of {card:?} within {BOUND:?}");
            }
            watcher.dispatch(Some(left))?;
        }
    }

    /// Waits until a device of the broker's is as wanted; `None` is one that is gone.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_device(
        &self,
        id: DeviceId,
        what: &str,
        is: impl Fn(Option<&bus::Device>) -> bool,
    ) -> Result<()> {
        self.bus.until(what, BOUND, |bus| Ok(is(bus.device(id)?.as_ref()).then_some(())))
    }

    /// Waits until a device has these numbers of buffers, imports and fences.
    ///
    /// # Errors
    /// It has not in time.
    pub fn wait_counts(&self, id: DeviceId, counts: (u32, u32, u32)) -> Result<()> {
        self.wait_device(id, &format!("(buffers, imports, fences) = {counts:?}"), |device| {
            device.is_some_and(|device| device.counts() == counts)
        })
    }

    /// Waits until a present device's counts are as wanted.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_counts_of(&self, id: DeviceId, are: impl Fn(&bus::Device) -> bool) -> Result<()> {
        self.wait_device(id, "the counts that the scenario wants", |device| {
            device.is_some_and(&are)
        })
    }

    /// Waits until nothing of a device is left: its object is gone.
    ///
    /// # Errors
    /// It is still there after the bound.
    pub fn wait_gone(&self, id: DeviceId) -> Result<()> {
        self.wait_device(id, &format!("device {id} is gone"), |device| device.is_none())
    }

    /// The report of a device's unplug, once it has a step.
    ///
    /// # Errors
    /// It has it not in time.
    pub fn report_with(&self, id: DeviceId, step: Step) -> Result<UnplugReport> {
        let what = format!("a report on device {id} with the step {:?}", step.name());
        self.bus.until(&what, BOUND, |bus| {
            Ok(bus.report(id).ok().filter(|report| report.at(step).is_some()))
        })
    }
}
