//! Whether the tables agree with each other, asked of what was restored: a record that was cut, changed or
//! lost makes all of it worthless, and is found here and not by whoever trips over it. The model asks after
//! each of its operations, so that nothing is refused which the broker itself has written.

use std::collections::{BTreeSet, HashMap, HashSet};

use dmashare_proto::limits::MAX_PLANES;
use dmashare_proto::message::FenceState;
use dmashare_proto::state_page::{SLOTS, Word};
use dmashare_proto::{DeviceId, ObjectId};

use super::buffers::{Buffer, Cost};
use super::device::Device;
use super::{Broker, Handles, Owned, REPORTS};

/// Bytes of one neutral buffer: what may be configured for all of a user's.
const MOST_BYTES: u64 = 1 << 40;

/// An error with this text, unless it is so.
fn check(is_so: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(text()) }
}

impl<H: Handles> Broker<H> {
    /// # Errors
    /// What does not agree, in words.
    pub(super) fn agree(&self) -> Result<(), String> {
        self.ids_agree()?;
        self.devices_agree()?;
        self.buffers_agree()?;
        self.imports_agree()?;
        self.fences_agree()?;
        self.timelines_agree()?;
        self.tokens_agree()?;
        self.memories_agree()
    }

    /// An id means one thing, and was given out.
    fn ids_agree(&self) -> Result<(), String> {
        let mut known = HashSet::new();
        let mut once = |id: u64, what: &str| {
            check(id != 0 && id < self.ids.next(), || format!("{what} {id} was never given out"))?;
            check(known.insert(id), || format!("{what} {id} is something else, too"))
        };
        for id in self.devices.keys() {
            once(id.0, "device")?;
        }
        let mut owned = HashSet::new();
        for (id, client) in &self.clients {
            once(id.0, "client")?;
            let theirs = client.objects.iter().filter(|(_, what)| !matches!(what, Owned::Lost(_)));
            for (object, _) in theirs {
                check(owned.insert(*object), || format!("object {object} is of two clients"))?;
            }
            // What one client has lost alone is there for others by the same id.
            check(client.objects.keys().all(|object| object.0 < self.ids.next()), || {
                format!("client {id} has an object that was never given out")
            })?;
            let names: HashSet<DeviceId> = client.epochs.theirs.values().copied().collect();
            check(names.len() == client.epochs.theirs.len(), || {
                format!("client {id} knows two devices by one id")
            })?;
            let given = |id: &DeviceId| id.0 < self.ids.next();
            let mut names = client.epochs.theirs.iter();
            check(names.all(|(ours, theirs)| given(ours) && given(theirs)), || {
                format!("client {id} knows a device by an id that was never given out")
            })?;
        }
        for id in self.buffers.iter().map(|(id, _)| id).chain(self.imports.iter().map(|(id, _)| id))
        {
            once(id.0, "buffer or import")?;
        }
        for id in self.fences.iter().map(|(id, _)| id).chain(self.fence_imports.keys()) {
            once(id.0, "fence")?;
        }
        for id in self.timelines.iter().map(|(id, _)| id).chain(self.timeline_imports.keys()) {
            once(id.0, "timeline")?;
        }
        self.inhibitors.keys().try_for_each(|id| once(id.0, "inhibitor"))
    }

    fn devices_agree(&self) -> Result<(), String> {
        for (node, id) in &self.by_node {
            let has = |device: &Device| device.desc.nodes.iter().any(|it| it.id == *node);
            let is_so = self.devices.get(id).is_some_and(|it| it.lost.is_none() && has(it));
            check(is_so, || format!("{node:?} is no node of device {id}"))?;
        }
        let mut slots = BTreeSet::new();
        for (id, device) in &self.devices {
            check(device.slot < SLOTS && device.generation <= Word::MAX_GENERATION, || {
                format!("device {id} is not on the state page")
            })?;
            match device.only_for {
                None => check(slots.insert(device.slot), || {
                    format!("device {id} shares slot {} with another one", device.slot)
                })?,
                Some(client) => {
                    let only = device.imports.iter().filter_map(|import| self.imports.get(import));
                    let is_so = device.lost.is_some() && self.clients.contains_key(&client);
                    check(is_so && only.into_iter().all(|import| import.client == client), || {
                        format!("device {id} is an epoch of client {client}, and is not")
                    })?;
                }
            }
        }
        Ok(())
    }

    fn buffers_agree(&self) -> Result<(), String> {
        for (id, buffer) in self.buffers.iter() {
            let is_used = buffer.exporter.is_some() || !buffer.imports.is_empty();
            check(is_used, || format!("buffer {id} is kept for nobody"))?;
            let planes = buffer.planes.len();
            let is_whole = (1..=MAX_PLANES).contains(&planes) && is_paid(buffer);
            check(is_whole, || {
                format!("buffer {id} has {planes} planes, and costs something else")
            })?;
        }
        Ok(())
    }

    fn imports_agree(&self) -> Result<(), String> {
        for (id, import) in self.imports.iter() {
            let buffer = self.buffers.get(&import.buffer);
            let of = buffer.map(|buffer| buffer.device);
            let device = import.device.and_then(|device| self.devices.get(&device));
            let is_so = match device {
                // An epoch's: the buffer is there for others.
                Some(Device { lost: Some(_), .. }) => true,
                _ => of == Some(import.device),
            };
            check(is_so, || format!("import {id} is of no buffer"))?;
        }
        Ok(())
    }

    fn fences_agree(&self) -> Result<(), String> {
        let mut points = HashMap::<ObjectId, usize>::new();
        for (id, fence) in self.fences.iter() {
            let is_pending = fence.state == FenceState::Pending;
            let is_so = match (&fence.pending, fence.point) {
                (Some(pending), None) => is_pending && pending.fd.is_some(),
                (Some(pending), Some((timeline, point))) => {
                    *points.entry(timeline).or_default() += 1;
                    let known = self.timelines.get(&timeline);
                    let pends = known.is_some_and(|it| it.points.before(point).is_some());
                    is_pending && pending.fd.is_none() && fence.handles.is_empty() && pends
                }
                (None, None) => !is_pending && !fence.handles.is_empty(),
                (None, Some(_)) => false,
            };
            check(is_so, || format!("fence {id} is neither pending nor over"))?;
        }
        for (id, timeline) in self.timelines.iter() {
            let fences = points.remove(id).unwrap_or(0);
            check(timeline.points.pending() == fences, || {
                format!("timeline {id} waits for other fences than there are")
            })?;
        }
        Ok(())
    }

    fn timelines_agree(&self) -> Result<(), String> {
        for (id, timeline) in self.timelines.iter() {
            check(!timeline.is_unused(), || format!("timeline {id} is kept for nobody"))?;
            check(timeline.points.agree(), || format!("the points of timeline {id} are not so"))?;
        }
        Ok(())
    }

    fn tokens_agree(&self) -> Result<(), String> {
        check(self.tokens.agree(), || "a token is of two objects, or of none".to_owned())?;
        for (object, owner, is_lost) in self.tokens.rights() {
            let what = self.clients.get(&owner).and_then(|client| client.objects.get(&object));
            let is_so = match what {
                Some(Owned::Buffer | Owned::Fence | Owned::Timeline) => true,
                Some(Owned::Lost(_)) => is_lost,
                _ => false,
            };
            check(is_so, || format!("a token of object {object} is of somebody who has it not"))?;
        }
        Ok(())
    }

    /// Reports and causes.
    fn memories_agree(&self) -> Result<(), String> {
        let epochs: HashSet<DeviceId> = self.reports.iter().map(|report| report.epoch()).collect();
        let of_one = epochs.len() == self.reports.len() && self.reports.len() <= REPORTS;
        check(of_one, || "there are two reports of a loss, or too many".to_owned())?;
        let given = |id: DeviceId| id.0 < self.ids.next();
        check(epochs.into_iter().all(given), || "a report is of no device".to_owned())?;
        check(self.causes.is_bounded(), || "there are too many causes".to_owned())
    }

    /// Whose connection is served.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn clients(&self) -> Vec<dmashare_proto::ClientId> {
        self.clients.keys().copied().collect()
    }
}

/// What a buffer costs is what it is.
fn is_paid<F>(buffer: &Buffer<F>) -> bool {
    match &buffer.cost {
        Cost::Exported((_, descriptors)) => descriptors.of().1 == buffer.planes.len() as u64,
        Cost::Neutral([bytes, _]) => bytes.of().1 <= MOST_BYTES,
    }
}
