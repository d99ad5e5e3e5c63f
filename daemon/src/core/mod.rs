//! The pure core: tables, rights, counts, and the bookkeeping of an unplug. Events come in by method
//! calls with the time, effects go out in the order in which they are to be done. It knows no socket,
//! no bus and no clock, and makes no system call.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use dmashare_proto::limits::VERSION;
use dmashare_proto::message::{self, Event, GuardKind, Reply};
use dmashare_proto::report::UnplugReport;
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, WireError};

use crate::devices::NodeId;
use crate::id_map::IdMap;

mod accounts;
mod activity;
mod agree;
mod attach;
mod buffers;
mod causes;
mod client;
mod device;
mod effect;
mod fences;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod ids;
mod inhibit;
mod layout;
#[cfg(test)]
mod model;
mod neutral;
mod points;
mod records;
mod rehearse;
mod restore;
mod table;
mod timelines;
mod tokens;
mod unplug;
mod views;
mod waits;
mod wedged;

#[cfg(test)]
pub(crate) use accounts::of_a_client as accounts_for_tests;
pub use accounts::{Account, Charge, Kind, Level, Over, Quotas};
pub use causes::Ended;
pub use client::Credentials;
pub use effect::{
    Checked, CheckedFence, CheckedPlane, CheckedTimeline, Effect, FencePlan, Handles, Outgoing,
    Standing,
};
pub use fences::ended;
pub use ids::IdSource;
pub use neutral::Allocation;
pub use records::{Format, Kept, Record, RecordKind};
pub use rehearse::{NotRehearsed, Rehearsed};
pub use restore::{Records, Reline, Rewatch};
pub use timelines::PointPlan;
pub use unplug::Sweep;
pub use wedged::Wedge;

use buffers::{Buffer, Import};
use causes::Causes;
use client::{Client, Owned};
use device::Device;
use fences::Fence;
use table::Table;
use timelines::Timeline;
use tokens::Tokens;

/// How much there may be.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of all that is on accounts.
    pub quotas: Quotas,
    /// Unanswered waits for points of one client.
    pub waits_per_client: usize,
    /// A fence's deadline where the client states none, in nanoseconds.
    pub deadline_ns: u64,
    /// The longest deadline that a client may state, in nanoseconds.
    pub max_deadline_ns: u64,
    /// What sets that, for who asks for a longer one.
    pub max_deadline_by: String,
    /// How long clients have to acknowledge a loss, in nanoseconds.
    pub ack_timeout_ns: u64,
}

/// Effects of one event.
pub type Effects<H> = Vec<Effect<H>>;

/// Unplug reports that are kept.
const REPORTS: usize = 32;

/// The broker.
pub struct Broker<H: Handles> {
    limits: Limits,
    ids: IdSource,
    instance: [u8; 16],
    backend: GuardKind,
    state_page: H::Fd,
    devices: BTreeMap<DeviceId, Device>,
    by_node: HashMap<NodeId, DeviceId>,
    /// Nodes of lost devices, so that who comes late learns why. One entry a DRM minor at most.
    lost_nodes: HashMap<NodeId, DeviceId>,
    slots: device::Slots,
    clients: BTreeMap<ClientId, Client>,
    buffers: Table<ObjectId, Buffer<H::Fd>>,
    /// Of buffers that nobody has any more since this event.
    unused: Vec<H::Fd>,
    imports: Table<ObjectId, Import>,
    fences: Table<ObjectId, Fence<H::Fd>>,
    /// An importer's handle on a fence, and the fence.
    fence_imports: IdMap<ObjectId, ObjectId>,
    timelines: Table<ObjectId, Timeline<H::Fd>>,
    /// An importer's handle on a timeline, and the timeline.
    timeline_imports: IdMap<ObjectId, ObjectId>,
    /// Timelines of which a point has ended or a handle has gone in this event.
    moved: BTreeSet<ObjectId>,
    accounts: accounts::Accounts,
    inhibitors: BTreeMap<ObjectId, inhibit::Inhibitor>,
    tokens: Tokens,
    causes: Causes,
    reports: VecDeque<UnplugReport>,
    dirty_devices: BTreeSet<DeviceId>,
    dirty_clients: BTreeSet<ClientId>,
    reports_dirty: bool,
    neutral_dirty: bool,
    inhibitors_dirty: bool,
    notes: records::Notes,
}

impl<H: Handles> Broker<H> {
    /// A broker that knows no device and no client. `instance` is random for each life of its state.
    pub fn new(
        limits: Limits,
        ids: IdSource,
        instance: [u8; 16],
        backend: GuardKind,
        state_page: H::Fd,
    ) -> Self {
        let accounts = accounts::Accounts::new(limits.quotas.clone());
        Self {
            limits,
            ids,
            instance,
            backend,
            state_page,
            devices: BTreeMap::new(),
            by_node: HashMap::new(),
            lost_nodes: HashMap::new(),
            slots: device::Slots::default(),
            clients: BTreeMap::new(),
            buffers: Table::default(),
            unused: Vec::new(),
            imports: Table::default(),
            fences: Table::default(),
            fence_imports: IdMap::default(),
            timelines: Table::default(),
            timeline_imports: IdMap::default(),
            moved: BTreeSet::new(),
            accounts,
            inhibitors: BTreeMap::new(),
            tokens: Tokens::default(),
            causes: Causes::default(),
            reports: VecDeque::new(),
            dirty_devices: BTreeSet::new(),
            dirty_clients: BTreeSet::new(),
            reports_dirty: false,
            neutral_dirty: false,
            inhibitors_dirty: false,
            notes: records::Notes::default(),
        }
    }

    /// Ids that are to be reserved before the first is given out.
    pub fn first_reservation(&mut self) -> Option<u64> {
        self.ids.reservation()
    }

    /// The first id that was not given out.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.ids.next()
    }

    /// Answers one request. Each gets exactly one reply.
    pub fn request(
        &mut self,
        now_ns: u64,
        client: ClientId,
        id: u64,
        request: Checked<H>,
        out: &mut Effects<H>,
    ) {
        let Some(known) = self.clients.get(&client) else { return };
        let is_hello = matches!(request, Checked::Hello(_));
        if known.greeted == is_hello {
            let text = if is_hello { "Hello came twice" } else { "the first message is not Hello" };
            out.push(Effect::error(client, id, WireError::new(ErrorCode::HANDSHAKE, text)));
            out.push(Effect::Disconnect(client));
            return;
        }
        // What is answered without descriptors, and what with some.
        let plain = |reply: Result<Reply, WireError>| reply.map(|reply| (reply, Vec::new()));
        let result = match request {
            Checked::Hello(hello) => return self.hello(client, id, hello, out),
            Checked::ListDevices => plain(Ok(Reply::Devices(self.list_devices(client)))),
            Checked::Export { node, layout, planes, grant } => {
                let make = |this: &mut Self| this.export(client, node, layout, planes);
                plain(self.granted(now_ns, client, grant, make))
            }
            Checked::Grant(grant, token) => plain(self.grant(now_ns, client, &grant, token)),
            Checked::Import { token, by } => self.import(now_ns, client, token, by),
            Checked::Release(object) => plain(self.release(client, object, out)),
            Checked::ShareFence { node, options, source, token } => {
                let grant = options.grant.zip(token);
                plain(self.granted(now_ns, client, grant, |this| {
                    this.share_fence(now_ns, client, node, options, source, out)
                }))
            }
            Checked::ImportFence(token) => self.import_fence(now_ns, client, token),
            Checked::QueryFence(fence) => return self.query_fence(client, id, fence, out),
            Checked::Acknowledge(device) => {
                let device = self.meant(client, device);
                plain(device.and_then(|device| self.acknowledge(client, device)))
            }
            Checked::CreateTimeline { node, options, made } => {
                self.create_timeline(client, node, options, made, out)
            }
            Checked::PromisePoint(at) => plain(self.promise_point(client, at, out)),
            Checked::SubmitPoint { submit, source } => {
                plain(self.submit_point(now_ns, client, submit, source, out))
            }
            Checked::ImportTimeline(token) => self.import_timeline(now_ns, client, token),
            Checked::QueryPoint(at) => return self.query_point(client, id, at, out),
            Checked::WaitPoint(at) => return self.wait_point(client, id, at, out),
            Checked::AttachFence(attach) => return self.attach_fence(client, id, attach, out),
            Checked::Allocate(wanted) => return self.allocate(client, id, wanted, out),
            Checked::Declare(declare) => plain(Ok(self.declare(client, declare))),
            Checked::Inhibit(inhibit) => plain(self.inhibit(client, inhibit)),
        };
        // The reply goes out before what the request led to (a loss that became complete), but
        // after what has to be done first (the watch on a fence).
        let (reply, fds) = result.unwrap_or_else(|error| (Reply::Error(error), Vec::new()));
        out.push(Effect::Send { client, message: Outgoing::Reply(id, reply), fds });
        self.after(out);
    }

    fn hello(&mut self, client: ClientId, id: u64, hello: message::Hello, out: &mut Effects<H>) {
        let refusal = if hello.version_min > VERSION || hello.version_max < VERSION {
            Some(WireError::new(
                ErrorCode::VERSION,
                format!(
                    "the client speaks versions {} to {}, this broker speaks {VERSION}",
                    hello.version_min, hello.version_max
                ),
            ))
        } else {
            message::check_name(&hello.name).err()
        };
        if let Some(error) = refusal {
            out.push(Effect::error(client, id, error));
            out.push(Effect::Disconnect(client));
            return;
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.greeted = true;
            client.name = hello.name;
        }
        self.notes.client(client);
        self.dirty_clients.insert(client);
        out.push(Effect::Send {
            client,
            message: Outgoing::Reply(
                id,
                Reply::Welcome(message::Welcome {
                    version: VERSION,
                    features: 0,
                    instance: self.instance,
                    backend: self.backend,
                }),
            ),
            fds: vec![self.state_page.clone()],
        });
    }

    /// What every event ends with: ids in stock, and devices that are through.
    fn after(&mut self, out: &mut Effects<H>) {
        if let Some(up_to) = self.ids.reservation() {
            out.push(Effect::ReserveIds(up_to));
        }
        self.settle_timelines(out);
        self.check_acknowledged(out);
        self.finish_devices(out);
        if !self.unused.is_empty() {
            out.push(Effect::Discard(std::mem::take(&mut self.unused)));
        }
    }

    fn broadcast(&self, event: &Event, out: &mut Effects<H>) {
        for (&id, client) in &self.clients {
            if client.greeted {
                out.push(Effect::event(id, event.clone()));
            }
        }
    }

    /// An own object of the client's.
    fn owned(&self, client: ClientId, object: ObjectId) -> Result<Owned, WireError> {
        self.clients
            .get(&client)
            .and_then(|client| client.objects.get(&object))
            .copied()
            .ok_or_else(|| {
                WireError::new(
                    ErrorCode::UNKNOWN_OBJECT,
                    format!("this client has no object {object} (never had it, or released it)"),
                )
                .about(object.0)
            })
    }

    /// What is answered about a lost device and what it had, with the cause where it is known here.
    fn lost_error(&self, device: DeviceId) -> WireError {
        let lost = self.devices.get(&device).and_then(|device| device.lost);
        let told = || self.reports.iter().rev().find(|report| report.epoch() == device);
        let why = match lost.or_else(|| told().map(|report| report.cause)) {
            Some(cause) => format!(" ({})", cause.name()),
            None => String::new(),
        };
        let what = "make the object again on a device that is present";
        WireError::new(ErrorCode::DEVICE_LOST, format!("device {device} is gone{why}; {what}"))
            .about(device.0)
    }
}
