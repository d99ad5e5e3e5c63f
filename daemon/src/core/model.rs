//! The core under random operations, with its invariants checked after every one.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;

use dmashare_proto::message::{
    Access, AttachFence, Cause, CreateTimeline, Direction, Event, FenceState, Grant, Grantee,
    GuardKind, Hello, Layout, Plane, PointAt, PointState, Policy, Reply, ShareFence, SubmitPoint,
};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Token};
use proptest::prelude::*;

use super::*;
use crate::devices::{DeviceDesc, NodeDesc};
use crate::gate::Gate;
use crate::view::Counts;

mod neutral;
mod rehearsals;
mod restarts;

/// A descriptor that counts itself.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(open: &Rc<Cell<usize>>) -> Rc<Self> {
        open.set(open.get() + 1);
        Rc::new(Self(Rc::clone(open)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct Fake;

impl Handles for Fake {
    type Fd = Rc<Counted>;
    type Ender = Rc<Counted>;
    type Line = Rc<Counted>;
}

#[derive(Clone, Debug)]
enum Op {
    Connect,
    Disconnect(usize),
    Plug(u8),
    /// The reactor closes a gate; the core hears of it later.
    CloseGate(usize),
    /// The core hears of it.
    Lose(usize),
    /// A driver says that its device hangs, and whether it has recovered.
    Wedge(usize, bool),
    Export(usize, u8, u8),
    Grant(usize, usize, u32),
    Import(usize, usize),
    Share(usize, u8, u8),
    ImportFence(usize, usize),
    EndFence(usize, bool),
    Query(usize, usize),
    Release(usize, usize),
    ReleaseForeign(usize, usize),
    Acknowledge(usize, usize),
    Tick(u64),
    Timeline(usize, u8, u8),
    ImportTimeline(usize, usize),
    Promise(usize, usize, u64),
    Submit(usize, usize, u64, u8),
    Point(usize, usize, u64, bool),
    Attach(usize, usize, usize),
    /// The reactor loses a device that is there, and the core hears of it later.
    Rehearse(usize),
    RehearseFor(usize, usize, bool),
    /// A client, how large, how its memory comes: at once, later, or not at all.
    Allocate(usize, u32, u8),
    /// Memory that was to come later comes.
    Allocated(usize, bool),
    Declare(usize, usize, bool),
    Inhibit(usize, usize, u8),
    /// A program on the bus takes an inhibitor, or closes one.
    InhibitByBus(usize, u8),
    /// An eject of a device begins, or is given up.
    Drain(usize, bool),
    /// The service is killed and started.
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..64_usize;
    let small = 0..3_u8;
    prop_oneof![
        2 => Just(Op::Connect),
        1 => n.clone().prop_map(Op::Disconnect),
        2 => small.clone().prop_map(Op::Plug),
        1 => n.clone().prop_map(Op::CloseGate),
        1 => n.clone().prop_map(Op::Lose),
        1 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::Wedge(a, b)),
        6 => (n.clone(), small.clone(), 1..5_u8).prop_map(|(a, b, c)| Op::Export(a, b, c)),
        6 => (n.clone(), n.clone(), 1..3_u32).prop_map(|(a, b, c)| Op::Grant(a, b, c)),
        6 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Import(a, b)),
        6 => (n.clone(), small.clone(), 0..4_u8).prop_map(|(a, b, c)| Op::Share(a, b, c)),
        6 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::ImportFence(a, b)),
        4 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::EndFence(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Query(a, b)),
        4 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Release(a, b)),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::ReleaseForeign(a, b)),
        3 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Acknowledge(a, b)),
        2 => (1..3_000_000_000_u64).prop_map(Op::Tick),
        4 => (n.clone(), small.clone(), 0..6_u8).prop_map(|(a, b, c)| Op::Timeline(a, b, c)),
        4 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::ImportTimeline(a, b)),
        4 => (n.clone(), n.clone(), 0..12_u64).prop_map(|(a, b, c)| Op::Promise(a, b, c)),
        8 => (n.clone(), n.clone(), 0..12_u64, 0..4_u8)
            .prop_map(|(a, b, c, d)| Op::Submit(a, b, c, d)),
        6 => (n.clone(), n.clone(), 0..14_u64, any::<bool>())
            .prop_map(|(a, b, c, d)| Op::Point(a, b, c, d)),
        2 => (n.clone(), n.clone(), n.clone()).prop_map(|(a, b, c)| Op::Attach(a, b, c)),
        1 => n.clone().prop_map(Op::Rehearse),
        3 => (n.clone(), n.clone(), any::<bool>()).prop_map(|(a, b, c)| Op::RehearseFor(a, b, c)),
        4 => (n.clone(), 1..1500_u32, 0..4_u8).prop_map(|(a, b, c)| Op::Allocate(a, b, c)),
        3 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::Allocated(a, b)),
        1 => (n.clone(), n.clone(), any::<bool>()).prop_map(|(a, b, c)| Op::Declare(a, b, c)),
        2 => (n.clone(), n.clone(), 0..4_u8).prop_map(|(a, b, c)| Op::Inhibit(a, b, c)),
        1 => (n.clone(), 0..4_u8).prop_map(|(a, b)| Op::InhibitByBus(a, b)),
        1 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::Drain(a, b)),
        1 => Just(Op::Restart),
    ]
}

/// What the shell and the clients know, to hold the core against.
struct Model {
    broker: Broker<Fake>,
    now_ns: u64,
    open: Rc<Cell<usize>>,
    request: u64,
    clients: Vec<ClientId>,
    gates: HashMap<DeviceId, std::sync::Arc<Gate>>,
    closed: Vec<DeviceId>,
    /// The fake reactor's table.
    watched: HashMap<ObjectId, (DeviceId, Option<Rc<Counted>>)>,
    tokens: Vec<Token>,
    next_token: u128,
    /// By the clients' own names of devices: what each was told is lost, and is gone; and knows.
    told: BTreeSet<(ClientId, DeviceId)>,
    told_gone: BTreeSet<(ClientId, DeviceId)>,
    known: BTreeSet<(ClientId, DeviceId)>,
    rehearsed: BTreeSet<DeviceId>,
    gone: BTreeSet<DeviceId>,
    ids: BTreeSet<u64>,
    replies: HashMap<u64, usize>,
    /// Fences that were shared by policy `pass`, and their tokens.
    passed_fences: BTreeSet<ObjectId>,
    passed: HashSet<Token>,
    /// What was failed while somebody could see it, and whose it was.
    failed: HashMap<ObjectId, (u32, Ended)>,
    /// The fake reactor's timelines.
    lines: HashMap<ObjectId, Rc<Counted>>,
    /// Waits that are not answered, and whose they are.
    waits: HashMap<u64, ClientId>,
    asked_to_wait: HashSet<u64>,
    /// Memory that is being made.
    allocations: Vec<Allocation>,
    /// Held by programs on the bus.
    held: Vec<ObjectId>,
    /// What devices have that are about to be ejected.
    draining: BTreeMap<DeviceId, Counts>,
    keeper: restarts::Keeper,
}

impl Model {
    fn new() -> Self {
        let open = Rc::new(Cell::new(0));
        let limits = Limits {
            quotas: super::accounts::check::quotas(),
            waits_per_client: 4,
            deadline_ns: 1_000_000_000,
            max_deadline_ns: 10_000_000_000,
            max_deadline_by: "the model".to_owned(),
            ack_timeout_ns: 2_000_000_000,
        };
        let page = Counted::new(&open);
        let mut broker = Broker::new(limits, IdSource::new(1), [7; 16], GuardKind::Simulated, page);
        broker.first_reservation();
        broker.keep();
        Self {
            broker,
            now_ns: 1,
            open,
            request: 0,
            clients: Vec::new(),
            gates: HashMap::new(),
            closed: Vec::new(),
            watched: HashMap::new(),
            tokens: Vec::new(),
            next_token: 1,
            told: BTreeSet::new(),
            told_gone: BTreeSet::new(),
            known: BTreeSet::new(),
            rehearsed: BTreeSet::new(),
            gone: BTreeSet::new(),
            ids: BTreeSet::new(),
            replies: HashMap::new(),
            passed_fences: BTreeSet::new(),
            passed: HashSet::new(),
            failed: HashMap::new(),
            lines: HashMap::new(),
            waits: HashMap::new(),
            asked_to_wait: HashSet::new(),
            allocations: Vec::new(),
            held: Vec::new(),
            draining: BTreeMap::new(),
            keeper: restarts::Keeper::default(),
        }
    }

    fn pick<T: Copy>(from: &[T], n: usize) -> Option<T> {
        (!from.is_empty()).then(|| from[n % from.len()])
    }

    fn fresh(&mut self, id: u64) {
        assert!(self.ids.insert(id), "I7: id {id} was given out twice");
    }

    /// Carries effects out as the shell and the reactor would.
    fn carry_out(&mut self, effects: Effects<Fake>) -> Vec<(ClientId, Outgoing)> {
        let mut sent = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { client, mut message, .. } => {
                    self.broker.address(client, &mut message);
                    match &message {
                        Outgoing::Reply(id, reply) => {
                            *self.replies.entry(*id).or_default() += 1;
                            self.waits.remove(id);
                            match reply {
                                Reply::Exported(it) => {
                                    self.fresh(it.buffer.0);
                                    self.knows(client, it.at.device);
                                }
                                Reply::Imported(it) => {
                                    self.fresh(it.import.0);
                                    if let Some(at) = it.at {
                                        self.knows(client, at.device);
                                    }
                                }
                                Reply::Allocated(it) => self.fresh(it.buffer.0),
                                Reply::Inhibited(it) => self.fresh(it.0),
                                Reply::FenceShared(it) => {
                                    self.fresh(it.fence.0);
                                    self.knows(client, it.at.device);
                                }
                                Reply::FenceImported(it) => {
                                    self.fresh(it.fence.0);
                                    if it.state == FenceState::Pending {
                                        self.knows(client, it.at.device);
                                    }
                                }
                                Reply::Timeline(it) => {
                                    self.fresh(it.timeline.0);
                                    self.knows(client, it.at.device);
                                }
                                Reply::Devices(devices) => {
                                    let ids = devices.iter().map(|it| it.at.device);
                                    let ids: BTreeSet<_> = ids.collect();
                                    assert_eq!(ids.len(), devices.len(), "a device is listed once");
                                    self.known.extend(ids.into_iter().map(|id| (client, id)));
                                }
                                Reply::PointState(state) => self.point_told(*id, *state),
                                Reply::Granted(token) => self.tokens.push(*token),
                                _ => {}
                            }
                        }
                        Outgoing::Event(Event::DeviceLost(lost)) => {
                            assert!(
                                self.told.insert((client, lost.device)),
                                "I6: {client} was told twice of {}",
                                lost.device
                            );
                        }
                        Outgoing::Event(Event::DeviceAdded(it)) => {
                            let is_new = self.known.insert((client, it.at.device));
                            assert!(is_new, "{client} was told twice that {} came", it.at.device);
                        }
                        Outgoing::Event(Event::DeviceGone(device)) => {
                            // Who came after the loss knows it from the list.
                            assert!(self.known.contains(&(client, *device)), "gone, never there");
                            assert!(self.told_gone.insert((client, *device)), "gone twice");
                        }
                        Outgoing::Event(_) => {}
                    }
                    sent.push((client, message));
                }
                Effect::Stand(device, standing) => {
                    let drains = standing == Standing::Draining;
                    assert_ne!(self.draining.contains_key(&device), drains, "said again");
                    if drains {
                        self.draining.insert(device, self.gates[&device].counts());
                    } else {
                        self.draining.remove(&device);
                    }
                }
                Effect::AddDevice { device, gate, .. } => {
                    if !self.gates.contains_key(&device) {
                        self.fresh(device.0);
                    }
                    self.gates.insert(device, gate);
                }
                Effect::Watch { fence, device, ender, .. }
                | Effect::SubmitPoint { fence, device, ender, .. } => {
                    // What comes out of the queue after the loss is ended at once.
                    let lost = self.gates[&device].is_lost();
                    self.watched.insert(fence, (device, ender));
                    if lost {
                        self.watched.remove(&fence);
                        let at_ns = self.now_ns;
                        let state = FenceState::Failed { cause: Cause::Unplugged, at_ns };
                        let mut out = Vec::new();
                        self.broker.fence_ended(fence, state, &mut out);
                        sent.extend(self.carry_out(out));
                    }
                }
                Effect::Allocate(allocation) => self.allocations.push(allocation),
                Effect::AddTimeline { timeline, line, .. } => {
                    assert!(self.lines.insert(timeline, line).is_none());
                }
                Effect::DropTimeline(timeline) => {
                    assert!(self.lines.remove(&timeline).is_some(), "a timeline goes once");
                }
                Effect::EndPromises { timeline, errno } => {
                    let mut out = Vec::new();
                    self.broker.promises_ended(timeline, errno, self.now_ns, &mut out);
                    sent.extend(self.carry_out(out));
                }
                // An old kernel now and then.
                Effect::WatchPoint { timeline, point } if point % 3 == 0 => {
                    let error = WireError::new(ErrorCode::UNSUPPORTED, "an old kernel");
                    let mut out = Vec::new();
                    self.broker.watch_failed(timeline, point, &error, &mut out);
                    sent.extend(self.carry_out(out));
                    let known = &self.broker.timelines[&timeline];
                    assert!(!known.waits.contains_key(&point), "nobody is left waiting");
                }
                Effect::ProbePoint { timeline, point, client, id } => {
                    let mut out = Vec::new();
                    let now_ns = self.now_ns;
                    self.broker.point_probed(now_ns, timeline, point, None, (client, id), &mut out);
                    sent.extend(self.carry_out(out));
                }
                Effect::EndRehearsed { fences, guards, .. } => {
                    for fence in fences {
                        assert!(self.watched.remove(&fence).is_some(), "I3: it ended once");
                    }
                    for (fence, ender) in guards {
                        let (_, of) = self.watched.get_mut(&fence).expect("it goes on");
                        assert!(of.replace(ender).is_some(), "it had a guard");
                    }
                }
                Effect::Attach { client, id, .. } => {
                    let mut out = Vec::new();
                    self.broker.attached(client, id, Ok(()), &mut out);
                    sent.extend(self.carry_out(out));
                }
                Effect::Probe { fence, client, id } => {
                    let mut out = Vec::new();
                    self.broker.probed(fence, client, id, &mut out);
                    sent.extend(self.carry_out(out));
                }
                Effect::ForgetDevice(device) => {
                    assert!(self.gone.insert(device), "a device goes once");
                    assert_eq!(self.gates[&device].counts(), crate::view::Counts::default());
                    self.gates.remove(&device);
                }
                Effect::Disconnect(client) => {
                    self.clients.retain(|other| *other != client);
                    let mut out = Vec::new();
                    self.broker.disconnect(client, &mut out);
                    sent.extend(self.carry_out(out));
                }
                _ => {}
            }
        }
        sent
    }

    fn ask(&mut self, client: ClientId, request: Checked<Fake>) -> Reply {
        self.request += 1;
        let id = self.request;
        let mut out = Vec::new();
        self.broker.request(self.now_ns, client, id, request, &mut out);
        let sent = self.carry_out(out);
        assert_eq!(self.replies.get(&id), Some(&1), "a request has one reply");
        sent.into_iter()
            .find_map(|(to, message)| match message {
                Outgoing::Reply(of, reply) if of == id && to == client => Some(reply),
                _ => None,
            })
            .expect("the reply goes to who asked")
    }

    /// A wait is answered when its point is over, and never before.
    fn point_told(&mut self, id: u64, state: PointState) {
        if self.asked_to_wait.contains(&id) {
            assert!(state.is_over(), "a wait was answered with {state:?}");
        }
    }

    /// A reply may name a device that its reader knows, and has not been told the loss of.
    fn knows(&self, client: ClientId, device: DeviceId) {
        assert!(self.known.contains(&(client, device)), "{client} never heard of {device}");
        assert!(!self.told.contains(&(client, device)), "{client} was told that {device} is lost");
    }

    /// The client's name for a device.
    fn named(&self, client: ClientId, device: DeviceId) -> DeviceId {
        let mut message = Outgoing::Event(Event::DeviceGone(device));
        self.broker.address(client, &mut message);
        match message {
            Outgoing::Event(Event::DeviceGone(named)) => named,
            _ => unreachable!("a message keeps its kind"),
        }
    }

    /// Clients, and whether they share it, by what a handle stands for.
    fn holders(&self) -> HashMap<ObjectId, BTreeSet<(ClientId, bool)>> {
        let mut holders = HashMap::<_, BTreeSet<_>>::new();
        for (&client, known) in &self.broker.clients {
            for (object, what) in &known.objects {
                let (of, shares) = match what {
                    Owned::Fence | Owned::Timeline => (object, true),
                    Owned::FenceImport => (&self.broker.fence_imports[object], false),
                    Owned::TimelineImport => (&self.broker.timeline_imports[object], false),
                    Owned::Buffer | Owned::Import | Owned::Inhibitor | Owned::Lost(_) => continue,
                };
                holders.entry(*of).or_default().insert((client, shares));
            }
        }
        holders
    }

    /// All that the other clients have: their objects with how they stand.
    fn of_others(&self, client: ClientId) -> String {
        let mut all = Vec::new();
        for (&other, known) in self.broker.clients.iter().filter(|(other, _)| **other != client) {
            for (&object, what) in &known.objects {
                let stands = match what {
                    Owned::Fence => format!("{:?}", self.broker.fences[&object].state),
                    Owned::FenceImport => {
                        let fence = self.broker.fence_imports[&object];
                        format!("{fence} {:?}", self.broker.fences[&fence].state)
                    }
                    Owned::Timeline => format!("{:?}", self.broker.timelines[&object].lost),
                    Owned::TimelineImport => {
                        let timeline = self.broker.timeline_imports[&object];
                        format!("{timeline} {:?}", self.broker.timelines[&timeline].lost)
                    }
                    Owned::Buffer => format!("{:?}", self.broker.buffers[&object].device),
                    Owned::Import => {
                        let import = &self.broker.imports[&object];
                        let buffer = self.broker.buffers.contains_key(&import.buffer);
                        format!("{:?} {buffer}", import.device)
                    }
                    Owned::Inhibitor | Owned::Lost(_) => String::new(),
                };
                all.push((other, object, format!("{what:?} {stands}")));
            }
        }
        all.sort();
        format!("{all:?}")
    }

    /// Rehearses a loss for one client: it is told, and others lose nothing.
    fn rehearse_for(&mut self, n: usize, m: usize, guards_fail: bool) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let mut devices: Vec<_> = self.gates.keys().copied().collect();
        devices.sort_unstable();
        let Some(device) = Self::pick(&devices, m) else { return };
        let mut guards = HashMap::new();
        if !guards_fail {
            for fence in self.broker.plan_rehearsal(device, client) {
                let guard = (Counted::new(&self.open), Counted::new(&self.open));
                guards.insert(fence, guard);
            }
        }
        let (holders, others) = (self.holders(), self.of_others(client));
        let imports = self.broker.imports.values();
        let imports = imports.filter(|it| it.client == client && it.device == Some(device)).count();
        let knew = self.named(client, device);
        let mut out = Vec::new();
        let result = self.broker.rehearse_for(self.now_ns, 0, device, client, guards, &mut out);
        let Ok(done) = result else {
            assert!(self.gates[&device].is_lost() && out.is_empty());
            return;
        };
        self.fresh(done.epoch.0);
        self.fresh(done.comes_as.0);
        assert_eq!((done.lost, self.named(client, device)), (knew, done.comes_as));
        for effect in &out {
            let Effect::EndRehearsed { fences, timelines, guards } = effect else { continue };
            for of in fences.iter().chain(timelines).filter_map(|of| holders.get(of)) {
                assert!(of.iter().all(|(other, _)| *other == client), "another one's ended");
            }
            for of in guards.iter().filter_map(|(fence, _)| holders.get(fence)) {
                let mut others = of.iter().filter(|(other, _)| *other != client);
                assert!(others.all(|(_, shares)| *shares), "another importer's guard ended");
            }
        }
        let sent = self.carry_out(out);
        assert_eq!(self.of_others(client), others, "others have what they had");
        assert!(sent.iter().all(|(to, _)| *to == client), "others were told");
        let told = sent.iter().find_map(|(_, message)| match message {
            Outgoing::Event(Event::DeviceLost(lost)) => Some(lost),
            _ => None,
        });
        let told = told.expect("the client is told");
        assert_eq!((told.device, told.cause), (knew, Cause::Rehearsed));
        assert_eq!(told.imports as usize, imports);
        let is_gone = self.told_gone.contains(&(client, knew));
        assert_eq!(is_gone, imports == 0, "what is not awaited is gone");
        assert!(self.known.contains(&(client, done.comes_as)), "it comes back");
    }

    /// I4: the source of a removable device's fence goes out by policy `pass` alone.
    fn never_raw(&self, device: DeviceId, guard: GuardKind, passed: bool) {
        let removable =
            self.broker.devices.get(&device).is_some_and(|device| device.desc.removable);
        assert!(!removable || passed || guard != GuardKind::Source, "I4: a raw fence of {device}");
    }

    fn objects_of(&self, client: ClientId) -> Vec<ObjectId> {
        let mut objects: Vec<_> = self.broker.clients[&client].objects.keys().copied().collect();
        objects.sort_unstable();
        objects
    }

    fn timelines_of(&self, client: ClientId) -> Vec<ObjectId> {
        let objects = &self.broker.clients[&client].objects;
        let mut timelines: Vec<_> = objects
            .iter()
            .filter(|(_, what)| matches!(what, Owned::Timeline | Owned::TimelineImport))
            .map(|(&object, _)| object)
            .collect();
        timelines.sort_unstable();
        timelines
    }

    fn node(card: u8) -> NodeId {
        NodeId(226, u64::from(card))
    }

    fn plug(&mut self, card: u8) {
        // As the kernel does: a minor in use is not given to another card.
        let busy =
            self.broker.devices.values().any(|device| {
                !device.gate.is_lost() && device.desc.nodes[0].id == Self::node(card)
            });
        if busy {
            return;
        }
        let desc = DeviceDesc {
            name: format!("card{card}"),
            pci: String::new(),
            parent_devpath: format!("/devices/{card}"),
            syspath: PathBuf::new(),
            birth: 0,
            driver: "model".to_owned(),
            nodes: vec![NodeDesc {
                id: Self::node(card),
                devname: format!("/dev/dri/card{card}"),
                devpath: format!("/devices/{card}/drm/card{card}"),
            }],
            removable: card > 0,
            removable_reason: "model".to_owned(),
        };
        let mut out = Vec::new();
        self.broker.device_added(desc, &mut out);
        self.carry_out(out);
    }

    fn close_gate(&mut self, n: usize) {
        let mut present: Vec<_> = self
            .gates
            .iter()
            .filter(|(_, gate)| !gate.is_lost())
            .map(|(&device, _)| device)
            .collect();
        present.sort_unstable();
        let Some(device) = Self::pick(&present, n) else { return };
        assert!(self.gates[&device].lose());
        // The reactor's sweep: every guard of the device is ended, once.
        self.watched.retain(|_, (of, _)| *of != device);
        self.closed.push(device);
    }

    fn lose(&mut self, n: usize) {
        let Some(device) = Self::pick(&self.closed, n) else { return };
        self.closed.retain(|other| *other != device);
        let greeted: Vec<_> =
            self.clients.iter().map(|&client| (client, self.named(client, device))).collect();
        let cause =
            if self.rehearsed.remove(&device) { Cause::Rehearsed } else { Cause::Unplugged };
        let parent = self.broker.devices[&device].desc.parent_devpath.clone();
        let now_ns = self.now_ns;
        let sweep = Sweep {
            cause,
            uevent_ns: now_ns,
            wall_clock_s: 0,
            gate_ns: now_ns,
            guards_ns: now_ns,
            guards: 0,
        };
        let mut fences = self.broker.pending_of(device);
        fences.retain(|fence| self.broker.fences[fence].point.is_none());
        let imports: Vec<_> = self.broker.devices[&device].imports.iter().copied().collect();
        let owners: Vec<_> =
            imports.iter().map(|it| (*it, self.uid(self.broker.imports[it].client))).collect();
        let mut out = Vec::new();
        self.broker.device_lost(now_ns, device, &sweep, &mut out);
        self.carry_out(out);
        let ended = Ended { cause, at_ns: now_ns };
        for fence in fences {
            assert_eq!(self.broker.cause_of(0, fence, 0), Some(ended), "the cause of {fence}");
        }
        self.failed.extend(owners.into_iter().map(|(import, uid)| (import, (uid, ended))));
        for (client, device) in greeted {
            assert!(self.told.contains(&(client, device)), "I6: {client} was not told");
        }
        let mut present = self.broker.devices.iter().filter(|(_, it)| it.lost.is_none());
        let back = present.any(|(_, it)| it.desc.parent_devpath == parent);
        assert!(cause != Cause::Rehearsed || back, "a rehearsed device comes back");
    }

    fn uid(&self, client: ClientId) -> u32 {
        self.broker.clients[&client].creds.uid
    }

    /// As the reactor: what is guarded ends, the rest stays watched.
    fn wedge(&mut self, n: usize, has_recovered: bool) {
        let mut present: Vec<_> = self.gates.keys().copied().collect();
        present.retain(|device| !self.gates[device].is_lost());
        present.sort_unstable();
        let Some(device) = Self::pick(&present, n) else { return };
        let is_ended = |of: &DeviceId, guarded: bool| *of == device && guarded && !has_recovered;
        let mut fences = Vec::new();
        self.watched.retain(|&fence, (of, ender)| {
            let ended = is_ended(of, ender.is_some());
            if ended {
                fences.push(fence);
            }
            !ended
        });
        let before = self.broker.devices[&device].gate.counts();
        let mut handles: HashMap<ClientId, u32> =
            self.clients.iter().map(|client| (*client, 0)).collect();
        let mut points = Vec::new();
        for known in fences.iter().map(|fence| &self.broker.fences[fence]) {
            let mut owners: Vec<_> = known.handles.iter().map(|(client, _)| *client).collect();
            if let Some((timeline, point)) = known.point {
                let of = &self.broker.timelines[&timeline];
                owners.extend(of.importers.iter().map(|(client, _)| *client).chain(of.maker));
                points.extend(of.importers.iter().map(|(_, handle)| (*handle, point)));
                points.extend(of.maker.map(|_| (timeline, point)));
            }
            for client in owners {
                *handles.get_mut(&client).unwrap() += 1;
            }
        }
        let own = fences.iter().filter(|it| self.broker.fences[it].point.is_none());
        points.extend(own.map(|fence| (*fence, 0)));
        let wedge = Wedge {
            recovery: if has_recovered { "none" } else { "rebind" }.to_owned(),
            has_recovered,
            at_ns: self.now_ns,
            fences: fences.clone(),
            ..Wedge::default()
        };
        let mut out = Vec::new();
        self.broker.device_wedged(device, &wedge, &mut out);
        let mut told = HashMap::new();
        for (client, message) in self.carry_out(out) {
            if let Outgoing::Event(Event::DeviceWedged(event)) = message {
                let known_as = self.named(client, device);
                assert_eq!((event.device, &event.recovery), (known_as, &wedge.recovery));
                assert_eq!(told.insert(client, event.fences), None, "I6: told twice");
            }
        }
        assert_eq!(told, handles, "every client is told of its own fences");
        let known = &self.broker.devices[&device];
        assert!(known.lost.is_none() && !known.gate.is_lost(), "it is still there");
        assert_eq!(known.wedged, wedge.recovery);
        let ended = u32::try_from(fences.len()).unwrap();
        let after = known.gate.counts();
        // A timeline that nobody has goes with its last point.
        let counts = crate::view::Counts { timelines: after.timelines, ..before };
        assert_eq!(after, crate::view::Counts { fences: before.fences - ended, ..counts });
        for (object, point) in points {
            let ended = Ended { cause: Cause::Wedged, at_ns: self.now_ns };
            let told = self.broker.cause_of(0, object, point);
            assert_eq!(told, Some(ended), "the cause of {object}, {point}");
        }
        for fence in fences {
            // What comes late is not believed.
            assert!(!self.broker.end_fence(fence, FenceState::Ok { at_ns: self.now_ns }));
        }
    }

    fn apply(&mut self, op: Op) {
        self.now_ns += 1;
        let layout = |planes: u8| Layout {
            width: 4,
            height: 4,
            fourcc: drm_fourcc::DrmFourcc::Xrgb8888 as u32,
            modifier: 0,
            planes: vec![Plane { offset: 0, stride: 16 }; usize::from(planes)],
        };
        match op {
            Op::Connect => {
                let uid = u32::try_from(self.clients.len() % 2).unwrap();
                let creds = Credentials { pid: 1, uid, unit: String::new() };
                let mut out = Vec::new();
                let result = self.broker.connect(creds, &mut out);
                self.carry_out(out);
                if let Ok(client) = result {
                    self.fresh(client.0);
                    let hello = Hello {
                        version_min: 1,
                        version_max: 1,
                        features: 0,
                        name: "model".to_owned(),
                    };
                    let reply = self.ask(client, Checked::Hello(hello));
                    assert!(matches!(reply, Reply::Welcome(_)));
                    self.clients.push(client);
                    self.ask(client, Checked::ListDevices);
                }
            }
            Op::Disconnect(n) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                self.clients.retain(|other| *other != client);
                // Some of what it has goes before it does.
                let mut out = Vec::new();
                self.broker.let_go_of_some(client, 2, &mut out);
                self.carry_out(out);
                let mut out = Vec::new();
                self.broker.disconnect(client, &mut out);
                self.carry_out(out);
            }
            Op::Plug(card) => self.plug(card),
            Op::CloseGate(n) => self.close_gate(n),
            Op::Lose(n) => self.lose(n),
            Op::Wedge(n, has_recovered) => self.wedge(n, has_recovered),
            Op::Export(n, card, planes) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let plane = |inode| CheckedPlane {
                    fd: Counted::new(&self.open),
                    inode,
                    size: 64,
                    exporter: "drm".to_owned(),
                };
                let checked = (0..planes).map(|i| plane(u64::from(i))).collect();
                let node = Self::node(card);
                self.ask(client, Checked::Export { node, layout: layout(planes), planes: checked });
            }
            Op::Grant(n, m, uses) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(object) = Self::pick(&self.objects_of(client), m) else { return };
                let to = if m % 3 == 0 { Grantee::Uid(0) } else { Grantee::Anyone };
                let grant = Grant { object, to, uses, ttl_ms: 1 + u32::try_from(m).unwrap() * 100 };
                let token = Token(self.next_token.to_le_bytes());
                self.next_token += 1;
                let reply = self.ask(client, Checked::Grant(grant, token));
                if reply == Reply::Granted(token) && self.passed_fences.contains(&object) {
                    self.passed.insert(token);
                }
            }
            Op::Import(n, m) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(token) = Self::pick(&self.tokens, m) else { return };
                self.ask(client, Checked::Import { token, by: None });
            }
            Op::Share(n, card, how) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let node = Self::node(card);
                let policy =
                    [Policy::Auto, Policy::Guard, Policy::Pass, Policy::Auto][usize::from(how)];
                let plan = self.broker.plan_fence(client, node, policy);
                let source = Counted::new(&self.open);
                let source = match plan {
                    _ if how == 3 => CheckedFence::Ended(Err(5)),
                    Ok(FencePlan { guard: true, .. }) => CheckedFence::Guarded {
                        source,
                        guard: Counted::new(&self.open),
                        ender: Counted::new(&self.open),
                        kind: GuardKind::Simulated,
                    },
                    _ => CheckedFence::Passed(source),
                };
                let options = ShareFence { policy, deadline_ms: 0 };
                let reply = self.ask(client, Checked::ShareFence { node, options, source });
                if let Reply::FenceShared(fence) = reply {
                    let passed = policy == Policy::Pass;
                    self.never_raw(fence.at.device, fence.guard, passed);
                    if passed {
                        self.passed_fences.insert(fence.fence);
                    }
                }
            }
            Op::ImportFence(n, m) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(token) = Self::pick(&self.tokens, m) else { return };
                let reply = self.ask(client, Checked::ImportFence(token));
                if let Reply::FenceImported(fence) = reply {
                    self.never_raw(fence.at.device, fence.guard, self.passed.contains(&token));
                }
            }
            Op::EndFence(n, ok) => {
                let mut fences: Vec<_> = self.watched.keys().copied().collect();
                fences.sort_unstable();
                let Some(fence) = Self::pick(&fences, n) else { return };
                self.watched.remove(&fence);
                let at_ns = self.now_ns;
                let state = ended(if ok { Ok(()) } else { Err(5) }, at_ns);
                let mut out = Vec::new();
                self.broker.fence_ended(fence, state, &mut out);
                self.carry_out(out);
            }
            Op::Query(n, m) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(object) = Self::pick(&self.objects_of(client), m) else { return };
                self.ask(client, Checked::QueryFence(object));
            }
            Op::Release(n, m) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(object) = Self::pick(&self.objects_of(client), m) else { return };
                let reply = self.ask(client, Checked::Release(object));
                assert_eq!(reply, Reply::Done(()));
                let again = self.ask(client, Checked::Release(object));
                assert!(matches!(again, Reply::Error(error)
                    if error.code == ErrorCode::UNKNOWN_OBJECT));
            }
            Op::ReleaseForeign(n, m) => {
                let (Some(client), Some(other)) =
                    (Self::pick(&self.clients, n), Self::pick(&self.clients, n + 1))
                else {
                    return;
                };
                let Some(object) = Self::pick(&self.objects_of(other), m) else { return };
                if client != other {
                    let reply = self.ask(client, Checked::Release(object));
                    assert!(matches!(reply, Reply::Error(error)
                        if error.code == ErrorCode::UNKNOWN_OBJECT));
                }
            }
            Op::Acknowledge(n, m) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                // What it was told of, and an id that it may never have heard of.
                let lost = self.told.iter().filter(|(of, _)| *of == client).map(|(_, id)| *id);
                let alive = self.gates.keys().copied().filter(|_| m % 4 == 0);
                let mut devices: Vec<_> = lost.chain(alive).collect();
                devices.sort_unstable();
                let Some(device) = Self::pick(&devices, devices.len().wrapping_sub(1 + m % 8))
                else {
                    return;
                };
                let reply = self.ask(client, Checked::Acknowledge(device));
                let was_told = self.told.contains(&(client, device));
                let is_done = reply == Reply::Done(());
                let named = self.broker.reports.len() < REPORTS;
                assert!(
                    !was_told || is_done || !named,
                    "{client} acknowledges {device}: {reply:?}"
                );
            }
            Op::Timeline(n, card, how) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let policy = [Policy::Auto, Policy::Guard, Policy::Pass][usize::from(how % 3)];
                let direction = if how < 3 { Direction::Acquire } else { Direction::Release };
                let node = Self::node(card);
                let made = CheckedTimeline {
                    syncobj: Counted::new(&self.open),
                    hangup: Counted::new(&self.open),
                    line: Counted::new(&self.open),
                };
                let options = CreateTimeline { policy, direction };
                let reply = self.ask(client, Checked::CreateTimeline { node, options, made });
                if let Reply::Timeline(it) = reply {
                    self.never_raw(it.at.device, it.guard, false);
                }
            }
            Op::ImportTimeline(n, m) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(token) = Self::pick(&self.tokens, m) else { return };
                self.ask(client, Checked::ImportTimeline(token));
            }
            Op::Promise(n, m, point) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(timeline) = Self::pick(&self.timelines_of(client), m) else { return };
                let reply = self.ask(client, Checked::PromisePoint(PointAt { timeline, point }));
                if reply == Reply::Done(()) {
                    assert!(point > 0);
                    let again = Checked::PromisePoint(PointAt { timeline, point });
                    let again = self.ask(client, again);
                    assert!(matches!(again, Reply::Error(it) if it.code == ErrorCode::BAD_VALUE));
                }
            }
            Op::Submit(n, m, point, card) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(timeline) = Self::pick(&self.timelines_of(client), m) else { return };
                let to = PointAt { timeline, point };
                let submit = SubmitPoint { to, deadline_ms: 0 };
                let node = Self::node(card);
                let source = (card < 3).then(|| {
                    let source = Counted::new(&self.open);
                    match self.broker.plan_point(client, node, submit) {
                        Ok(PointPlan { guard: true }) => CheckedFence::Guarded {
                            source,
                            guard: Counted::new(&self.open),
                            ender: Counted::new(&self.open),
                            kind: GuardKind::Simulated,
                        },
                        _ => CheckedFence::Passed(source),
                    }
                });
                let source = source.map(|source| (node, source));
                let done = source.is_none();
                let reply = self.ask(client, Checked::SubmitPoint { submit, source });
                if reply == Reply::Done(()) {
                    let again = Checked::SubmitPoint { submit, source: None };
                    let again = self.ask(client, again);
                    assert!(matches!(again, Reply::Error(_)), "a point is submitted once");
                    let state = self.ask(client, Checked::QueryPoint(to));
                    assert!(
                        done || matches!(state, Reply::PointState(it) if it != PointState::Promised)
                    );
                }
            }
            Op::Point(n, m, point, wait) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let Some(timeline) = Self::pick(&self.timelines_of(client), m) else { return };
                let at = PointAt { timeline, point };
                if !wait {
                    self.ask(client, Checked::QueryPoint(at));
                    return;
                }
                self.request += 1;
                let id = self.request;
                self.asked_to_wait.insert(id);
                self.waits.insert(id, client);
                let mut out = Vec::new();
                self.broker.request(self.now_ns, client, id, Checked::WaitPoint(at), &mut out);
                self.carry_out(out);
            }
            Op::Attach(n, m, k) => {
                let Some(client) = Self::pick(&self.clients, n) else { return };
                let objects = self.objects_of(client);
                let (Some(fence), Some(buffer)) =
                    (Self::pick(&objects, m), Self::pick(&objects, k))
                else {
                    return;
                };
                let access = Access::Write;
                self.ask(client, Checked::AttachFence(AttachFence { fence, buffer, access }));
            }
            Op::Rehearse(n) => {
                let before = self.closed.len();
                self.close_gate(n);
                self.rehearsed.extend(&self.closed[before..]);
            }
            Op::RehearseFor(n, m, guards_fail) => self.rehearse_for(n, m, guards_fail),
            Op::Allocate(n, height, how) => self.allocate(n, height, how),
            Op::Allocated(n, ok) => self.memory_comes(n, ok),
            Op::Declare(n, m, survives) => self.declare(n, m, survives),
            Op::Inhibit(n, m, how) => self.inhibit(n, m, how),
            Op::InhibitByBus(n, how) => self.inhibit_by_bus(n, how),
            Op::Restart => self.restart(),
            Op::Drain(n, begins) => {
                let devices: Vec<_> =
                    self.gates.keys().copied().collect::<BTreeSet<_>>().into_iter().collect();
                let Some(device) = Self::pick(&devices, n) else { return };
                let mut out = Vec::new();
                match begins {
                    true => self.broker.drain(device, "an eject".to_owned(), &mut out),
                    false => self.broker.undrain(device, &mut out),
                }
                self.carry_out(out);
            }
            Op::Tick(by) => {
                self.now_ns += by;
                let mut out = Vec::new();
                self.broker.tick(self.now_ns, &mut out);
                let late: Vec<_> = out
                    .iter()
                    .filter_map(|effect| match effect {
                        Effect::Overdue { client, .. } => Some(*client),
                        _ => None,
                    })
                    .collect();
                self.carry_out(out);
                // The policy `disconnect`.
                for client in late {
                    self.clients.retain(|other| *other != client);
                    let mut out = Vec::new();
                    self.broker.disconnect(client, &mut out);
                    self.carry_out(out);
                }
            }
        }
    }

    /// Whatever has failed has a cause, which stays, and which nobody else is told.
    fn check_causes(&mut self) {
        for known in self.broker.clients.values() {
            let uid = known.creds.uid;
            for (&object, what) in &known.objects {
                let fence = match what {
                    Owned::Fence => object,
                    Owned::FenceImport => self.broker.fence_imports[&object],
                    _ => continue,
                };
                let FenceState::Failed { cause, at_ns } = self.broker.fences[&fence].state else {
                    assert_eq!(self.broker.cause_of(0, object, 0), None, "{object} is well");
                    continue;
                };
                self.failed.insert(object, (uid, Ended { cause, at_ns }));
            }
        }
        for (&object, &(uid, ended)) in &self.failed {
            assert_eq!(self.broker.cause_of(uid, object, 0), Some(ended), "the cause of {object}");
            assert_eq!(self.broker.cause_of(0, object, 0), Some(ended), "root may ask");
            assert_eq!(self.broker.cause_of(7, object, 0), None, "a stranger");
        }
        assert!(self.broker.causes.len() <= 4096, "I8: causes");
    }

    /// What is about to be ejected gets nothing new; its fences run on.
    fn check_draining(&mut self) {
        self.draining.retain(|device, had| {
            let Some(gate) = self.gates.get(device) else { return false };
            let has = gate.counts();
            let more = has.buffers > had.buffers
                || has.imports > had.imports
                || has.timelines > had.timelines;
            assert!(!more, "something new is made of {device}, which drains");
            *had = has;
            true
        });
    }

    /// Who watches sees each pending fence once, in the class of its age.
    fn check_activity(&self) {
        for it in self.broker.activity(self.now_ns) {
            let counts = self.broker.devices[&DeviceId(it.device)].gate.counts();
            assert_eq!(it.ages.iter().sum::<u32>(), counts.fences, "ages of {}", it.device);
            assert!(it.oldest_ns < self.now_ns && it.fences >= counts.fences.into());
            assert!(it.buffers >= counts.buffers.into());
        }
    }

    fn check(&mut self) {
        self.check_activity();
        self.check_causes();
        self.check_draining();
        self.check_neutral();
        // Who has left is not answered.
        let clients = &self.broker.clients;
        self.waits.retain(|_, client| clients.contains_key(client));
        let broker = &self.broker;
        for (id, device) in &broker.devices {
            let counts = device.gate.counts();
            let count = |n: usize| u32::try_from(n).unwrap();
            let buffers = broker.buffers.values().filter(|it| it.device == Some(*id)).count();
            let imports = broker.imports.values().filter(|it| it.device == Some(*id)).count();
            let fences = broker
                .fences
                .values()
                .filter(|it| it.at.device == *id && it.pending.is_some())
                .count();
            assert_eq!(counts.buffers, count(buffers), "I1 buffers of {id}");
            assert_eq!(counts.imports, count(imports), "I1 imports of {id}");
            assert_eq!(counts.fences, count(fences), "I1 fences of {id}");
            let timelines = broker
                .timelines
                .values()
                .filter(|it| it.at.device == *id && it.lost.is_none())
                .count();
            assert_eq!(counts.timelines, count(timelines), "I1 timelines of {id}");
            assert_eq!(device.timelines.len(), timelines);
            assert_eq!(device.buffers.len(), buffers);
            assert_eq!(device.imports.len(), imports);
            assert_eq!(device.fences.len(), fences);
            if device.lost.is_some() {
                assert_eq!(
                    counts.buffers + counts.fences + counts.timelines,
                    0,
                    "a lost device has only imports"
                );
                assert_ne!(counts.imports, 0, "a lost device with nothing is gone");
            }
        }
        for object in broker.tokens.usable() {
            let buffer = broker.buffers.get(&object);
            if buffer.is_some_and(|buffer| buffer.device.is_none()) {
                continue;
            }
            let device = buffer
                .and_then(|buffer| buffer.device)
                .or_else(|| broker.fences.get(&object).map(|fence| fence.at.device))
                .or_else(|| broker.timelines.get(&object).map(|it| it.at.device));
            let device = device.expect("a usable token is of something");
            let is_lost = broker.devices.get(&device).is_none_or(|it| it.lost.is_some());
            let is_ended = broker.fences.get(&object).is_some_and(|it| it.pending.is_none());
            assert!(!is_lost || is_ended, "a lost device has no usable token");
        }
        for fence in broker.fences.values() {
            assert!(
                !fence.handles.is_empty() || fence.pending.is_some(),
                "nothing is kept for nobody"
            );
        }
        // I5: descriptors in the tables, the fake reactor's, and the state page are all there is.
        let planes: usize = broker.buffers.values().map(neutral::descriptors).sum();
        let given = broker.fences.values().filter_map(|fence| fence.pending.as_ref());
        let given = given.filter(|pending| pending.fd.is_some()).count();
        let of_lines = 2 * broker.timelines.len() + self.lines.len();
        assert_eq!(
            self.lines.len(),
            broker.timelines.len(),
            "the reactor knows the same timelines"
        );
        let enders = self.watched.values().filter(|(_, ender)| ender.is_some()).count();
        assert_eq!(self.open.get(), 1 + planes + given + enders + of_lines, "I5: open descriptors");
        super::accounts::check::agree(broker, &self.allocations);
        for timeline in broker.timelines.values() {
            let pending = broker.fences.values().filter(|fence| fence.pending.is_some());
            let pending = pending.filter(|fence| {
                fence.point.is_some_and(|(of, _)| std::ptr::eq(&broker.timelines[&of], timeline))
            });
            assert_eq!(timeline.points.pending(), pending.count(), "a point a pending fence");
            assert!(
                timeline.maker.is_some()
                    || !timeline.importers.is_empty()
                    || timeline.points.pending() > 0,
                "a timeline is kept for nobody"
            );
        }
        for (client, known) in &broker.clients {
            let made = self.allocations.iter().filter(|it| it.client == *client).count();
            let waits = made + self.waits.values().filter(|of| *of == client).count();
            assert_eq!(known.waits, waits, "waits of {client}");
            assert!(waits <= 4, "I8: {client} waits too often");

            let handles = broker.fences.values().flat_map(|fence| &fence.handles);
            let objects = known.objects.values();
            assert_eq!(
                handles.filter(|(of, _)| of == client).count(),
                objects.filter(|it| matches!(it, Owned::Fence | Owned::FenceImport)).count(),
                "I1 fences of {client}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("DMASHARE_MODEL_CASES")
            .ok().and_then(|n| n.parse().ok()).unwrap_or(2000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn invariants_hold_after_every_operation(ops in proptest::collection::vec(op(), 1..300)) {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
            model.keep();
            model.check();
        }
        // Everyone leaves, every card is pulled: nothing is left.
        while let Some(client) = model.clients.pop() {
            let mut out = Vec::new();
            model.broker.disconnect(client, &mut out);
            model.carry_out(out);
        }
        model.rehearsed.clear();
        while model.gates.values().any(|gate| !gate.is_lost()) {
            model.close_gate(0);
        }
        while !model.closed.is_empty() {
            model.lose(0);
        }
        prop_assert!(model.broker.devices.is_empty());
        prop_assert!(model.broker.buffers.is_empty());
        prop_assert!(model.broker.imports.is_empty());
        prop_assert!(model.broker.fences.is_empty());
        prop_assert!(model.broker.fence_imports.is_empty());
        prop_assert!(model.broker.timelines.is_empty());
        prop_assert!(model.broker.timeline_imports.is_empty());
        model.nothing_neutral_is_left();
        model.nothing_is_kept();
        prop_assert_eq!(model.open.get(), 1);
    }
}
