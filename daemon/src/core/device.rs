//! Devices: their arrival, their slots on the state page, and their end.

use std::collections::HashSet;
use std::sync::Arc;

use dmashare_proto::holders::{LookFor, Node};
use dmashare_proto::message::{Cause, DeviceAt, DeviceInfo, Event, GuardKind, RemovalRequested};
use dmashare_proto::report::Step;
use dmashare_proto::state_page::{DeviceState, SLOTS, Word};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, WireError};

use super::activity::Made;
use super::{Broker, Effect, Effects, Handles, Standing};
use crate::devices::{DeviceDesc, NodeDesc, NodeId};
use crate::gate::Gate;
use crate::view::Counts;

/// A device in the tables, from its arrival until it is *Gone*.
#[derive(Debug)]
pub(super) struct Device {
    pub desc: DeviceDesc,
    pub gate: Arc<Gate>,
    pub slot: u32,
    pub generation: u32,
    /// Set when the loss was handled here; the gate is closed before.
    pub lost: Option<Cause>,
    /// It is about to be ejected.
    pub draining: bool,
    pub made: Made,
    /// What its driver last named as recovery from a hang; empty until then.
    pub wedged: String,
    pub buffers: HashSet<ObjectId>,
    pub imports: HashSet<ObjectId>,
    pub fences: HashSet<ObjectId>,
    pub timelines: HashSet<ObjectId>,
    /// When the late ones are met by the policy, CLOCK_MONOTONIC in nanoseconds.
    pub ack_deadline_ns: Option<u64>,
    pub acknowledged: bool,
    /// What this client alone lost of a device that goes on for all others: it has no slot of its own.
    pub only_for: Option<ClientId>,
}

impl Device {
    pub fn state(&self) -> DeviceState {
        match (self.gate.is_lost(), self.draining) {
            (true, _) => DeviceState::Lost,
            (false, true) => DeviceState::Draining,
            (false, false) => DeviceState::Present,
        }
    }

    fn at(&self, id: DeviceId) -> DeviceAt {
        // The word as it was when the device came: a holder compares the page with it, so one
        // that is told of a device which was lost in this instant sees that at once.
        let word = Word::new(self.generation, DeviceState::Present);
        DeviceAt { device: id, slot: self.slot, word }
    }

    /// For the reactor, which watches its removal.
    pub fn watch<H: Handles>(&self, id: DeviceId) -> Effect<H> {
        Effect::AddDevice {
            device: id,
            desc: self.desc.clone(),
            gate: Arc::clone(&self.gate),
            slot: self.slot,
            word: Word::new(self.generation, DeviceState::Present),
        }
    }

    pub fn info(&self, id: DeviceId) -> DeviceInfo {
        DeviceInfo {
            at: self.at(id),
            state: self.state(),
            driver: self.desc.driver.clone(),
            pci: self.desc.pci.clone(),
            nodes: self.desc.nodes.iter().map(|node| node.devname.clone()).collect(),
            removable: self.desc.removable,
        }
    }
}

/// Which slots of the state page are in use, and how often each was.
#[derive(Debug)]
pub(super) struct Slots {
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { generations: vec![0; SLOTS as usize], free: (0..SLOTS).rev().collect() }
    }
}

impl Slots {
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    fn take(&mut self) -> Option<(u32, u32)> {
        let slot = self.free.pop()?;
        let generation = &mut self.generations[slot as usize];
        *generation += 1;
        Some((slot, *generation))
    }

    #[cfg(test)]
    pub fn generation(&self, slot: u32) -> u32 {
        self.generations[slot as usize]
    }

    /// As they were in another life of the service: the generations are those on the state page.
    pub fn put_back(&mut self, generation: impl Fn(u32) -> u32, used: &HashSet<u32>) {
        self.generations = (0..SLOTS).map(generation).collect();
        let free = (0..SLOTS).rev().filter(|slot| {
            !used.contains(slot) && self.generations[*slot as usize] < Word::MAX_GENERATION
        });
        self.free = free.collect();
    }

    fn give_back(&mut self, slot: u32) {
        // A slot whose generations are used up is retired: a kept word must never match again.
        if self.generations[slot as usize] < Word::MAX_GENERATION {
            self.free.push(slot);
        }
    }

    #[cfg(test)]
    pub fn all_free(&self) -> bool {
        self.free.len() == SLOTS as usize
    }
}

impl<H: Handles> Broker<H> {
    /// A device has come, or has got another node. `false` if the state page has no room for it.
    pub fn device_added(&mut self, desc: DeviceDesc, out: &mut Effects<H>) -> bool {
        let known = self.devices.iter().find_map(|(&id, device)| {
            (device.desc.parent_devpath == desc.parent_devpath && !device.gate.is_lost())
                .then_some(id)
        });
        let (id, is_new) = match known {
            Some(id) => {
                if self.devices[&id].desc == desc {
                    return true;
                }
                (id, false)
            }
            None => {
                let Some((slot, generation)) = self.slots.take() else { return false };
                let id = self.ids.device();
                let device = Device {
                    desc: desc.clone(),
                    gate: Arc::default(),
                    slot,
                    generation,
                    lost: None,
                    draining: false,
                    made: Made::default(),
                    wedged: String::new(),
                    buffers: HashSet::new(),
                    imports: HashSet::new(),
                    fences: HashSet::new(),
                    timelines: HashSet::new(),
                    ack_deadline_ns: None,
                    acknowledged: false,
                    only_for: None,
                };
                let word = Word::new(generation, DeviceState::Present);
                out.push(Effect::Publish { slot, device: id, word });
                self.devices.insert(id, device);
                (id, true)
            }
        };
        for node in &desc.nodes {
            self.by_node.insert(node.id, id);
            self.lost_nodes.remove(&node.id);
        }
        if let Some(device) = self.devices.get_mut(&id) {
            device.desc = desc;
            out.push(device.watch(id));
        }
        self.dirty_devices.insert(id);
        self.notes.device(id);
        if is_new {
            let info = self.devices[&id].info(id);
            self.broadcast(&Event::DeviceAdded(info), out);
        }
        self.after(out);
        true
    }

    /// Somebody wants a device that is still there to be let go of (a synthetic `remove`).
    pub fn removal_requested(&mut self, device: DeviceId, why: String, out: &mut Effects<H>) {
        // An eject has said so already, and speaks to those who follow udev by this very event.
        if self.devices.get(&device).is_none_or(|it| it.lost.is_some() || it.draining) {
            return;
        }
        self.broadcast(
            &Event::RemovalRequested(RemovalRequested { device, why: why.clone() }),
            out,
        );
        out.push(Effect::TellRemovalRequested(device, why));
    }

    /// An eject begins: clients are asked to let go, and nothing new is made of the device. All that is
    /// there goes on.
    pub fn drain(&mut self, id: DeviceId, why: String, out: &mut Effects<H>) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.lost.is_some() || std::mem::replace(&mut device.draining, true) {
            return;
        }
        self.dirty_devices.insert(id);
        self.notes.device(id);
        out.push(Effect::Stand(id, Standing::Draining));
        self.broadcast(
            &Event::RemovalRequested(RemovalRequested { device: id, why: why.clone() }),
            out,
        );
        out.push(Effect::TellRemovalRequested(id, why));
    }

    /// The eject does not take place: the device is *Present*, as before.
    pub fn undrain(&mut self, id: DeviceId, out: &mut Effects<H>) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.lost.is_some() || !std::mem::replace(&mut device.draining, false) {
            return;
        }
        self.dirty_devices.insert(id);
        self.notes.device(id);
        out.push(Effect::Stand(id, Standing::Present));
        self.broadcast(&Event::DeviceStays(id), out);
    }

    /// Refuses what would be new on a device that is about to be ejected.
    pub(super) fn takes_new(&self, id: DeviceId) -> Result<(), WireError> {
        if self.devices.get(&id).is_none_or(|device| device.lost.is_some() || !device.draining) {
            return Ok(());
        }
        let text = format!(
            "device {id} is about to be ejected, and nothing new is made of it; what is there goes on. \
             Use another device, or try again if it stays"
        );
        Err(WireError::new(ErrorCode::DRAINING, text).about(id.0))
    }

    /// What a look at a device's holders needs to know; `None` once it is lost.
    #[must_use]
    pub fn look_for(&self, id: DeviceId) -> Option<LookFor> {
        let device = self.devices.get(&id).filter(|device| device.lost.is_none())?;
        let planes = device.buffers.iter().filter_map(|buffer| self.buffers.get(buffer));
        let mut buffers: Vec<u64> =
            planes.flat_map(|buffer| buffer.planes.iter().map(|plane| plane.inode)).collect();
        buffers.sort_unstable();
        buffers.dedup();
        let node = |node: &NodeDesc| Node {
            path: node.devname.clone(),
            major: node.id.0,
            minor: node.id.1,
        };
        Some(LookFor {
            pci: device.desc.pci.clone(),
            driver: device.desc.driver.clone(),
            nodes: device.desc.nodes.iter().map(node).collect(),
            buffers,
            blocks_while_open: false,
            simulated: self.backend == GuardKind::Simulated,
        })
    }

    /// What a device is, while it is there.
    #[must_use]
    pub fn device_desc(&self, id: DeviceId) -> Option<&DeviceDesc> {
        let device = self.devices.get(&id)?;
        (device.lost.is_none() && device.only_for.is_none()).then_some(&device.desc)
    }

    /// Devices that are there.
    pub fn present(&self) -> impl Iterator<Item = DeviceId> + '_ {
        let there = |device: &Device| device.lost.is_none() && device.only_for.is_none();
        self.devices.iter().filter(move |(_, device)| there(device)).map(|(&id, _)| id)
    }

    /// Live objects of a device; `None` once it is lost.
    #[must_use]
    pub fn counts_of(&self, id: DeviceId) -> Option<Counts> {
        let device = self.devices.get(&id).filter(|device| device.lost.is_none())?;
        Some(device.gate.counts())
    }

    /// Devices that may keep timelines, with their nodes: those that stay come first.
    #[must_use]
    pub fn keepers(&self) -> Vec<(DeviceId, Vec<String>)> {
        let mut devices: Vec<_> =
            self.devices.iter().filter(|(_, device)| !device.gate.is_lost()).collect();
        devices.sort_by_key(|(_, device)| device.desc.removable);
        let nodes =
            |device: &Device| device.desc.nodes.iter().map(|node| node.devname.clone()).collect();
        devices.into_iter().map(|(&id, device)| (id, nodes(device))).collect()
    }

    pub(super) fn list_devices(&self, client: ClientId) -> Vec<DeviceInfo> {
        let seen = |device: &Device| device.only_for.is_none_or(|only| only == client);
        let devices = self.devices.iter().filter(|(_, device)| seen(device));
        devices.map(|(&id, device)| device.info(id)).collect()
    }

    /// The present device that a DRM node is of.
    pub(super) fn device_of(&self, node: NodeId) -> Result<DeviceId, WireError> {
        if let Some(&device) = self.by_node.get(&node) {
            return Ok(device);
        }
        if let Some(&device) = self.lost_nodes.get(&node) {
            return Err(self.lost_error(device));
        }
        Err(WireError::new(
            ErrorCode::UNKNOWN_DEVICE,
            "the DRM node belongs to no device that the broker knows; if the card has just come, \
             wait for DeviceAdded",
        ))
    }

    /// Where a device is on the state page, if it is usable.
    pub(super) fn at(&self, id: DeviceId) -> Result<DeviceAt, WireError> {
        match self.devices.get(&id) {
            Some(device) if !device.gate.is_lost() => Ok(device.at(id)),
            _ => Err(self.lost_error(id)),
        }
    }

    /// Changes a device's tables and notes that its counts have changed.
    pub(super) fn touch<R>(&mut self, id: DeviceId, change: impl FnOnce(&mut Device) -> R) {
        if let Some(device) = self.devices.get_mut(&id) {
            change(device);
            self.dirty_devices.insert(id);
        }
    }

    /// Lost devices whose last reference is dropped are gone.
    pub(super) fn finish_devices(&mut self, out: &mut Effects<H>) {
        // Rarely more than one device is lost, and none most of the time.
        while let Some(id) = self.devices.iter().find_map(|(&id, device)| {
            (device.lost.is_some() && device.gate.take_gone()).then_some(id)
        }) {
            let Some(device) = self.devices.remove(&id) else { return };
            self.notes.device(id);
            if let Some(client) = device.only_for {
                self.epoch_over(client, id, out);
                continue;
            }
            self.slots.give_back(device.slot);
            out.push(Effect::Mark(id, Step::Gone));
            out.push(Effect::Publish {
                slot: device.slot,
                device: id,
                word: Word::new(device.generation, DeviceState::Gone),
            });
            out.push(Effect::ForgetDevice(id));
            self.broadcast(&Event::DeviceGone(id), out);
            self.dirty_devices.insert(id);
        }
    }
}
