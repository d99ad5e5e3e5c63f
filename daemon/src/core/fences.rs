//! Fences: shared by an exporter, guarded or passed, imported by token, ended once.

use dmashare_proto::message::{
    Cause, DeviceAt, FenceImported, FenceShared, FenceState, GuardKind, Policy, Reply, ShareFence,
};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Token, WireError};

use super::accounts::{Charge, Kind, cost};
use super::{Broker, CheckedFence, Effect, Effects, FencePlan, Handles, Owned};
use crate::devices::NodeId;
use crate::gate::{DeviceRef, Gate, Kind as Held};

/// A fence. Pending, it is counted on its device and lives until it ends, whoever has handles: a
/// guard may be in a GPU's queue. Ended, it is a small record for those who have handles.
#[derive(Debug)]
pub(super) struct Fence<F> {
    pub at: DeviceAt,
    pub guard: GuardKind,
    /// The handles and whose they are: the exporter's, which is the fence's own id, and the importers'.
    pub handles: Vec<(ClientId, ObjectId)>,
    pub state: FenceState,
    /// While it is pending.
    pub pending: Option<Pending<F>>,
    /// The point of a timeline that it is the end of; then nobody has a handle on it.
    pub point: Option<(ObjectId, u64)>,
}

#[derive(Debug)]
pub(super) struct Pending<F> {
    /// What importers get; nothing, where it was put to a point.
    pub fd: Option<F>,
    /// The exporter's user.
    pub uid: u32,
    /// When it was handed over, CLOCK_MONOTONIC in nanoseconds.
    pub since_ns: u64,
    pub _reference: DeviceRef,
    /// Itself, and its descriptors.
    pub _charges: [Charge; 2],
}

impl<H: Handles> Broker<H> {
    /// Whether a fence that is about to be shared wants a guard: asked first, so that none is made
    /// for a request that will be refused.
    ///
    /// # Errors
    /// What the request would be answered.
    pub fn plan_fence(
        &self,
        client: ClientId,
        node: NodeId,
        policy: Policy,
    ) -> Result<FencePlan, WireError> {
        let device = self.device_of(node)?;
        self.at(device)?;
        self.may_have_one_more(client)?;
        let guard = match policy {
            Policy::Pass => false,
            Policy::Guard => true,
            Policy::Auto => self.devices[&device].desc.removable,
        };
        if guard && self.backend == GuardKind::None {
            return Err(WireError::new(
                ErrorCode::UNSUPPORTED,
                "this kernel offers nothing to make a guard fence of; `dmasharectl doctor` tells \
                 what is missing. Policy `pass` hands the fence out unguarded",
            ));
        }
        self.may_pend_one_more(client, guard)?;
        Ok(FencePlan { guard, policy })
    }

    pub(super) fn may_pend_one_more(
        &self,
        client: ClientId,
        guarded: bool,
    ) -> Result<(), WireError> {
        if let Some(account) = self.account(client) {
            account.may(Kind::Fences, 1)?;
        }
        self.may_hold(client, pending_cost(guarded))
    }

    /// Charges a pending fence.
    pub(super) fn charge_pending(
        &mut self,
        client: ClientId,
        guarded: bool,
    ) -> Result<[Charge; 2], WireError> {
        Ok([
            self.charge(client, Kind::Fences, 1)?,
            self.charge(client, Kind::Descriptors, pending_cost(guarded))?,
        ])
    }

    /// A client's deadline in nanoseconds from now.
    pub(super) fn deadline(&self, wanted_ms: u32) -> Result<u64, WireError> {
        let wanted = u64::from(wanted_ms) * 1_000_000;
        if wanted > self.limits.max_deadline_ns {
            return Err(WireError::new(
                ErrorCode::BAD_VALUE,
                format!(
                    "a fence's deadline is at most {} ms here: {}",
                    self.limits.max_deadline_ns / 1_000_000,
                    self.limits.max_deadline_by
                ),
            ));
        }
        Ok(if wanted == 0 { self.limits.deadline_ns } else { wanted })
    }

    pub(super) fn share_fence(
        &mut self,
        now_ns: u64,
        client: ClientId,
        node: NodeId,
        options: ShareFence,
        source: CheckedFence<H>,
        out: &mut Effects<H>,
    ) -> Result<Reply, WireError> {
        let plan = self.plan_fence(client, node, options.policy)?;
        let device = self.device_of(node)?;
        let at = self.at(device)?;
        let deadline = self.deadline(options.deadline_ms)?;
        let (fd, watched, ender, guard) = match source {
            CheckedFence::Ended(result) => {
                let state = ended(result, now_ns);
                let fence = self.ids.object();
                let guard = if plan.guard { self.backend } else { GuardKind::Source };
                let handles = vec![(client, fence)];
                let (pending, point) = (None, None);
                self.fences.insert(fence, Fence { at, guard, handles, state, pending, point });
                self.note(client, fence, Owned::Fence);
                self.note_failed(fence, self.uid_of(client), state);
                return Ok(Reply::FenceShared(FenceShared { fence, at, guard, token: None }));
            }
            CheckedFence::Passed(_) if plan.guard => {
                // The plan was made in the same turn of the loop; that it changed means a bug.
                return Err(WireError::new(ErrorCode::INTERNAL, "the fence has no guard"));
            }
            CheckedFence::Passed(source) => (source.clone(), source, None, GuardKind::Source),
            CheckedFence::Guarded { source, guard, ender, kind } => {
                (guard, source, Some(ender), kind)
            }
        };
        let reference = Gate::acquire(&self.devices[&device].gate, Held::Fence)
            .map_err(|_| self.lost_error(device))?;
        let charges = self.charge_pending(client, ender.is_some())?;
        let fence = self.ids.object();
        let pending = Some(Pending {
            fd: Some(fd),
            uid: self.uid_of(client),
            since_ns: now_ns,
            _reference: reference,
            _charges: charges,
        });
        let (handles, state, point) = (vec![(client, fence)], FenceState::Pending, None);
        self.fences.insert(fence, Fence { at, guard, handles, state, pending, point });
        self.note(client, fence, Owned::Fence);
        self.touch(device, |device| {
            device.made.fences += 1;
            device.fences.insert(fence)
        });
        out.push(Effect::Watch {
            fence,
            device,
            source: watched,
            ender,
            deadline_ns: now_ns + deadline,
        });
        Ok(Reply::FenceShared(FenceShared { fence, at, guard, token: None }))
    }

    pub(super) fn import_fence(
        &mut self,
        now_ns: u64,
        client: ClientId,
        token: Token,
    ) -> Result<(Reply, Vec<H::Fd>), WireError> {
        let object = self.look_at_token(now_ns, client, &token)?;
        self.may_have_one_more(client)?;
        let Some(fence) = self.fences.get_mut(&object) else {
            return Err(WireError::new(
                ErrorCode::WRONG_OBJECT,
                "the token is for a buffer or a timeline; use Import or ImportTimeline",
            )
            .about(object.0));
        };
        let device = fence.at.device;
        if fence.pending.is_some() && self.devices.get(&device).is_none_or(|it| it.gate.is_lost()) {
            // The reactor has ended the guard, and its notice is on the way here.
            return Err(self.lost_error(device));
        }
        let handle = self.ids.object();
        fence.handles.push((client, handle));
        let state = fence.state;
        let imported =
            FenceImported { fence: handle, at: fence.at, guard: fence.guard, state: fence.state };
        let fds = fence.pending.iter().filter_map(|pending| pending.fd.clone()).collect();
        self.fence_imports.insert(handle, object);
        self.use_token(&token);
        self.note(client, handle, Owned::FenceImport);
        self.note_failed(handle, self.uid_of(client), state);
        Ok((Reply::FenceImported(imported), fds))
    }

    pub(super) fn query_fence(
        &mut self,
        client: ClientId,
        id: u64,
        object: ObjectId,
        out: &mut Effects<H>,
    ) {
        match self.fence_named(client, object) {
            Err(error) => out.push(Effect::error(client, id, error)),
            // The reactor may have ended it already; its notices come in order, so when it answers
            // a probe, what it ended before is known here.
            Ok((fence, FenceState::Pending)) => out.push(Effect::Probe { fence, client, id }),
            Ok((_, state)) => out.push(Effect::reply(client, id, Reply::FenceState(state))),
        }
    }

    /// The reactor answered a probe: everything that it had ended until then is known.
    pub fn probed(&mut self, fence: ObjectId, client: ClientId, id: u64, out: &mut Effects<H>) {
        let reply = match self.fences.get(&fence) {
            Some(fence) => Reply::FenceState(fence.state),
            None => Reply::Error(
                WireError::new(ErrorCode::UNKNOWN_OBJECT, "the fence was released meanwhile")
                    .about(fence.0),
            ),
        };
        out.push(Effect::reply(client, id, reply));
    }

    pub(super) fn fence_named(
        &self,
        client: ClientId,
        object: ObjectId,
    ) -> Result<(ObjectId, FenceState), WireError> {
        let id = match self.owned(client, object)? {
            Owned::Fence => object,
            Owned::FenceImport => self.fence_imports.get(&object).copied().unwrap_or(object),
            Owned::Lost(device) => return Err(self.lost_error(device)),
            Owned::Buffer
            | Owned::Import
            | Owned::Timeline
            | Owned::TimelineImport
            | Owned::Inhibitor => {
                return Err(
                    WireError::new(ErrorCode::WRONG_OBJECT, "this is no fence").about(object.0)
                );
            }
        };
        let state = self.fences.get(&id).map(|fence| fence.state).ok_or_else(|| {
            WireError::new(ErrorCode::UNKNOWN_OBJECT, "the fence is forgotten").about(object.0)
        })?;
        Ok((id, state))
    }

    /// The reactor ended a fence (its source ended, or its deadline passed).
    pub fn fence_ended(&mut self, id: ObjectId, state: FenceState, out: &mut Effects<H>) {
        self.end_fence(id, state);
        self.after(out);
    }

    /// Ends a fence in the tables, once; what comes later is not believed.
    pub(super) fn end_fence(&mut self, id: ObjectId, state: FenceState) -> bool {
        let Some(fence) = self.fences.get_mut(&id) else { return false };
        let Some(pending) = fence.pending.take() else { return false };
        fence.state = state;
        let (device, point) = (fence.at.device, fence.point);
        // What is shown of them is what is pending.
        self.dirty_clients.extend(fence.handles.iter().map(|(client, _)| client));
        let failed = matches!(state, FenceState::Failed { .. });
        let handles = if failed { fence.handles.clone() } else { Vec::new() };
        if fence.handles.is_empty() {
            self.fences.remove(&id);
        }
        // By its own id also where its maker has let go of that; a point's fence has none that is known.
        if point.is_none() {
            self.note_failed(id, pending.uid, state);
        }
        for (client, handle) in handles {
            self.note_failed(handle, self.uid_of(client), state);
        }
        let uid = pending.uid;
        drop(pending);
        self.touch(device, |device| device.fences.remove(&id));
        if let Some((timeline, point)) = point {
            self.point_ended(timeline, point, uid, state);
        }
        true
    }

    /// Keeps why a handle's fence failed, if it did.
    fn note_failed(&mut self, handle: ObjectId, uid: u32, state: FenceState) {
        if let FenceState::Failed { cause, at_ns } = state {
            self.note_cause(handle, 0, uid, cause, at_ns);
        }
    }

    pub(super) fn uid_of(&self, client: ClientId) -> u32 {
        self.clients.get(&client).map_or(u32::MAX, |client| client.creds.uid)
    }

    pub(super) fn drop_fence_handle(&mut self, client: ClientId, handle: ObjectId, id: ObjectId) {
        let Some(fence) = self.fences.get_mut(&id) else { return };
        if let Some(mine) = fence.handles.iter().position(|of| *of == (client, handle)) {
            fence.handles.swap_remove(mine);
        }
        if fence.handles.is_empty() && fence.pending.is_none() {
            self.fences.remove(&id);
        }
    }

    /// Fences of a device that are pending in the tables.
    pub(super) fn pending_of(&self, device: DeviceId) -> Vec<ObjectId> {
        let Some(device) = self.devices.get(&device) else { return Vec::new() };
        device.fences.iter().copied().collect()
    }
}

pub(super) const fn pending_cost(guarded: bool) -> u64 {
    if guarded { cost::GUARDED } else { cost::PASSED }
}

/// A fence's end as its source showed it.
#[must_use]
pub fn ended(result: Result<(), i32>, at_ns: u64) -> FenceState {
    match result {
        Ok(()) => FenceState::Ok { at_ns },
        Err(errno) => FenceState::Failed { cause: Cause::Exporter(errno), at_ns },
    }
}
