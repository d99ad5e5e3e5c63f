//! The tables, made again of what was kept of them ([`super::records`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use dmashare_proto::message::GuardKind;
use dmashare_proto::report::UnplugReport;
use dmashare_proto::{ClientId, DeviceId, ObjectId, Token};
use serde::de::DeserializeOwned;

use super::accounts::{Account, Kind as Charged, cost};
use super::activity::Made;
use super::buffers::{Buffer, Cost, Import};
use super::client::Client;
use super::device::Device;
use super::fences::{Fence, Pending, pending_cost};
use super::inhibit::{Holder, Inhibitor};
use super::records::{
    Format, OfBroker, OfBuffer, OfClient, OfDevice, OfFence, OfImport, OfTimeline, RecordKind,
};
use super::rehearse::Epochs;
use super::timelines::Timeline;
use super::tokens::Right;
use super::{Broker, CheckedPlane, Effects, Handles, IdSource, Limits, Owned};
use crate::gate::{DeviceRef, Gate, Kind as Count};
use crate::id_map::IdMap;

/// What was kept, by kind, id, and second number: bytes and descriptors.
pub type Records<F> = BTreeMap<(RecordKind, u64, u64), (Vec<u8>, Vec<F>)>;

/// A pending fence that was restored: to be watched again by whoever has its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewatch {
    /// The fence.
    pub fence: ObjectId,
    /// The device of its source.
    pub device: DeviceId,
    /// The point that it is the end of.
    pub point: Option<(ObjectId, u64)>,
}

/// A timeline that was restored, as the reactor has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reline {
    /// The timeline.
    pub timeline: ObjectId,
    /// The device whose loss ends it.
    pub device: DeviceId,
    /// It is lost already.
    pub lost: bool,
    /// Points up to this one will come.
    pub promised: u64,
    /// The last one that was submitted.
    pub submitted: u64,
    /// Those that have ended, and wait for their turn.
    pub ended_early: Vec<u64>,
}

impl<H: Handles> Broker<H> {
    /// A broker that goes on with what another one has left. Nothing is said to anybody; what is to be
    /// done is asked of [`Self::rearm`].
    ///
    /// # Errors
    /// Which record cannot be read, and why: then all of it is to be forgotten.
    pub fn restore(
        limits: Limits,
        ids: IdSource,
        backend: GuardKind,
        state_page: H::Fd,
        generations: impl Fn(u32) -> u32,
        mut records: Records<H::Fd>,
    ) -> Result<Self, String> {
        let (_, bytes, _) = of_kind(&mut records, RecordKind::Broker)
            .pop()
            .ok_or("there is no record of the broker itself")?;
        // The format is the first of it, and is read first: what follows may be another one's.
        let (format, _) = postcard::take_from_bytes::<Format>(&bytes)
            .map_err(unreadable(RecordKind::Broker, 0))?;
        if format != Format::OURS {
            return Err(format!(
                "it is of format {}, this broker reads {}",
                format.0,
                Format::OURS.0
            ));
        }
        let OfBroker { instance, .. } = read(RecordKind::Broker, 0, &bytes)?;
        // Causes alone have a second number: there are no two records of anything else.
        let twice = records.keys().find(|(kind, _, at)| *kind != RecordKind::Cause && *at != 0);
        if let Some((kind, id, at)) = twice {
            return Err(format!("the record of {kind:?} {id} is number {at} of it"));
        }
        let mut this = Self::new(limits, ids, instance, backend, state_page);
        let lost = this.put_devices(&mut records)?;
        this.put_clients(&mut records)?;
        this.put_buffers(&mut records)?;
        this.put_fences(&mut records)?;
        this.put_timelines(&mut records)?;
        this.put_rights(&mut records)?;
        for (id, bytes, _) in of_kind(&mut records, RecordKind::Report) {
            let report: UnplugReport = serde_json::from_slice(&bytes)
                .map_err(|error| format!("a report cannot be read: {error}"))?;
            if report.epoch() != DeviceId(id) {
                return Err(format!("the report of device {id} is another one's"));
            }
            this.reports.push_back(report);
        }
        this.put_causes(&mut records)?;
        this.reports.make_contiguous().sort_by_key(|report| report.epoch());
        let used: HashSet<u32> = (this.devices.values())
            .filter(|device| device.only_for.is_none())
            .map(|device| device.slot)
            .collect();
        this.slots.put_back(generations, &used);
        for id in lost {
            if let Some(device) = this.devices.get(&id) {
                device.gate.lose();
            }
        }
        for device in this.devices.values_mut() {
            // What was made before is not known; it was no less than this.
            let counts = device.gate.counts();
            device.made.buffers = counts.buffers.into();
            device.made.imports = counts.imports.into();
            device.made.fences = counts.fences.into();
        }
        let (devices, clients): (Vec<_>, Vec<_>) =
            (this.devices.keys().copied().collect(), this.clients.keys().copied().collect());
        this.dirty_devices.extend(devices);
        this.dirty_clients.extend(clients);
        (this.reports_dirty, this.neutral_dirty, this.inhibitors_dirty) = (true, true, true);
        this.agree()?;
        Ok(this)
    }

    /// What is to be done after a restore: devices that were present are watched again, and are found
    /// to be lost by that if they have gone meanwhile.
    pub fn rearm(&mut self, out: &mut Effects<H>) {
        let there = self.devices.iter().filter(|(_, device)| device.lost.is_none());
        out.extend(there.map(|(&id, device)| device.watch(id)));
        let draining: Vec<_> =
            self.devices.iter().filter(|(_, it)| it.draining).map(|(&id, _)| id).collect();
        // The eject that asked for it is not there any more.
        for id in draining {
            self.undrain(id, out);
        }
        self.after(out);
    }

    /// The pending fences, in the order of their submission.
    #[must_use]
    pub fn rewatch(&self) -> Vec<Rewatch> {
        let pending = self.fences.iter().filter(|(_, fence)| fence.pending.is_some());
        let mut all: Vec<_> = pending
            .map(|(&fence, it)| Rewatch { fence, device: it.at.device, point: it.point })
            .collect();
        all.sort_unstable_by_key(|it| it.fence);
        all
    }

    /// The timelines.
    #[must_use]
    pub fn reline(&self) -> Vec<Reline> {
        let all = self.timelines.iter().map(|(&timeline, it)| Reline {
            timeline,
            device: it.at.device,
            lost: it.lost.is_some(),
            promised: it.points.promised(),
            submitted: it.points.submitted(),
            ended_early: it.points.open().filter(|(_, ended)| *ended).map(|(at, _)| at).collect(),
        });
        all.collect()
    }

    /// Connections that were open, and who is at their other ends.
    pub fn connected(&self) -> impl Iterator<Item = (ClientId, &super::Credentials)> + '_ {
        self.clients.iter().map(|(&id, client)| (id, &client.creds))
    }

    /// Inhibitors that programs on the bus hold.
    #[must_use]
    pub fn held_by_bus(&self) -> Vec<ObjectId> {
        let by_bus = |held: &Inhibitor| matches!(held.holder, Holder::Bus(..));
        self.inhibitors.iter().filter(|(_, held)| by_bus(held)).map(|(&id, _)| id).collect()
    }

    /// Whether a fence is pending in the tables.
    #[must_use]
    pub fn is_pending(&self, fence: u64) -> bool {
        self.fences.get(&ObjectId(fence)).is_some_and(|fence| fence.pending.is_some())
    }

    /// A device is lost that the reactor does not know yet: closes its gate, and gives its slot and
    /// generation on the state page. `None` if it was closed before.
    #[must_use]
    pub fn close_gate(&mut self, id: DeviceId) -> Option<(u32, u32)> {
        let device = self.devices.get(&id)?;
        device.gate.lose().then_some((device.slot, device.generation))
    }

    /// Gives those that are lost, whose gates are to be closed when their references are taken.
    fn put_devices(&mut self, records: &mut Records<H::Fd>) -> Result<Vec<DeviceId>, String> {
        let mut lost = Vec::new();
        for (id, bytes, _) in of_kind(records, RecordKind::Device) {
            let kept: OfDevice = read(RecordKind::Device, id, &bytes)?;
            let id = DeviceId(id);
            if kept.lost.is_some() {
                lost.push(id);
            }
            if kept.only_for.is_none() {
                let nodes = kept.desc.nodes.iter().map(|node| node.id);
                match kept.lost {
                    None => self.by_node.extend(nodes.map(|node| (node, id))),
                    Some(_) => self.lost_nodes.extend(nodes.map(|node| (node, id))),
                }
            }
            self.devices.insert(
                id,
                Device {
                    desc: kept.desc,
                    gate: Arc::default(),
                    slot: kept.slot,
                    generation: kept.generation,
                    lost: kept.lost,
                    draining: kept.draining,
                    made: Made::default(),
                    wedged: kept.wedged,
                    buffers: HashSet::new(),
                    imports: HashSet::new(),
                    fences: HashSet::new(),
                    timelines: HashSet::new(),
                    ack_deadline_ns: kept.ack_deadline_ns,
                    acknowledged: kept.acknowledged,
                    only_for: kept.only_for,
                },
            );
        }
        let by_node = &self.by_node;
        self.lost_nodes.retain(|node, _| !by_node.contains_key(node));
        Ok(lost)
    }

    fn put_clients(&mut self, records: &mut Records<H::Fd>) -> Result<(), String> {
        for (id, bytes, _) in of_kind(records, RecordKind::Client) {
            let kept: OfClient = read(RecordKind::Client, id, &bytes)?;
            let lost = kept.lost.into_iter().map(|(object, of)| (object, Owned::Lost(of)));
            let account = self.accounts.client(kept.creds.uid);
            let mut client = Client {
                counted: account.take(Charged::Objects, 0),
                _connection: [
                    account.take(Charged::Clients, 1),
                    account.take(Charged::Descriptors, cost::CONNECTION),
                ],
                account,
                creds: kept.creds,
                name: kept.name,
                greeted: kept.greeted,
                declared: kept.declared,
                objects: IdMap::default(),
                waits: 0,
                epochs: Epochs { theirs: kept.epochs.into_iter().collect() },
            };
            lost.for_each(|(object, what)| _ = client.put_back(object, what));
            self.clients.insert(ClientId(id), client);
        }
        Ok(())
    }

    fn put_buffers(&mut self, records: &mut Records<H::Fd>) -> Result<(), String> {
        for (id, bytes, fds) in of_kind(records, RecordKind::Buffer) {
            let kept: OfBuffer = read(RecordKind::Buffer, id, &bytes)?;
            if fds.len() != kept.planes.len() {
                return Err(format!("buffer {id} has lost descriptors"));
            }
            let id = ObjectId(id);
            let (uid, amount) = kept.charge;
            let account = self.account_of(kept.exporter, uid);
            let cost = match kept.device {
                Some(device) => {
                    let reference = self.reference(device, Count::Buffer)?;
                    Cost::Exported((reference, account.take(Charged::Descriptors, amount)))
                }
                None => Cost::Neutral([
                    account.take(Charged::Memory, amount),
                    account.take(Charged::Descriptors, cost::NEUTRAL),
                ]),
            };
            let planes = kept.planes.into_iter().zip(fds);
            let planes = planes.map(|((inode, size, exporter), fd)| CheckedPlane {
                fd,
                inode,
                size,
                exporter,
            });
            let buffer = Buffer {
                device: kept.device,
                exporter: kept.exporter,
                layout: kept.layout,
                planes: planes.collect(),
                imports: HashSet::new(),
                cpu_sync: kept.cpu_sync,
                cost,
            };
            if let Some(exporter) = kept.exporter {
                self.put_object(exporter, id, Owned::Buffer)?;
            }
            if let Some(device) = kept.device.and_then(|device| self.devices.get_mut(&device)) {
                device.buffers.insert(id);
            }
            self.buffers.insert(id, buffer);
        }
        for (id, bytes, _) in of_kind(records, RecordKind::Import) {
            let kept: OfImport = read(RecordKind::Import, id, &bytes)?;
            let id = ObjectId(id);
            let reference = match kept.device {
                Some(device) => Some(self.reference(device, Count::Import)?),
                None => None,
            };
            self.put_object(kept.client, id, Owned::Import)?;
            if let Some(device) = kept.device.and_then(|device| self.devices.get_mut(&device)) {
                device.imports.insert(id);
            }
            // A lost buffer is not there any more.
            if let Some(buffer) = self.buffers.get_derived(&kept.buffer) {
                buffer.imports.insert(id);
            }
            let OfImport { device, buffer, client, inodes } = kept;
            let import = Import { device, buffer, client, inodes, _reference: reference };
            self.imports.insert(id, import);
        }
        Ok(())
    }

    fn put_fences(&mut self, records: &mut Records<H::Fd>) -> Result<(), String> {
        for (id, bytes, mut fds) in of_kind(records, RecordKind::Fence) {
            let kept: OfFence = read(RecordKind::Fence, id, &bytes)?;
            let id = ObjectId(id);
            let device = kept.at.device;
            let pending = match kept.pending {
                None => None,
                Some((uid, since_ns)) => {
                    let reference = self.reference(device, Count::Fence)?;
                    if let Some(device) = self.devices.get_mut(&device) {
                        device.fences.insert(id);
                    }
                    let maker = kept.handles.iter().find(|(_, handle)| *handle == id);
                    let account = self.account_of(maker.map(|(client, _)| *client), uid);
                    let guarded = !matches!(kept.guard, GuardKind::Source | GuardKind::None);
                    let charges = [
                        account.take(Charged::Fences, 1),
                        account.take(Charged::Descriptors, pending_cost(guarded)),
                    ];
                    let (fd, _reference, _charges) = (fds.pop(), reference, charges);
                    Some(Pending { fd, uid, since_ns, _reference, _charges })
                }
            };
            for &(client, handle) in &kept.handles {
                if handle == id {
                    self.put_object(client, handle, Owned::Fence)?;
                } else {
                    self.put_object(client, handle, Owned::FenceImport)?;
                    self.fence_imports.insert(handle, id);
                }
            }
            let OfFence { at, guard, handles, state, point, .. } = kept;
            self.fences.insert(id, Fence { at, guard, handles, state, pending, point });
        }
        Ok(())
    }

    fn put_timelines(&mut self, records: &mut Records<H::Fd>) -> Result<(), String> {
        for (id, bytes, fds) in of_kind(records, RecordKind::Timeline) {
            let kept: OfTimeline = read(RecordKind::Timeline, id, &bytes)?;
            let Ok([syncobj, hangup]) = <[H::Fd; 2]>::try_from(fds) else {
                return Err(format!("timeline {id} has lost descriptors"));
            };
            let id = ObjectId(id);
            let device = kept.at.device;
            let reference = match kept.lost {
                Some(_) => None,
                None => {
                    let reference = self.reference(device, Count::Timeline)?;
                    if let Some(device) = self.devices.get_mut(&device) {
                        device.timelines.insert(id);
                    }
                    Some(reference)
                }
            };
            if let Some(maker) = kept.maker {
                self.put_object(maker, id, Owned::Timeline)?;
            }
            for &(client, handle) in &kept.importers {
                self.put_object(client, handle, Owned::TimelineImport)?;
                self.timeline_imports.insert(handle, id);
            }
            let account = self.account_of(kept.maker, kept.uid);
            let descriptors = account.take(Charged::Descriptors, cost::TIMELINE);
            self.timelines.insert(
                id,
                Timeline {
                    at: kept.at,
                    direction: kept.direction,
                    guard: kept.guard,
                    syncobj,
                    hangup,
                    maker: kept.maker,
                    importers: kept.importers,
                    points: kept.points,
                    waits: BTreeMap::new(),
                    watched: BTreeMap::new(),
                    lost: kept.lost,
                    reference,
                    _descriptors: descriptors,
                },
            );
        }
        Ok(())
    }

    fn put_rights(&mut self, records: &mut Records<H::Fd>) -> Result<(), String> {
        for (id, bytes, _) in of_kind(records, RecordKind::Tokens) {
            let mut rights: Vec<(Token, Right)> = read(RecordKind::Tokens, id, &bytes)?;
            for (_, right) in &mut rights {
                let account = self.account_of(Some(right.owner), u32::MAX);
                right.charge = Some(account.take(Charged::Tokens, 1));
            }
            self.tokens.put_back(ObjectId(id), rights);
        }
        for (id, bytes, _) in of_kind(records, RecordKind::Inhibitor) {
            let mut held: Inhibitor = read(RecordKind::Inhibitor, id, &bytes)?;
            match &mut held.holder {
                Holder::Client(client) => {
                    let client = *client;
                    self.put_object(client, ObjectId(id), Owned::Inhibitor)?;
                }
                Holder::Bus(creds, _, charge) => {
                    let account = self.accounts.user(creds.uid);
                    *charge = Some(account.take(Charged::Descriptors, cost::BUS_INHIBITOR));
                }
            }
            self.inhibitors.insert(ObjectId(id), held);
        }
        Ok(())
    }

    fn put_causes(&mut self, records: &mut Records<H::Fd>) -> Result<(), String> {
        let mut causes = Vec::new();
        for ((_, id, at), (bytes, _)) in records.split_off(&(RecordKind::Cause, 0, 0)) {
            causes.push(((ObjectId(id), at), read(RecordKind::Cause, id, &bytes)?));
        }
        self.causes.put_back(causes);
        Ok(())
    }

    fn reference(&self, device: DeviceId, kind: Count) -> Result<DeviceRef, String> {
        let known =
            self.devices.get(&device).ok_or_else(|| format!("there is no device {device}"))?;
        Gate::acquire(&known.gate, kind).map_err(|_| format!("device {device} is closed"))
    }

    /// A client's account, or its user's where it has left.
    fn account_of(&mut self, client: Option<ClientId>, uid: u32) -> Account {
        match client.and_then(|client| self.clients.get(&client)) {
            Some(client) => client.account.clone(),
            None => self.accounts.user(uid),
        }
    }

    fn put_object(&mut self, client: ClientId, id: ObjectId, what: Owned) -> Result<(), String> {
        let known = self.clients.get_mut(&client);
        let known =
            known.ok_or_else(|| format!("object {id} is of client {client}, which is none"))?;
        if known.put_back(id, what) {
            return Err(format!("object {id} of client {client} is two things"));
        }
        Ok(())
    }
}

/// Takes out the records of a kind.
fn of_kind<F>(records: &mut Records<F>, kind: RecordKind) -> Vec<(u64, Vec<u8>, Vec<F>)> {
    let mut found = Vec::new();
    let mut rest = records.split_off(&(kind, 0, 0));
    while let Some(first) = rest.first_entry()
        && first.key().0 == kind
    {
        let ((_, id, _), (bytes, fds)) = first.remove_entry();
        found.push((id, bytes, fds));
    }
    records.append(&mut rest);
    found
}

fn read<T: DeserializeOwned>(kind: RecordKind, id: u64, bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(unreadable(kind, id))
}

fn unreadable(kind: RecordKind, id: u64) -> impl Fn(postcard::Error) -> String {
    move |error| format!("the record of {kind:?} {id} cannot be read: {error}")
}
