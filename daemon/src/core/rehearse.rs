//! A loss that is rehearsed: for all clients (the reactor loses the device, and it comes back as a new
//! one), or for one client, which nobody else notices.
//!
//! For one client, what it alone has of the device ends. Its imports move to a device of their own,
//! an *epoch* that was lost from the beginning and that only this client sees: it is told, awaited,
//! overdue and gone as every lost device is. To this client the epoch goes by the id that it knew the
//! device by until then, and the device itself by a new one. So an id means one thing everywhere in
//! the core, and is translated at its border: [`Broker::address`] on the way out,
//! [`Broker::meant`] on the way in.
//!
//! What the client shares with others stays: a guard that another importer has too, a timeline that
//! somebody else has. The state page is everybody's, so the device's word does not change: the client
//! learns of the loss by `DeviceLost`, and by the fences that end.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use dmashare_proto::message::{Cause, DeviceInfo, DeviceLost, Event, FenceState, GuardKind, Reply};
use dmashare_proto::report::{Mark, RehearsedFor, Step, UnplugReport};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, WireError};

use super::activity::Made;
use super::buffers::Import;
use super::device::Device;
use super::fences::Fence;
use super::{Broker, Effect, Effects, Handles, Outgoing, Owned};
use crate::devices::DeviceDesc;
use crate::gate::{Gate, Kind};
use crate::id_map::IdMap;

/// Lost epochs that a client's late words are still understood of, beyond those that it has objects of.
const REMEMBERED: usize = 32;

/// The ids by which one client knows devices, where they are not the core's own.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// The core's, and the client's. No client's id stands twice.
    pub theirs: BTreeMap<DeviceId, DeviceId>,
}

impl Epochs {
    fn theirs(&self, ours: DeviceId) -> DeviceId {
        self.theirs.get(&ours).copied().unwrap_or(ours)
    }

    /// `None` for an id of the core's that the client does not know.
    fn ours(&self, theirs: DeviceId) -> Option<DeviceId> {
        let known = self.theirs.iter().find(|(_, known)| **known == theirs);
        match known {
            Some((&ours, _)) => Some(ours),
            None => (!self.theirs.contains_key(&theirs)).then_some(theirs),
        }
    }
}

/// Why a loss is not rehearsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRehearsed {
    /// The device is lost, or was never there.
    DeviceLost(DeviceId),
    /// There is no such client (any more).
    NoClient(ClientId),
    /// The device could not come back: the state page is full.
    NoRoom,
}

/// A loss that one client is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rehearsed {
    /// The broker's id for what the client lost.
    pub epoch: DeviceId,
    /// The id by which the client knew the device.
    pub lost: DeviceId,
    /// The id by which it knows it from here.
    pub comes_as: DeviceId,
    /// Buffers that were taken out of its tables.
    pub buffers: u32,
    /// Imports that it is to let go of.
    pub imports: u32,
    /// Its fences and points that ended.
    pub fences: u32,
}

/// Who has to do with a pending fence.
#[derive(Default)]
struct Stakes {
    /// The client shared it.
    mine: bool,
    /// The client's own handles on it, as an importer.
    imports: Vec<ObjectId>,
    others_import: bool,
    others_share: bool,
}

impl Stakes {
    /// The client's guard is its alone, and the fence is not.
    fn is_split(&self) -> bool {
        !self.mine && !self.imports.is_empty() && !self.others_import && self.others_share
    }

    /// Nobody else has to do with it.
    fn is_mine_alone(&self) -> bool {
        !self.others_import && !self.others_share
    }
}

impl<H: Handles> Broker<H> {
    /// Whether a loss of the device can be rehearsed now, for all or for one client; gives that
    /// client's user.
    ///
    /// # Errors
    /// Why not.
    pub fn may_rehearse(
        &self,
        device: DeviceId,
        client: Option<ClientId>,
    ) -> Result<Option<u32>, NotRehearsed> {
        let known = self.devices.get(&device).filter(|it| it.only_for.is_none());
        if known.is_none_or(|device| device.gate.is_lost()) {
            return Err(NotRehearsed::DeviceLost(device));
        }
        let Some(client) = client else {
            return if self.slots.has_room() { Ok(None) } else { Err(NotRehearsed::NoRoom) };
        };
        let known = self.clients.get(&client).filter(|client| client.greeted);
        let known = known.ok_or(NotRehearsed::NoClient(client))?;
        Ok(Some(known.creds.uid))
    }

    /// The fences that want a new guard, since theirs is to end for one client and they go on.
    #[must_use]
    pub fn plan_rehearsal(&self, device: DeviceId, client: ClientId) -> Vec<ObjectId> {
        let stakes = self.stakes(device, client);
        let split = stakes.iter().filter(|(_, stakes)| stakes.is_split()).map(|(&fence, _)| fence);
        split.filter(|fence| self.fences[fence].guard != GuardKind::Source).collect()
    }

    /// Rehearses the loss of a device for one client. `guards` are new ones for the fences that
    /// [`Self::plan_rehearsal`] named; one without is left as it is.
    ///
    /// # Errors
    /// As [`Self::may_rehearse`].
    pub fn rehearse_for(
        &mut self,
        now_ns: u64,
        wall_clock_s: u64,
        device: DeviceId,
        client: ClientId,
        mut guards: IdMap<ObjectId, (H::Fd, H::Ender)>,
        out: &mut Effects<H>,
    ) -> Result<Rehearsed, NotRehearsed> {
        self.may_rehearse(device, Some(client))?;
        let (epoch, comes_as) = (self.ids.device(), self.ids.device());
        let lost = self.rename(client, device, epoch, comes_as);
        let imports = self.move_imports(client, device, epoch, now_ns);
        let buffers = self.give_up_buffers(client, device, epoch);

        let mut ended = Ended { failed: failed(now_ns), ..Ended::default() };
        self.end_timelines(client, device, epoch, &mut ended);
        self.end_fences(client, device, epoch, &mut guards, &mut ended);
        ended.fences.sort_unstable();
        let told = DeviceLost {
            device: epoch,
            cause: Cause::Rehearsed,
            at_ns: now_ns,
            buffers,
            imports,
            fences: ended.handles,
        };
        let known = &self.devices[&device];
        let report = UnplugReport {
            device,
            name: known.desc.name.clone(),
            driver: known.desc.driver.clone(),
            cause: Cause::Rehearsed,
            wall_clock_s,
            marks: [Step::Uevent, Step::GateClosed].map(|step| Mark { step, at_ns: now_ns }).into(),
            guards: ended.guarded,
            passed: ended.passed,
            promises: ended.promises,
            buffers,
            imports,
            told: 1,
            awaited: u32::from(imports > 0),
            implicit: Vec::new(),
            overdue: Vec::new(),
            rehearsed_for: Some(RehearsedFor { client, epoch }),
        };
        let comes: DeviceInfo = known.info(device);
        self.keep_report(report);
        let Ended { fences, timelines, swapped: guards, .. } = ended;
        out.push(Effect::EndRehearsed { fences, timelines, guards });
        out.push(Effect::Mark(epoch, Step::GuardsSignalled));
        out.push(Effect::event(client, Event::DeviceLost(told)));
        out.push(Effect::Mark(epoch, Step::ClientsTold));
        out.push(Effect::Mark(epoch, Step::FdsDropped));
        self.dirty_clients.insert(client);
        self.dirty_devices.insert(device);
        self.after(out);
        out.push(Effect::event(client, Event::DeviceAdded(comes)));
        Ok(Rehearsed { epoch, lost, comes_as, buffers, imports, fences: told.fences })
    }

    /// After a rehearsed loss the device is there, as a new one. If it went in the same instant, the
    /// reactor finds that when it is told of it.
    pub(super) fn comes_back(&mut self, desc: DeviceDesc, out: &mut Effects<H>) {
        // That there is a slot was seen when the rehearsal began; without one it stays away until it
        // is plugged in again.
        self.device_added(desc, out);
    }

    /// A message in the client's own ids of devices: for whoever carries out [`Effect::Send`].
    pub fn address(&self, client: ClientId, message: &mut Outgoing) {
        let Some(client) = self.clients.get(&client) else { return };
        let epochs = &client.epochs;
        if epochs.theirs.is_empty() {
            return;
        }
        let rename = |device: &mut DeviceId| *device = epochs.theirs(*device);
        match message {
            Outgoing::Reply(_, reply) => match reply {
                Reply::Devices(devices) => {
                    devices.iter_mut().for_each(|device| rename(&mut device.at.device));
                }
                Reply::Exported(it) => rename(&mut it.at.device),
                Reply::Imported(it) => {
                    it.at.iter_mut().for_each(|at| rename(&mut at.device));
                }
                Reply::FenceShared(it) => rename(&mut it.at.device),
                Reply::FenceImported(it) => rename(&mut it.at.device),
                Reply::Timeline(it) => rename(&mut it.at.device),
                Reply::Error(error) => {
                    // Ids are of one source, so an object's is never a device's.
                    let ours = DeviceId(error.object);
                    let theirs = epochs.theirs(ours);
                    error.object = theirs.0;
                    error.message = renamed(&error.message, ours, theirs);
                }
                _ => {}
            },
            Outgoing::Event(event) => match event {
                Event::DeviceAdded(it) => rename(&mut it.at.device),
                Event::DeviceLost(it) => rename(&mut it.device),
                Event::DeviceGone(device) => rename(device),
                Event::DeviceWedged(it) => rename(&mut it.device),
                Event::RemovalRequested(it) => rename(&mut it.device),
                Event::DeviceStays(device) => rename(device),
                _ => {}
            },
        }
    }

    /// The device that a client means by an id.
    pub(super) fn meant(&self, client: ClientId, device: DeviceId) -> Result<DeviceId, WireError> {
        let ours = match self.clients.get(&client) {
            Some(client) => client.epochs.ours(device),
            None => Some(device),
        };
        ours.ok_or_else(|| {
            let text = format!("this client knows no device {device}");
            WireError::new(ErrorCode::UNKNOWN_DEVICE, text).about(device.0)
        })
    }

    /// The client lets go of nothing of an epoch any more.
    pub(super) fn epoch_over(&mut self, client: ClientId, id: DeviceId, out: &mut Effects<H>) {
        out.push(Effect::Mark(id, Step::Gone));
        if self.is_greeted(client) {
            out.push(Effect::event(client, Event::DeviceGone(id)));
        }
    }

    /// From here the client knows the device by a new id, and by the old one what it has lost.
    fn rename(
        &mut self,
        client: ClientId,
        device: DeviceId,
        epoch: DeviceId,
        comes_as: DeviceId,
    ) -> DeviceId {
        let of = client;
        let Some(client) = self.clients.get_mut(&client) else { return device };
        let theirs = &mut client.epochs.theirs;
        let lost = theirs.insert(device, comes_as).unwrap_or(device);
        theirs.insert(epoch, lost);
        self.notes.client(of);
        // Of most nothing is left; those that an object or a late acknowledgement may name are kept.
        if theirs.len() > 2 * REMEMBERED {
            let named: HashSet<DeviceId> = (client.objects.values())
                .filter_map(|what| match what {
                    Owned::Lost(device) => Some(*device),
                    _ => None,
                })
                .collect();
            let devices = &self.devices;
            let over = theirs.keys().copied().filter(|id| !devices.contains_key(id));
            let over: Vec<_> = over.filter(|id| *id != epoch && !named.contains(id)).collect();
            for old in &over[..over.len().saturating_sub(REMEMBERED)] {
                theirs.remove(old);
            }
        }
        lost
    }

    /// The client's imports of the device are an epoch's from here, which is lost.
    fn move_imports(
        &mut self,
        client: ClientId,
        device: DeviceId,
        epoch: DeviceId,
        now_ns: u64,
    ) -> u32 {
        let gate = Arc::<Gate>::default();
        let mut moved = HashSet::new();
        let Some(from) = self.devices.get_mut(&device) else { return 0 };
        let is_it = |import: &Import| import.client == client && import.device == Some(device);
        let imports = self.imports.iter().filter(|(_, import)| is_it(import));
        let imports: Vec<ObjectId> = imports.map(|(&id, _)| id).collect();
        for id in imports {
            let Some(import) = self.imports.get_mut(&id) else { continue };
            let Ok(reference) = Gate::acquire(&gate, Kind::Import) else { continue };
            import.device = Some(epoch);
            import._reference = Some(reference);
            from.imports.remove(&id);
            moved.insert(id);
        }
        gate.lose();
        let lost = Device {
            desc: from.desc.clone(),
            gate,
            slot: from.slot,
            generation: from.generation,
            lost: Some(Cause::Rehearsed),
            draining: false,
            made: Made::default(),
            buffers: HashSet::new(),
            imports: moved,
            fences: HashSet::new(),
            timelines: HashSet::new(),
            ack_deadline_ns: Some(now_ns + self.limits.ack_timeout_ns),
            acknowledged: false,
            only_for: Some(client),
            wedged: String::new(),
        };
        let imports: Vec<_> = lost.imports.iter().copied().collect();
        self.devices.insert(epoch, lost);
        self.notes.device(epoch);
        let uid = self.uid_of(client);
        for &import in &imports {
            self.note_cause(import, 0, uid, Cause::Rehearsed, now_ns);
        }
        let count = imports.len();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What the client exported of the device is not its own any more; others' imports stay.
    fn give_up_buffers(&mut self, client: ClientId, device: DeviceId, epoch: DeviceId) -> u32 {
        let of = |buffer: &ObjectId| self.buffers.get(buffer).map(|it| (it.device, it.exporter));
        let mine: Vec<ObjectId> = (self.devices[&device].buffers.iter().copied())
            .filter(|buffer| of(buffer) == Some((Some(device), Some(client))))
            .collect();
        for &buffer in &mine {
            self.drop_tokens(buffer);
            self.note(client, buffer, Owned::Lost(epoch));
            self.exporter_lets_go(buffer);
        }
        u32::try_from(mine.len()).unwrap_or(u32::MAX)
    }

    /// Ends the client's timelines of the device, and the points with a source of it on any timeline,
    /// where nobody else has the timeline.
    fn end_timelines(
        &mut self,
        client: ClientId,
        device: DeviceId,
        epoch: DeviceId,
        ended: &mut Ended<H>,
    ) {
        let alone: BTreeSet<ObjectId> = (self.timelines.iter())
            .filter(|(_, it)| {
                let importers = it.importers.iter().map(|(of, _)| of);
                let mut holders = it.maker.iter().chain(importers).peekable();
                holders.peek().is_some() && holders.all(|of| *of == client)
            })
            .map(|(&timeline, _)| timeline)
            .collect();
        let lost: Vec<ObjectId> = (alone.iter().copied())
            .filter(|it| {
                let timeline = &self.timelines[it];
                timeline.at.device == device && timeline.lost.is_none()
            })
            .collect();
        for timeline in &lost {
            let handles = self.timelines[timeline].importers.len()
                + usize::from(self.timelines[timeline].maker.is_some());
            let handles = u32::try_from(handles).unwrap_or(u32::MAX);
            ended.handles += self.points_of(device, timeline) * handles;
        }
        let points = self.pending_of(device).into_iter().filter(|fence| {
            let point = self.fences.get(fence).and_then(|fence| fence.point);
            point.is_some_and(|(timeline, _)| alone.contains(&timeline))
        });
        for fence in points.collect::<Vec<_>>() {
            self.end_whole(fence, ended);
        }
        let FenceState::Failed { cause, at_ns } = ended.failed else { return };
        for timeline in lost {
            self.drop_tokens(timeline);
            self.touch(device, |device| device.timelines.remove(&timeline));
            ended.promises += u32::from(self.lose_timeline(timeline, cause, at_ns));
            if let Some(timeline) = self.timelines.get_mut(&timeline) {
                timeline.at.device = epoch;
            }
            ended.timelines.push(timeline);
        }
    }

    fn end_fences(
        &mut self,
        client: ClientId,
        device: DeviceId,
        epoch: DeviceId,
        guards: &mut IdMap<ObjectId, (H::Fd, H::Ender)>,
        ended: &mut Ended<H>,
    ) {
        for (fence, stakes) in self.stakes(device, client) {
            if stakes.mine {
                self.drop_tokens(fence);
            }
            if stakes.is_mine_alone() {
                let handles = stakes.imports.len() + usize::from(stakes.mine);
                ended.handles += u32::try_from(handles).unwrap_or(u32::MAX);
                self.end_whole(fence, ended);
            } else if stakes.is_split() {
                self.split(client, epoch, fence, stakes.imports, guards.remove(&fence), ended);
            } else if stakes.mine {
                // Others wait for it: it goes on without who shared it.
                self.note(client, fence, Owned::Lost(epoch));
                self.drop_fence_handle(client, fence, fence);
            }
        }
    }

    /// Ends a fence that nobody else has to do with.
    fn end_whole(&mut self, fence: ObjectId, ended: &mut Ended<H>) {
        match self.fences.get(&fence).map(|fence| fence.guard) {
            None => return,
            Some(GuardKind::Source) => ended.passed += 1,
            Some(_) => ended.guarded += 1,
        }
        if self.end_fence(fence, ended.failed) {
            ended.fences.push(fence);
        }
    }

    /// Ends the guard that this client alone has: the fence itself goes on, with a new one.
    fn split(
        &mut self,
        client: ClientId,
        epoch: DeviceId,
        fence: ObjectId,
        imports: Vec<ObjectId>,
        guard: Option<(H::Fd, H::Ender)>,
        ended: &mut Ended<H>,
    ) {
        let Some(known) = self.fences.get_mut(&fence) else { return };
        let (mut at, kind) = (known.at, known.guard);
        match (guard, &mut known.pending) {
            (Some((fd, ender)), Some(pending)) => {
                pending.fd = Some(fd);
                ended.guarded += 1;
                ended.swapped.push((fence, ender));
                self.fences.renew(fence);
            }
            _ if kind == GuardKind::Source => ended.passed += 1,
            // No guard could be made: better that this client waits on than that others lose theirs.
            _ => return,
        }
        ended.handles += u32::try_from(imports.len()).unwrap_or(u32::MAX);
        at.device = epoch;
        let own = self.ids.object();
        for &import in &imports {
            self.drop_fence_handle(client, import, fence);
            self.fence_imports.insert(import, own);
        }
        if let FenceState::Failed { cause, at_ns } = ended.failed {
            let uid = self.uid_of(client);
            for &import in &imports {
                self.note_cause(import, 0, uid, cause, at_ns);
            }
        }
        let handles = imports.iter().map(|&import| (client, import)).collect();
        let (state, pending, point) = (ended.failed, None, None);
        self.fences.insert(own, Fence { at, guard: kind, handles, state, pending, point });
    }

    fn stakes(&self, device: DeviceId, client: ClientId) -> BTreeMap<ObjectId, Stakes> {
        let mut all = BTreeMap::<ObjectId, Stakes>::new();
        let is_it = |fence: &ObjectId| {
            self.fences.get(fence).is_some_and(|fence| {
                fence.at.device == device && fence.pending.is_some() && fence.point.is_none()
            })
        };
        for (&of, known) in &self.clients {
            for (&object, what) in &known.objects {
                match what {
                    Owned::Fence if is_it(&object) => {
                        let stakes = all.entry(object).or_default();
                        stakes.mine |= of == client;
                        stakes.others_share |= of != client;
                    }
                    Owned::FenceImport => {
                        let Some(fence) = self.fence_imports.get(&object).filter(|it| is_it(it))
                        else {
                            continue;
                        };
                        let stakes = all.entry(*fence).or_default();
                        if of == client {
                            stakes.imports.push(object);
                        } else {
                            stakes.others_import = true;
                        }
                    }
                    _ => {}
                }
            }
        }
        all.retain(|_, stakes| stakes.mine || !stakes.imports.is_empty());
        all
    }

    fn drop_tokens(&mut self, object: ObjectId) {
        self.tokens.drop_for(object);
    }
}

/// What a rehearsal ended.
struct Ended<H: Handles> {
    failed: FenceState,
    /// How many of the client's handles on fences and points, and promises.
    handles: u32,
    fences: Vec<ObjectId>,
    swapped: Vec<(ObjectId, H::Ender)>,
    timelines: Vec<ObjectId>,
    guarded: u32,
    passed: u32,
    promises: u32,
}

impl<H: Handles> Default for Ended<H> {
    fn default() -> Self {
        Self {
            failed: failed(0),
            handles: 0,
            fences: Vec::new(),
            swapped: Vec::new(),
            timelines: Vec::new(),
            guarded: 0,
            passed: 0,
            promises: 0,
        }
    }
}

fn failed(at_ns: u64) -> FenceState {
    FenceState::Failed { cause: Cause::Rehearsed, at_ns }
}

/// A text of the broker's that names a device, with another id for it.
fn renamed(text: &str, ours: DeviceId, theirs: DeviceId) -> String {
    let name = format!("device {ours}");
    let is_it = |after: &str| !after.starts_with(|ch: char| ch.is_ascii_digit());
    match text.split_once(&name) {
        Some((before, after)) if is_it(after) => format!("{before}device {theirs}{after}"),
        _ => text.to_owned(),
    }
}
