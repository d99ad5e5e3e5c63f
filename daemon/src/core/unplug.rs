//! The unplug, from the moment the reactor has closed the gate and ended the guards.

use std::collections::BTreeMap;

use dmashare_proto::message::{Cause, DeviceLost, Event, FenceState, GuardKind, Reply};
use dmashare_proto::report::{ImplicitFence, Mark, Overdue, Step, UnplugReport};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, WireError};

use super::device::Device;
use super::{Broker, Effect, Effects, Handles, Owned, REPORTS};
use crate::devices::DeviceDesc;

/// What the reactor did about a loss before it told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Why the device is lost.
    pub cause: Cause,
    /// When the kernel's event was read, CLOCK_MONOTONIC in nanoseconds, as all here.
    pub uevent_ns: u64,
    /// The same as CLOCK_REALTIME, in seconds.
    pub wall_clock_s: u64,
    /// When the gate was closed and *Lost* published.
    pub gate_ns: u64,
    /// When the last guard was ended.
    pub guards_ns: u64,
    /// How many guards were ended.
    pub guards: u32,
}

/// What one client had of a device.
#[derive(Clone, Copy, Default)]
struct Had {
    buffers: u32,
    imports: u32,
    fences: u32,
}

impl<H: Handles> Broker<H> {
    /// A device is lost: tell everyone once, take back everything that it had.
    pub fn device_lost(&mut self, now_ns: u64, id: DeviceId, sweep: &Sweep, out: &mut Effects<H>) {
        if self.tell_lost(now_ns, id, sweep, out) {
            self.sweep_lost(id, out);
        }
    }

    /// A device is lost: tell everyone once. `false` if it was before, or is not there.
    ///
    /// What it had is taken back by [`Self::sweep_lost`], at once, as an event of its own: who is told does
    /// not wait until everything that there was is noted. Another life of the service that finds one
    /// without the other makes it good ([`Self::finish_losses`]).
    pub fn tell_lost(
        &mut self,
        now_ns: u64,
        id: DeviceId,
        sweep: &Sweep,
        out: &mut Effects<H>,
    ) -> bool {
        let Some(device) = self.devices.get_mut(&id) else { return false };
        if device.lost.is_some() {
            return false;
        }
        // The reactor has closed the gate; for a caller that has not (a test), it is closed here.
        device.gate.lose();
        device.lost = Some(sweep.cause);
        let counts = device.gate.counts();
        let mut report = UnplugReport {
            device: id,
            name: device.desc.name.clone(),
            driver: device.desc.driver.clone(),
            cause: sweep.cause,
            wall_clock_s: sweep.wall_clock_s,
            marks: vec![
                Mark { step: Step::Uevent, at_ns: sweep.uevent_ns },
                Mark { step: Step::GateClosed, at_ns: sweep.gate_ns },
                Mark { step: Step::GuardsSignalled, at_ns: sweep.guards_ns },
            ],
            guards: sweep.guards,
            passed: 0,
            promises: 0,
            buffers: counts.buffers,
            imports: counts.imports,
            told: 0,
            awaited: 0,
            implicit: Vec::new(),
            overdue: Vec::new(),
            rehearsed_for: None,
        };
        for node in &device.desc.nodes {
            if self.by_node.get(&node.id) == Some(&id) {
                self.by_node.remove(&node.id);
                self.lost_nodes.insert(node.id, id);
            }
        }
        let had = self.what_clients_had(id);
        self.tell_all(id, sweep, &had, &mut report, out);
        let awaited = had.values().filter(|had| had.imports > 0).count();
        report.awaited = u32::try_from(awaited).unwrap_or(u32::MAX);
        if let Some(device) = self.devices.get_mut(&id) {
            device.ack_deadline_ns = Some(now_ns + self.limits.ack_timeout_ns);
        }
        self.keep_report(report);
        self.dirty_devices.insert(id);
        self.notes.device(id);
        if let Some(view) = self.device_view(id).map(Box::new) {
            let (cause, at_ns) = (sweep.cause, sweep.gate_ns);
            out.push(Effect::TellLost { view, cause, at_ns, had: counts });
        }
        true
    }

    /// Takes back what a device had of which everyone was told that it is lost.
    pub fn sweep_lost(&mut self, id: DeviceId, out: &mut Effects<H>) {
        if let Some(rehearsed) = self.take_back(id, out) {
            self.comes_back(rehearsed, out);
        }
        self.after(out);
    }

    /// What it was, if its loss was rehearsed.
    fn take_back(&mut self, id: DeviceId, out: &mut Effects<H>) -> Option<DeviceDesc> {
        let report = self.reports.iter().find(|report| report.epoch() == id)?;
        let device = self.devices.get(&id).filter(|device| device.lost.is_some())?;
        let desc = device.desc.clone();
        let at = |step| report.at(step).unwrap_or(0);
        let cause = report.cause;
        let (gate_ns, guards_ns) = (at(Step::GateClosed), at(Step::GuardsSignalled));
        let passed = self.fail_fences(id, cause, guards_ns);
        self.note_imports(id, cause, gate_ns);
        let promises = self.lose_timelines(id, cause, guards_ns);
        let (scan, close) = self.take_buffers(id);
        if !scan.is_empty() {
            out.push(Effect::ScanImplicit(id, scan));
        }
        out.push(Effect::Close(close));
        out.push(Effect::Mark(id, Step::FdsDropped));
        self.change_report(id, |report| {
            report.passed += passed;
            report.promises += promises;
        });
        (cause == Cause::Rehearsed).then_some(desc)
    }

    /// After a restore: what a former life told of, and had no time to take back.
    pub fn finish_losses(&mut self, out: &mut Effects<H>) {
        let is_half = |(id, device): &(&DeviceId, &Device)| {
            let report = self.reports.iter().find(|report| report.epoch() == **id);
            let is_swept = report.is_none_or(|report| report.at(Step::FdsDropped).is_some());
            device.lost.is_some() && device.only_for.is_none() && !is_swept
        };
        let half: Vec<DeviceId> = self.devices.iter().filter(is_half).map(|(&id, _)| id).collect();
        // All of them, before any is found to be gone: one that is cannot be taken back from, or come back.
        let rehearsed: Vec<_> = half.into_iter().filter_map(|id| self.take_back(id, out)).collect();
        for desc in rehearsed {
            self.comes_back(desc, out);
        }
        self.after(out);
    }

    pub(super) fn keep_report(&mut self, report: UnplugReport) {
        if self.reports.len() == REPORTS
            && let Some(old) = self.reports.pop_front()
        {
            self.notes.report(old.epoch());
        }
        self.notes.report(report.epoch());
        self.reports.push_back(report);
        self.reports_dirty = true;
    }

    fn what_clients_had(&self, id: DeviceId) -> BTreeMap<ClientId, Had> {
        let mut had = BTreeMap::<ClientId, Had>::new();
        for (&client, known) in &self.clients {
            let mut mine = Had::default();
            for (object, what) in &known.objects {
                let of = |device: Option<DeviceId>| u32::from(device == Some(id));
                let pending = |fence: &ObjectId| {
                    self.fences
                        .get(fence)
                        .filter(|fence| fence.pending.is_some())
                        .map(|fence| fence.at.device)
                };
                match what {
                    Owned::Buffer => {
                        mine.buffers += of(self.buffers.get(object).and_then(|b| b.device))
                    }
                    Owned::Import => {
                        mine.imports += of(self.imports.get(object).and_then(|i| i.device))
                    }
                    Owned::Fence => mine.fences += of(pending(object)),
                    Owned::FenceImport => {
                        mine.fences += of(self.fence_imports.get(object).and_then(pending));
                    }
                    Owned::Timeline => mine.fences += self.points_of(id, object),
                    Owned::TimelineImport => {
                        let timeline = self.timeline_imports.get(object).unwrap_or(object);
                        mine.fences += self.points_of(id, timeline);
                    }
                    Owned::Inhibitor | Owned::Lost(_) => {}
                }
            }
            had.insert(client, mine);
        }
        had
    }

    /// Ends the device's fences in the tables, as the reactor has ended their guards; gives the
    /// number of those that had been passed through.
    fn fail_fences(&mut self, id: DeviceId, cause: Cause, at_ns: u64) -> u32 {
        let mut passed = 0;
        for fence in self.pending_of(id) {
            if self.fences.get(&fence).is_some_and(|fence| fence.guard == GuardKind::Source) {
                passed += 1;
            }
            self.tokens.lose(fence, id);
            self.end_fence(fence, FenceState::Failed { cause, at_ns });
        }
        passed
    }

    /// Keeps why the device's imports were taken back.
    fn note_imports(&mut self, id: DeviceId, cause: Cause, at_ns: u64) {
        let Some(device) = self.devices.get(&id) else { return };
        let mine = |import| Some((import, self.uid_of(self.imports.get(&import)?.client)));
        let owners: Vec<_> = device.imports.iter().copied().filter_map(mine).collect();
        for (import, uid) in owners {
            self.note_cause(import, 0, uid, cause, at_ns);
        }
    }

    /// Takes the device's buffers out of the tables. Gives what is to be scanned for implicit fences
    /// and what is to be closed after that.
    #[allow(
        clippy::type_complexity,
        reason = "two lists of the same descriptors, named where they are taken apart"
    )]
    fn take_buffers(&mut self, id: DeviceId) -> (Vec<(ObjectId, H::Fd)>, Vec<H::Fd>) {
        let buffers = self
            .devices
            .get_mut(&id)
            .map(|device| std::mem::take(&mut device.buffers))
            .unwrap_or_default();
        let (mut scan, mut close) = (Vec::new(), Vec::new());
        for object in buffers {
            let Some(buffer) = self.buffers.remove(&object) else { continue };
            self.tokens.lose(object, id);
            if let Some(exporter) = buffer.exporter {
                self.note(exporter, object, Owned::Lost(id));
            }
            // Planes may share a dma-buf, which has one reservation object.
            let mut seen = Vec::new();
            for plane in buffer.planes {
                if !seen.contains(&plane.inode) {
                    seen.push(plane.inode);
                    scan.push((object, plane.fd.clone()));
                }
                close.push(plane.fd);
            }
        }
        (scan, close)
    }

    fn tell_all(
        &mut self,
        id: DeviceId,
        sweep: &Sweep,
        had: &BTreeMap<ClientId, Had>,
        report: &mut UnplugReport,
        out: &mut Effects<H>,
    ) {
        for (&client, known) in &self.clients {
            if !known.greeted {
                continue;
            }
            let mine = had.get(&client).copied().unwrap_or_default();
            report.told += 1;
            out.push(Effect::event(
                client,
                Event::DeviceLost(DeviceLost {
                    device: id,
                    cause: sweep.cause,
                    at_ns: sweep.gate_ns,
                    buffers: mine.buffers,
                    imports: mine.imports,
                    fences: mine.fences,
                }),
            ));
        }
        out.push(Effect::Mark(id, Step::ClientsTold));
    }

    pub(super) fn acknowledge(
        &mut self,
        client: ClientId,
        id: DeviceId,
    ) -> Result<Reply, WireError> {
        let mine = |device: &&Device| device.only_for.is_none_or(|only| only == client);
        let Some(device) = self.devices.get(&id).filter(mine) else {
            // Gone, or never there. A second acknowledgement does no harm, and needs no error.
            if self.was_told_of(client, id) {
                return Ok(Reply::Done(()));
            }
            return Err(WireError::new(
                ErrorCode::UNKNOWN_DEVICE,
                format!("there is no device {id} to acknowledge the loss of"),
            )
            .about(id.0));
        };
        if device.lost.is_none() {
            return Err(WireError::new(
                ErrorCode::BAD_VALUE,
                format!("device {id} is not lost; there is nothing to acknowledge"),
            )
            .about(id.0));
        }
        let mine: Vec<ObjectId> = device
            .imports
            .iter()
            .copied()
            .filter(|import| self.imports.get(import).is_some_and(|it| it.client == client))
            .collect();
        for import in mine {
            self.drop_import(import);
            self.note(client, import, Owned::Lost(id));
        }
        Ok(Reply::Done(()))
    }

    /// Whether a device was lost to this client: to all, or to it alone.
    pub(super) fn was_told_of(&self, client: ClientId, id: DeviceId) -> bool {
        self.reports.iter().any(|report| {
            let is_its = report.rehearsed_for.is_none_or(|only| only.client == client);
            report.epoch() == id && is_its
        })
    }

    /// Marks the lost devices of which no import is left.
    pub(super) fn check_acknowledged(&mut self, out: &mut Effects<H>) {
        for (&id, device) in &mut self.devices {
            if device.lost.is_none() || device.acknowledged {
                continue;
            }
            if device.imports.is_empty() {
                device.acknowledged = true;
                device.ack_deadline_ns = None;
                self.notes.device(id);
                out.push(Effect::Mark(id, Step::Acknowledged));
                self.reports_dirty = true;
            }
        }
    }

    /// When [`Self::tick`] is to be called next, CLOCK_MONOTONIC in nanoseconds.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.devices.values().filter_map(|device| device.ack_deadline_ns).min()
    }

    /// Time has passed: names those who have not acknowledged. Each is named once a loss.
    pub fn tick(&mut self, now_ns: u64, out: &mut Effects<H>) {
        for (&id, device) in &mut self.devices {
            if device.ack_deadline_ns.is_none_or(|deadline| deadline > now_ns) {
                continue;
            }
            device.ack_deadline_ns = None;
            self.notes.device(id);
            let mut late = BTreeMap::<ClientId, Vec<u64>>::new();
            for import in device.imports.iter().filter_map(|import| self.imports.get(import)) {
                late.entry(import.client).or_default().extend(&import.inodes);
            }
            for (client, inodes) in late {
                let on_loss =
                    self.clients.get(&client).map(|it| it.declared.on_loss).unwrap_or_default();
                out.push(Effect::Overdue { device: id, client, inodes, on_loss });
            }
        }
        self.after(out);
    }

    /// The PCI device of a lost device is gone from the kernel too.
    pub fn parent_removed(&mut self, id: DeviceId, at_ns: u64) {
        self.mark(id, Step::ParentRemoved, at_ns);
    }

    /// Notes when a step was done.
    pub fn mark(&mut self, id: DeviceId, step: Step, at_ns: u64) {
        self.change_report(id, |report| {
            if report.at(step).is_none() {
                report.marks.push(Mark { step, at_ns });
            }
        });
    }

    /// Fences were found pending in lost buffers' reservation objects.
    pub fn implicit_found(&mut self, id: DeviceId, fences: Vec<ImplicitFence>) {
        self.change_report(id, |report| report.implicit.extend(fences));
    }

    /// One of them has ended.
    pub fn implicit_ended(&mut self, id: DeviceId, buffer: ObjectId, at_ns: u64) {
        self.change_report(id, |report| {
            for fence in &mut report.implicit {
                if fence.buffer == buffer && fence.ended_ns.is_none() {
                    fence.ended_ns = Some(at_ns);
                }
            }
        });
    }

    /// What was seen of a client that did not acknowledge, and done about it.
    pub fn overdue_met(&mut self, id: DeviceId, overdue: Overdue) {
        self.change_report(id, |report| report.overdue.push(overdue));
    }

    fn change_report(&mut self, id: DeviceId, change: impl FnOnce(&mut UnplugReport)) {
        if let Some(report) = self.reports.iter_mut().rev().find(|report| report.epoch() == id) {
            change(report);
            self.notes.report(id);
            self.reports_dirty = true;
            self.dirty_devices.insert(id);
        }
    }

    /// Whether a client has still to let go of something of a lost device.
    #[must_use]
    pub fn is_awaited(&self, id: DeviceId, client: ClientId) -> bool {
        self.devices.get(&id).is_some_and(|device| {
            let mut imports = device.imports.iter().filter_map(|import| self.imports.get(import));
            device.lost.is_some() && imports.any(|import| import.client == client)
        })
    }
}
