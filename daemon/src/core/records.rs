//! What is kept of the broker, so that another life of the service goes on with it: a record an object,
//! taken after each event, before anything is said to anybody.
//!
//! Only what cannot be told from other records is in one: whose an object is, is in the object; counts,
//! quotas and the tables of a device or a client are made of the objects again ([`super::restore`]).
//! Requests that are not answered are none of it: they are kept as they came, and made again.

use std::collections::BTreeSet;

use dmashare_proto::message::{Cause, Declare, DeviceAt, Direction, FenceState, GuardKind, Layout};
use dmashare_proto::{ClientId, DeviceId, ObjectId};
use serde::{Deserialize, Serialize};

use super::buffers::{Buffer, Cost, Import};
use super::client::Credentials;
use super::device::Device;
use super::fences::Fence;
use super::points::Points;
use super::table::{Table, Touch};
use super::timelines::Timeline;
use super::{Broker, Handles, Owned};
use crate::devices::DeviceDesc;

/// The version of all that is written here. Another one is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format(pub u32);

impl Format {
    /// What this broker writes and reads.
    pub const OURS: Self = Self(1);
}

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// The broker itself; its number is 0.
    Broker = 1,
    /// A device, present or lost.
    Device,
    /// A connection.
    Client,
    /// A buffer, with a descriptor a plane.
    Buffer,
    /// An import.
    Import,
    /// A fence; pending, with what importers get.
    Fence,
    /// A timeline, with its syncobj and its pipe's reading end.
    Timeline,
    /// The tokens of an object.
    Tokens,
    /// An inhibitor.
    Inhibitor,
    /// The report of a loss, by the lost device.
    Report,
    /// Why an object, or a point of it, has failed: by the object and the point.
    Cause,
}

impl RecordKind {
    /// All of them, in the order in which they are restored.
    pub const ALL: [Self; 11] = [
        Self::Broker,
        Self::Device,
        Self::Client,
        Self::Buffer,
        Self::Import,
        Self::Fence,
        Self::Timeline,
        Self::Tokens,
        Self::Inhibitor,
        Self::Report,
        Self::Cause,
    ];
}

/// A record as it is now.
#[derive(Clone, Debug)]
pub struct Record<F> {
    /// What it is of.
    pub kind: RecordKind,
    /// Its id.
    pub id: u64,
    /// A second number, of a cause; else 0.
    pub at: u64,
    /// What there is to be kept, or nothing any more.
    pub kept: Option<Kept<F>>,
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Kept<F> {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, where they are other ones than before.
    pub fds: Option<Vec<F>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfBroker {
    pub format: Format,
    pub instance: [u8; 16],
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfDevice {
    pub desc: DeviceDesc,
    pub slot: u32,
    pub generation: u32,
    pub lost: Option<Cause>,
    pub draining: bool,
    pub wedged: String,
    pub ack_deadline_ns: Option<u64>,
    pub acknowledged: bool,
    pub only_for: Option<ClientId>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfClient {
    pub creds: Credentials,
    pub name: String,
    pub greeted: bool,
    pub declared: Declare,
    pub lost: Vec<(ObjectId, DeviceId)>,
    pub epochs: Vec<(DeviceId, DeviceId)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfBuffer {
    pub device: Option<DeviceId>,
    pub exporter: Option<ClientId>,
    pub layout: Layout,
    /// Inode, size, exporter.
    pub planes: Vec<(u64, u64, String)>,
    pub cpu_sync: bool,
    /// Whose it is, and what is on their account: a neutral one's bytes, else its descriptors.
    pub charge: (u32, u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfImport {
    pub device: Option<DeviceId>,
    pub buffer: ObjectId,
    pub client: ClientId,
    pub inodes: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfFence {
    pub at: DeviceAt,
    pub guard: GuardKind,
    pub handles: Vec<(ClientId, ObjectId)>,
    pub state: FenceState,
    /// User, and since when.
    pub pending: Option<(u32, u64)>,
    pub point: Option<(ObjectId, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfTimeline {
    pub at: DeviceAt,
    pub direction: Direction,
    pub guard: GuardKind,
    pub maker: Option<ClientId>,
    /// Whose it is.
    pub uid: u32,
    pub importers: Vec<(ClientId, ObjectId)>,
    pub points: Points,
    pub lost: Option<(Cause, u64)>,
}

/// Notes of what has changed, beside those of the tables.
#[derive(Debug, Default)]
pub(super) struct Notes {
    on: bool,
    broker: bool,
    devices: BTreeSet<DeviceId>,
    clients: BTreeSet<ClientId>,
    inhibitors: BTreeSet<ObjectId>,
    reports: BTreeSet<DeviceId>,
}

impl Notes {
    pub fn device(&mut self, id: DeviceId) {
        if self.on {
            self.devices.insert(id);
        }
    }

    pub fn client(&mut self, id: ClientId) {
        if self.on {
            self.clients.insert(id);
        }
    }

    pub fn inhibitor(&mut self, id: ObjectId) {
        if self.on {
            self.inhibitors.insert(id);
        }
    }

    pub fn report(&mut self, id: DeviceId) {
        if self.on {
            self.reports.insert(id);
        }
    }

    fn is_empty(&self) -> bool {
        !self.broker
            && self.devices.is_empty()
            && self.clients.is_empty()
            && self.inhibitors.is_empty()
            && self.reports.is_empty()
    }
}

impl<H: Handles> Broker<H> {
    /// From here on what changes is noted, for [`Self::take_records`]; all that is there is new.
    pub fn keep(&mut self) {
        self.keep_from(Touch::New);
    }

    /// The same of a broker that was restored, for who has its records with their descriptors already:
    /// with these once more it would need twice as many.
    pub fn keep_on(&mut self) {
        self.keep_from(Touch::Changed);
    }

    fn keep_from(&mut self, touch: Touch) {
        self.notes = Notes {
            on: true,
            broker: true,
            devices: self.devices.keys().copied().collect(),
            clients: self.clients.keys().copied().collect(),
            inhibitors: self.inhibitors.keys().copied().collect(),
            reports: self.reports.iter().map(|report| report.epoch()).collect(),
        };
        self.buffers.note(touch);
        self.imports.note(touch);
        self.fences.note(touch);
        self.timelines.note(touch);
        self.tokens.note();
        self.causes.keep();
    }

    /// Records of what may have changed since the last ones were taken.
    pub fn take_records(&mut self) -> Vec<Record<H::Fd>> {
        let mut out = Vec::new();
        if !self.notes.is_empty() {
            self.take_noted(&mut out);
        }
        take(RecordKind::Buffer, &mut self.buffers, &mut out, |buffer, touch| {
            let fds = || buffer.planes.iter().map(|plane| plane.fd.clone()).collect();
            (encode(&OfBuffer::of(buffer)), (touch == Touch::New).then(fds))
        });
        take(RecordKind::Import, &mut self.imports, &mut out, |import, _| {
            (encode(&OfImport::of(import)), None)
        });
        take(RecordKind::Fence, &mut self.fences, &mut out, |fence, touch| {
            let fds = match &fence.pending {
                // Its guard is let go of.
                None => Some(Vec::new()),
                Some(pending) => {
                    (touch == Touch::New).then(|| pending.fd.iter().cloned().collect())
                }
            };
            (encode(&OfFence::of(fence)), fds)
        });
        take(RecordKind::Timeline, &mut self.timelines, &mut out, |timeline, touch| {
            let fds = || vec![timeline.syncobj.clone(), timeline.hangup.clone()];
            (encode(&OfTimeline::of(timeline)), (touch == Touch::New).then(fds))
        });
        if self.tokens.is_touched() {
            out.extend(self.tokens.take_touched().map(|(object, rights)| {
                let bytes = (!rights.is_empty()).then(|| encode(&rights));
                record(RecordKind::Tokens, object.0, bytes)
            }));
        }
        if self.causes.is_touched() {
            out.extend(self.causes.take_touched().map(|((object, at), entry)| {
                let bytes = entry.map(|entry| encode(&entry));
                Record { at, ..record(RecordKind::Cause, object.0, bytes) }
            }));
        }
        out
    }

    fn take_noted(&mut self, out: &mut Vec<Record<H::Fd>>) {
        let notes = std::mem::take(&mut self.notes);
        self.notes.on = true;
        if notes.broker {
            let of = OfBroker { format: Format::OURS, instance: self.instance };
            out.push(record(RecordKind::Broker, 0, Some(encode(&of))));
        }
        for id in notes.devices {
            let bytes = self.devices.get(&id).map(|device| encode(&OfDevice::of(device)));
            out.push(record(RecordKind::Device, id.0, bytes));
        }
        for id in notes.clients {
            let bytes = self.clients.get(&id).map(|client| {
                let lost = client.objects.iter().filter_map(|(&object, what)| match what {
                    Owned::Lost(device) => Some((object, *device)),
                    _ => None,
                });
                let mut lost: Vec<_> = lost.collect();
                lost.sort_unstable_by_key(|(object, _)| *object);
                encode(&OfClient {
                    creds: client.creds.clone(),
                    name: client.name.clone(),
                    greeted: client.greeted,
                    declared: client.declared,
                    lost,
                    epochs: client.epochs.theirs.iter().map(|(&of, &is)| (of, is)).collect(),
                })
            });
            out.push(record(RecordKind::Client, id.0, bytes));
        }
        for id in notes.inhibitors {
            let bytes = self.inhibitors.get(&id).map(encode);
            out.push(record(RecordKind::Inhibitor, id.0, bytes));
        }
        for id in notes.reports {
            let report = self.reports.iter().rev().find(|report| report.epoch() == id);
            // As JSON: what it leaves out, postcard could not read.
            let bytes = report.map(|report| serde_json::to_vec(report).unwrap_or_default());
            out.push(record(RecordKind::Report, id.0, bytes));
        }
    }
}

fn record<F>(kind: RecordKind, id: u64, bytes: Option<Vec<u8>>) -> Record<F> {
    Record { kind, id, at: 0, kept: bytes.map(|bytes| Kept { bytes, fds: None }) }
}

fn take<V, F>(
    kind: RecordKind,
    table: &mut Table<ObjectId, V>,
    out: &mut Vec<Record<F>>,
    keep: impl Fn(&V, Touch) -> (Vec<u8>, Option<Vec<F>>),
) {
    if !table.is_touched() {
        return;
    }
    table.take_touched(|id, touch, value| {
        let kept = value.map(|value| {
            let (bytes, fds) = keep(value, touch);
            Kept { bytes, fds }
        });
        out.push(Record { kind, id: id.0, at: 0, kept });
    });
}

/// It is written to memory, which does not fail, and has a length, which is all that postcard wants.
fn encode<T: Serialize>(of: &T) -> Vec<u8> {
    postcard::to_extend(of, Vec::with_capacity(128)).unwrap_or_default()
}

impl OfDevice {
    fn of(device: &Device) -> Self {
        Self {
            desc: device.desc.clone(),
            slot: device.slot,
            generation: device.generation,
            lost: device.lost,
            draining: device.draining,
            wedged: device.wedged.clone(),
            ack_deadline_ns: device.ack_deadline_ns,
            acknowledged: device.acknowledged,
            only_for: device.only_for,
        }
    }
}

impl OfBuffer {
    fn of<F>(buffer: &Buffer<F>) -> Self {
        let planes = buffer.planes.iter();
        Self {
            device: buffer.device,
            exporter: buffer.exporter,
            layout: buffer.layout.clone(),
            planes: planes.map(|it| (it.inode, it.size, it.exporter.clone())).collect(),
            cpu_sync: buffer.cpu_sync,
            charge: match &buffer.cost {
                Cost::Exported((_, descriptors)) => descriptors.of(),
                Cost::Neutral([bytes, _]) => bytes.of(),
            },
        }
    }
}

impl OfImport {
    fn of(import: &Import) -> Self {
        Self {
            device: import.device,
            buffer: import.buffer,
            client: import.client,
            inodes: import.inodes.clone(),
        }
    }
}

impl OfFence {
    fn of<F>(fence: &Fence<F>) -> Self {
        Self {
            at: fence.at,
            guard: fence.guard,
            handles: fence.handles.clone(),
            state: fence.state,
            pending: fence.pending.as_ref().map(|pending| (pending.uid, pending.since_ns)),
            point: fence.point,
        }
    }
}

impl OfTimeline {
    fn of<F>(timeline: &Timeline<F>) -> Self {
        Self {
            at: timeline.at,
            direction: timeline.direction,
            guard: timeline.guard,
            maker: timeline.maker,
            uid: timeline._descriptors.of().0,
            importers: timeline.importers.clone(),
            points: timeline.points.kept(),
            lost: timeline.lost,
        }
    }
}
