//! What goes on with devices, for who watches: how much was made of each, and how long its fences pend.

use dmashare_proto::activity::Activity;

use super::{Broker, Handles};

/// What was made of a device so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Made {
    pub buffers: u64,
    pub imports: u64,
    pub fences: u64,
}

impl<H: Handles> Broker<H> {
    /// Of each device that is there.
    #[must_use]
    pub fn activity(&self, now_ns: u64) -> Vec<Activity> {
        let there = self.present().filter_map(|id| Some((id, self.devices.get(&id)?)));
        there
            .map(|(id, device)| {
                let made = device.made;
                let mut activity = Activity {
                    device: id.0,
                    buffers: made.buffers,
                    imports: made.imports,
                    fences: made.fences,
                    ..Activity::default()
                };
                let fences = device.fences.iter().filter_map(|fence| self.fences.get(fence));
                for pending in fences.filter_map(|fence| fence.pending.as_ref()) {
                    activity.pends(now_ns.saturating_sub(pending.since_ns));
                }
                activity
            })
            .collect()
    }
}
