//! A device that hangs, as its driver says, and is still there.

use std::collections::HashMap;

use dmashare_proto::limits::MAX_NAME;
use dmashare_proto::message::{Cause, DeviceWedged, Event, FenceState};
use dmashare_proto::{ClientId, DeviceId, ObjectId};
use dmashare_uapi::wedged::Wedged;

use super::fences::Fence;
use super::{Broker, Effect, Effects, Handles};

/// What a driver said, and what the reactor did about it before it told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wedge {
    /// The methods of recovery in the driver's order, with commas. The broker uses none of them.
    pub recovery: String,
    /// Whether the driver has recovered the device itself.
    pub has_recovered: bool,
    /// Who is blamed, or empty.
    pub task: String,
    /// Whether the event was asked for by writing to sysfs.
    pub injected: bool,
    /// When it was read, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// The fences whose guards were ended.
    pub fences: Vec<ObjectId>,
}

impl Wedge {
    /// Before anything is done about it. A task's name is whatever the task likes, so it is made fit
    /// for a message and a log.
    #[must_use]
    pub fn new(said: &Wedged<'_>) -> Self {
        Self {
            recovery: shown(said.recovery),
            has_recovered: said.has_recovered(),
            task: shown(said.task.unwrap_or_default()),
            injected: said.injected,
            at_ns: 0,
            fences: Vec::new(),
        }
    }
}

fn shown(text: &str) -> String {
    let mut shown = String::new();
    for ch in text.chars() {
        let ch = if ch.is_control() { '?' } else { ch };
        if shown.len() + ch.len_utf8() > MAX_NAME {
            break;
        }
        shown.push(ch);
    }
    shown
}

impl<H: Handles> Broker<H> {
    /// A device is wedged: its guards have ended, and everyone is told. It stays present and usable,
    /// since it may recover; what was passed through of it stays pending until its driver ends it.
    pub fn device_wedged(&mut self, id: DeviceId, wedge: &Wedge, out: &mut Effects<H>) {
        let Some(device) = self.devices.get_mut(&id).filter(|device| device.lost.is_none()) else {
            return;
        };
        device.wedged.clone_from(&wedge.recovery);
        self.dirty_devices.insert(id);
        self.notes.device(id);
        let mut of = HashMap::<ClientId, u32>::new();
        let mut ended = 0;
        for &fence in &wedge.fences {
            let Some(known) = self.fences.get(&fence) else { continue };
            let owners = self.owners_of(known);
            let failed = FenceState::Failed { cause: Cause::Wedged, at_ns: wedge.at_ns };
            if self.end_fence(fence, failed) {
                ended += 1;
                for client in owners {
                    *of.entry(client).or_default() += 1;
                }
            }
        }
        for (&client, known) in &self.clients {
            if known.greeted {
                let event = DeviceWedged {
                    device: id,
                    at_ns: wedge.at_ns,
                    recovery: wedge.recovery.clone(),
                    task: wedge.task.clone(),
                    fences: of.get(&client).copied().unwrap_or(0),
                };
                out.push(Effect::event(client, Event::DeviceWedged(event)));
            }
        }
        if let Some(view) = self.device_view(id).map(Box::new) {
            out.push(Effect::TellWedged {
                view,
                recovery: wedge.recovery.clone(),
                task: wedge.task.clone(),
                injected: wedge.injected,
                fences: ended,
            });
        }
        self.after(out);
    }

    /// Who has a fence: an entry each handle, of a point each handle on its timeline.
    fn owners_of(&self, fence: &Fence<H::Fd>) -> Vec<ClientId> {
        let timeline = fence.point.and_then(|(timeline, _)| self.timelines.get(&timeline));
        let of_point = timeline
            .into_iter()
            .flat_map(|it| it.importers.iter().map(|(client, _)| *client).chain(it.maker));
        fence.handles.iter().map(|(client, _)| *client).chain(of_point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit_to_be_shown() {
        assert_eq!(shown("glx\x1b[31m\ngears"), "glx?[31m?gears");
        assert_eq!(shown(&"x".repeat(1000)).len(), MAX_NAME);
        assert_eq!(shown(&"ä".repeat(1000)).len(), MAX_NAME);
    }
}
