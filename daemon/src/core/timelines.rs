//! Timelines: made on a device, imported by token, their points promised, submitted and ended in
//! order. The state of the points is in [`super::points`].

use std::collections::BTreeMap;

use dmashare_proto::limits::MAX_POINT;
use dmashare_proto::message::{
    Cause, CreateTimeline, DeviceAt, Direction, FenceState, GuardKind, PointAt, PointState, Policy,
    Reply, SubmitPoint, TimelineInfo,
};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Token, WireError};

use super::accounts::{Charge, Kind, cost};
use super::fences::{Fence, Pending};
use super::points::Points;
use super::waits::Wait;
use super::{Broker, CheckedFence, CheckedTimeline, Effect, Effects, Handles, Owned};
use crate::devices::NodeId;
use crate::gate::{DeviceRef, Gate, Kind as Held};

/// A timeline. It lives while somebody has a handle on it or a point is pending.
#[derive(Debug)]
pub(super) struct Timeline<F> {
    pub at: DeviceAt,
    pub direction: Direction,
    /// What is put to a point while its source is pending.
    pub guard: GuardKind,
    /// The syncobj.
    pub syncobj: F,
    /// What hangs up when it is lost.
    pub hangup: F,
    pub maker: Option<ClientId>,
    /// An entry each handle.
    pub importers: Vec<(ClientId, ObjectId)>,
    pub points: Points,
    pub waits: BTreeMap<u64, Vec<Wait>>,
    /// Points of a `Release` timeline whose signal the kernel is asked to tell.
    pub watched: BTreeMap<u64, Charge>,
    pub lost: Option<(Cause, u64)>,
    pub reference: Option<DeviceRef>,
    pub _descriptors: Charge,
}

/// What [`Broker::plan_point`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointPlan {
    /// The source itself must not be put to the point: a guard is, where one can be made.
    pub guard: bool,
}

impl<F> Timeline<F> {
    pub fn state(&self, point: u64) -> PointState {
        match (self.points.state(point), self.lost) {
            // Nobody can submit any more.
            (PointState::Unknown | PointState::Promised, Some((cause, at_ns))) => {
                PointState::Failed { cause, at_ns }
            }
            (state, _) => state,
        }
    }

    pub fn is_unused(&self) -> bool {
        self.maker.is_none() && self.importers.is_empty() && self.points.pending() == 0
    }
}

impl<H: Handles> Broker<H> {
    /// What the points of a timeline would get, before its kernel objects are made.
    ///
    /// # Errors
    /// What the request would be answered.
    pub fn plan_timeline(
        &self,
        client: ClientId,
        node: NodeId,
        policy: Policy,
    ) -> Result<GuardKind, WireError> {
        let device = self.device_of(node)?;
        self.at(device)?;
        self.takes_new(device)?;
        self.may_have_one_more(client)?;
        self.may_hold(client, cost::TIMELINE)?;
        match (policy, self.devices[&device].desc.removable) {
            (Policy::Pass, true) => Err(WireError::new(
                ErrorCode::BAD_VALUE,
                "a raw fence of a removable device is never put into a timeline; use `auto`",
            )
            .about(device.0)),
            (Policy::Pass | Policy::Auto, false) => Ok(GuardKind::Source),
            (Policy::Guard, _) | (Policy::Auto, true) => Ok(self.backend),
        }
    }

    pub(super) fn create_timeline(
        &mut self,
        client: ClientId,
        node: NodeId,
        options: CreateTimeline,
        made: CheckedTimeline<H>,
        out: &mut Effects<H>,
    ) -> Result<(Reply, Vec<H::Fd>), WireError> {
        let guard = self.plan_timeline(client, node, options.policy)?;
        let device = self.device_of(node)?;
        let at = self.at(device)?;
        let reference = Gate::acquire(&self.devices[&device].gate, Held::Timeline)
            .map_err(|_| self.lost_error(device))?;
        let descriptors = self.charge(client, Kind::Descriptors, cost::TIMELINE)?;
        let timeline = self.ids.object();
        let direction = options.direction;
        let fds = vec![made.syncobj.clone(), made.hangup.clone()];
        self.timelines.insert(
            timeline,
            Timeline {
                at,
                direction,
                guard,
                syncobj: made.syncobj,
                hangup: made.hangup,
                maker: Some(client),
                importers: Vec::new(),
                points: Points::default(),
                waits: BTreeMap::new(),
                watched: BTreeMap::new(),
                lost: None,
                reference: Some(reference),
                _descriptors: descriptors,
            },
        );
        self.note(client, timeline, Owned::Timeline);
        self.touch(device, |device| device.timelines.insert(timeline));
        out.push(Effect::AddTimeline { timeline, device, line: made.line });
        let info = TimelineInfo { timeline, at, direction, guard, promised: 0 };
        Ok((Reply::Timeline(info), fds))
    }

    pub(super) fn import_timeline(
        &mut self,
        now_ns: u64,
        client: ClientId,
        token: Token,
    ) -> Result<(Reply, Vec<H::Fd>), WireError> {
        let object = self.look_at_token(now_ns, client, &token)?;
        self.may_have_one_more(client)?;
        let Some(timeline) = self.timelines.get_mut(&object) else {
            return Err(WireError::new(
                ErrorCode::WRONG_OBJECT,
                "the token is for a buffer or a fence; use Import or ImportFence",
            )
            .about(object.0));
        };
        let device = timeline.at.device;
        if self.devices.get(&device).is_none_or(|device| device.gate.is_lost()) {
            return Err(self.lost_error(device));
        }
        let handle = self.ids.object();
        timeline.importers.push((client, handle));
        let info = TimelineInfo {
            timeline: handle,
            at: timeline.at,
            direction: timeline.direction,
            guard: timeline.guard,
            promised: timeline.points.promised(),
        };
        let fds = vec![timeline.syncobj.clone(), timeline.hangup.clone()];
        self.timeline_imports.insert(handle, object);
        self.use_token(&token);
        self.note(client, handle, Owned::TimelineImport);
        Ok((Reply::Timeline(info), fds))
    }

    /// The timeline that a client's id stands for, and whether the client made it.
    pub(super) fn timeline_named(
        &self,
        client: ClientId,
        object: ObjectId,
    ) -> Result<(ObjectId, bool), WireError> {
        match self.owned(client, object)? {
            Owned::Timeline => Ok((object, true)),
            Owned::TimelineImport => {
                Ok((self.timeline_imports.get(&object).copied().unwrap_or(object), false))
            }
            Owned::Lost(device) => Err(self.lost_error(device)),
            Owned::Buffer
            | Owned::Import
            | Owned::Fence
            | Owned::FenceImport
            | Owned::Inhibitor => {
                Err(WireError::new(ErrorCode::WRONG_OBJECT, "this is no timeline").about(object.0))
            }
        }
    }

    /// A timeline whose device is there, for who wants to promise (`submit` is false) or submit.
    fn timeline_to_change(
        &self,
        client: ClientId,
        at: PointAt,
        submit: bool,
    ) -> Result<ObjectId, WireError> {
        let (id, is_maker) = self.timeline_named(client, at.timeline)?;
        let timeline = &self.timelines[&id];
        let may = match (timeline.direction, submit) {
            (Direction::Acquire, _) | (Direction::Release, false) => is_maker,
            (Direction::Release, true) => !is_maker,
        };
        if !may {
            let text = match (timeline.direction, submit) {
                (_, false) => "points are promised by the timeline's maker alone",
                (Direction::Acquire, true) => "points are submitted by the timeline's maker alone",
                (Direction::Release, true) => "release points are submitted by an importer",
            };
            return Err(WireError::new(ErrorCode::WRONG_OBJECT, text).about(at.timeline.0));
        }
        let device = timeline.at.device;
        if timeline.lost.is_some()
            || self.devices.get(&device).is_none_or(|device| device.gate.is_lost())
        {
            return Err(self.lost_error(device));
        }
        check_point(at)?;
        Ok(id)
    }

    pub(super) fn promise_point(
        &mut self,
        client: ClientId,
        at: PointAt,
        out: &mut Effects<H>,
    ) -> Result<Reply, WireError> {
        let id = self.timeline_to_change(client, at, false)?;
        let promised = self.timelines[&id].points.promised();
        if at.point <= promised {
            return Err(bad_point(
                at,
                format!("point {} is promised already: the last promise is {promised}", at.point),
            ));
        }
        if let Some(timeline) = self.timelines.get_mut(&id) {
            timeline.points.promise(at.point);
        }
        out.push(Effect::Promise { timeline: id, point: at.point });
        Ok(Reply::Done(()))
    }

    /// Whether a point that is about to be submitted wants a guard.
    ///
    /// # Errors
    /// What the request would be answered.
    pub fn plan_point(
        &self,
        client: ClientId,
        node: NodeId,
        submit: SubmitPoint,
    ) -> Result<PointPlan, WireError> {
        let id = self.timeline_to_change(client, submit.to, true)?;
        self.check_turn(id, submit.to)?;
        let device = self.device_of(node)?;
        self.at(device)?;
        let removable = self.devices[&device].desc.removable;
        let kind = self.timelines[&id].guard;
        self.may_pend_one_more(client, removable || kind != GuardKind::Source)?;
        if removable && kind == GuardKind::Source && self.backend == GuardKind::None {
            return Err(WireError::new(
                ErrorCode::UNSUPPORTED,
                "the source is of a removable device, and no guard can be made here; make the \
                 timeline with the policy `guard`, and its points are signalled when they end",
            )
            .about(submit.to.timeline.0));
        }
        Ok(PointPlan { guard: removable || kind != GuardKind::Source })
    }

    fn check_turn(&self, id: ObjectId, at: PointAt) -> Result<(), WireError> {
        let last = self.timelines[&id].points.last();
        if at.point <= last {
            return Err(bad_point(
                at,
                format!(
                    "point {} is not above the last one that was submitted, {last}; points of a \
                     timeline only grow",
                    at.point
                ),
            ));
        }
        Ok(())
    }

    /// A point's source is handed over; without one its work is done.
    pub(super) fn submit_point(
        &mut self,
        now_ns: u64,
        client: ClientId,
        submit: SubmitPoint,
        source: Option<(NodeId, CheckedFence<H>)>,
        out: &mut Effects<H>,
    ) -> Result<Reply, WireError> {
        let at = submit.to;
        let Some((node, source)) = source else {
            let id = self.timeline_to_change(client, at, true)?;
            self.check_turn(id, at)?;
            if let Some(timeline) = self.timelines.get_mut(&id) {
                timeline.points.submit(at.point);
                timeline.points.end(at.point, FenceState::Ok { at_ns: now_ns });
                self.moved.insert(id);
            }
            out.push(Effect::SignalPoint { timeline: id, point: at.point });
            return Ok(Reply::Done(()));
        };
        let plan = self.plan_point(client, node, submit)?;
        let id = self.timeline_to_change(client, at, true)?;
        let device = self.device_of(node)?;
        let device_at = self.at(device)?;
        let deadline_ns = now_ns + self.deadline(submit.deadline_ms)?;
        // What goes to the point now, what is watched, and what ends the guard.
        let (put, watched, ender, guard) = match source {
            CheckedFence::Guarded { source, guard, ender, kind } => {
                (Some(guard), source, Some(ender), kind)
            }
            CheckedFence::Passed(source) if plan.guard => (None, source, None, GuardKind::None),
            CheckedFence::Passed(source) => (Some(source.clone()), source, None, GuardKind::Source),
            CheckedFence::Ended(_) => {
                return Err(WireError::new(ErrorCode::INTERNAL, "a point's source has no file"));
            }
        };
        let reference = Gate::acquire(&self.devices[&device].gate, Held::Fence)
            .map_err(|_| self.lost_error(device))?;
        let charges = self.charge_pending(client, ender.is_some())?;
        let fence = self.ids.object();
        let pending = Some(Pending {
            fd: None,
            uid: self.uid_of(client),
            since_ns: now_ns,
            _reference: reference,
            _charges: charges,
        });
        let point = Some((id, at.point));
        let (handles, state) = (Vec::new(), FenceState::Pending);
        self.fences.insert(fence, Fence { at: device_at, guard, handles, state, pending, point });
        self.touch(device, |device| {
            device.made.fences += 1;
            device.fences.insert(fence)
        });
        if let Some(timeline) = self.timelines.get_mut(&id) {
            timeline.points.submit(at.point);
        }
        self.dirty_timeline_clients(id);
        out.push(Effect::SubmitPoint {
            fence,
            timeline: id,
            point: at.point,
            device,
            put,
            source: watched,
            ender,
            deadline_ns,
        });
        Ok(Reply::Done(()))
    }

    /// A client gives back its handle on a timeline, or is gone.
    pub(super) fn drop_timeline_handle(
        &mut self,
        client: ClientId,
        handle: ObjectId,
        out: &mut Effects<H>,
    ) {
        let import = self.timeline_imports.remove(&handle);
        let object = import.unwrap_or(handle);
        let Some(timeline) = self.timelines.get_mut(&object) else { return };
        for waits in timeline.waits.values_mut() {
            waits.retain(|wait| {
                let mine = wait.client == client && wait.handle == handle;
                if mine && let Some(known) = self.clients.get_mut(&client) {
                    known.waits -= 1;
                    let error = WireError::new(
                        ErrorCode::UNKNOWN_OBJECT,
                        "the timeline was released while it was waited for",
                    );
                    out.push(Effect::error(client, wait.id, error.about(handle.0)));
                }
                !mine
            });
        }
        timeline.waits.retain(|_, waits| !waits.is_empty());
        if import.is_none() {
            timeline.maker = None;
        } else if let Some(mine) = timeline.importers.iter().position(|of| *of == (client, handle))
        {
            timeline.importers.swap_remove(mine);
        }
        // Nobody else can fulfil what is promised.
        let orphaned = match timeline.direction {
            Direction::Acquire => timeline.maker.is_none(),
            Direction::Release => timeline.importers.is_empty() && import.is_some(),
        };
        self.moved.insert(object);
        if orphaned && timeline.lost.is_none() {
            out.push(Effect::EndPromises { timeline: object, errno: libc::EOWNERDEAD });
        }
    }

    /// The reactor has ended a timeline's promises: nobody is left to fulfil them.
    pub fn promises_ended(
        &mut self,
        object: ObjectId,
        errno: i32,
        at_ns: u64,
        out: &mut Effects<H>,
    ) {
        if let Some(timeline) = self.timelines.get_mut(&object) {
            let state = FenceState::Failed { cause: Cause::Exporter(errno), at_ns };
            let after = timeline.points.last();
            let last = timeline.points.end_promises(state);
            self.moved.insert(object);
            if let Some(last) = last {
                self.note_points(object, (after, last), None, state);
            }
        }
        self.after(out);
    }

    /// Ends the device's timelines in the tables, as the reactor has done in the kernel; gives the
    /// number of those that had promises to end.
    pub(super) fn lose_timelines(&mut self, id: DeviceId, cause: Cause, at_ns: u64) -> u32 {
        let timelines = self
            .devices
            .get_mut(&id)
            .map(|it| std::mem::take(&mut it.timelines))
            .unwrap_or_default();
        let mut promised = 0;
        for object in timelines {
            promised += u32::from(self.lose_timeline(object, cause, at_ns));
            self.tokens.lose(object, id);
        }
        promised
    }

    /// The same for one that is out of its device's table. `true` if it had promises to end.
    pub(super) fn lose_timeline(&mut self, object: ObjectId, cause: Cause, at_ns: u64) -> bool {
        let Some(timeline) = self.timelines.get_mut(&object) else { return false };
        timeline.lost = Some((cause, at_ns));
        timeline.reference = None;
        self.moved.insert(object);
        let state = FenceState::Failed { cause, at_ns };
        let after = timeline.points.last();
        let Some(last) = timeline.points.end_promises(state) else { return false };
        self.note_points(object, (after, last), None, state);
        true
    }

    /// What of a timeline ends when this device is lost: its pending points, and its promises as one.
    pub(super) fn points_of(&self, device: DeviceId, object: &ObjectId) -> u32 {
        let Some(timeline) = self.timelines.get(object) else { return 0 };
        if timeline.at.device != device || timeline.lost.is_some() {
            return 0;
        }
        let promises = usize::from(timeline.points.is_promising());
        u32::try_from(timeline.points.pending() + promises).unwrap_or(u32::MAX)
    }

    pub(super) fn dirty_timeline_clients(&mut self, id: ObjectId) {
        if let Some(timeline) = self.timelines.get(&id) {
            let importers = timeline.importers.iter().map(|(client, _)| client);
            self.dirty_clients.extend(importers.chain(&timeline.maker));
        }
    }
}

pub(super) fn check_point(at: PointAt) -> Result<(), WireError> {
    if at.point == 0 || at.point > MAX_POINT {
        return Err(bad_point(at, format!("a point is 1 to {MAX_POINT}, not {}", at.point)));
    }
    Ok(())
}

fn bad_point(at: PointAt, text: String) -> WireError {
    WireError::new(ErrorCode::BAD_VALUE, text).about(at.timeline.0)
}
