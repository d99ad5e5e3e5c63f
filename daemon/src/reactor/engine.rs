//! The reactor's loop.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use dmashare_proto::message::{Cause, FenceState};
use dmashare_proto::state_page::{DeviceState, Word};
use dmashare_proto::{DeviceId, ObjectId};
use dmashare_uapi::sync_file::Status;
use dmashare_uapi::uevent::{MESSAGE_MAX, RecvError};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use tokio::sync::mpsc::UnboundedSender;

use super::fences::{Pending, Table, forget_source};
use super::lines::Lines;
use super::liveness::Liveness;
use super::removals::{Devices, Known, Meaning};
use super::{Command, Lookout, Notice, OnPoint, Uevents, Watched, failed};
use crate::clock::{monotonic_ns, wall_clock_s};
use crate::core::{Sweep, Wedge, ended};
use crate::guard::{Ender, GuardBackend};
use crate::kernel::Machine;
use crate::state_page::StatePage;

/// Keys in epoll. Ids of fences stay far below: they are given out one by one.
const WAKE: u64 = u64::MAX;
const UEVENTS: u64 = u64::MAX - 1;
const IMPLICIT: u64 = 1 << 63;
const LINES: u64 = 1 << 62;

pub(super) struct Engine {
    machine: Machine,
    uevents: Option<Uevents>,
    state_page: Arc<StatePage>,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    notices: UnboundedSender<Notice>,
    epoll: Epoll,
    table: Table,
    devices: Devices,
    liveness: Liveness,
    lines: Lines,
    /// Eventfds that the kernel writes to when a point is signalled.
    watched_points: HashMap<u64, (ObjectId, OwnedFd)>,
    next_point: u64,
    implicit: HashMap<u64, (DeviceId, ObjectId, OwnedFd)>,
    next_implicit: u64,
}

impl Engine {
    pub fn new(
        machine: Machine,
        lookout: Lookout,
        state_page: Arc<StatePage>,
        backend: Option<Arc<dyn GuardBackend>>,
        commands: Receiver<Command>,
        wake: Arc<EventFd>,
        notices: UnboundedSender<Notice>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let uevents = lookout.uevents;
        if let Some(uevents) = &uevents {
            epoll.add(uevents.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, UEVENTS))?;
        }
        let liveness = Liveness::start(machine.clone(), lookout.liveness, Arc::clone(&wake))?;
        Ok(Self {
            machine,
            uevents,
            state_page,
            commands,
            wake,
            notices,
            epoll,
            table: Table::default(),
            devices: Devices::default(),
            liveness,
            lines: Lines::new(backend),
            watched_points: HashMap::new(),
            next_point: LINES,
            implicit: HashMap::new(),
            next_implicit: IMPLICIT,
        })
    }

    /// Runs until it is told to stop; gives the number of guards that were ended by that.
    pub fn run(mut self) -> io::Result<usize> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timeout = self.table.deadlines.timeout(monotonic_ns(), self.liveness.next_ns());
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            // Removals first: a source that ends in the same instant ends because of it.
            if events[..count].iter().any(|event| event.data() == UEVENTS) {
                self.read_uevents();
            }
            for event in &events[..count] {
                match event.data() {
                    UEVENTS => {}
                    WAKE => {
                        if self.carry_out_commands()? {
                            return Ok(self.end_everything());
                        }
                        self.take_answers();
                    }
                    key if key >= IMPLICIT => self.implicit_ended(key),
                    key if key >= LINES => self.point_signalled(key),
                    key => self.source_ended(ObjectId(key)),
                }
            }
            let now_ns = monotonic_ns();
            while let Some(fence) = self.table.deadlines.take_due(now_ns) {
                let device = self.table.device(fence);
                self.end(fence, failed(Cause::TimedOut, now_ns));
                if let Some(device) = device {
                    self.look_at(device);
                }
            }
            self.take_turns(now_ns);
        }
    }

    /// `true` for the stop.
    fn carry_out_commands(&mut self) -> io::Result<bool> {
        // The count is read before the queue, so that what is queued after it wakes again.
        match self.wake.read() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        loop {
            match self.commands.try_recv() {
                Err(TryRecvError::Empty) => return Ok(false),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(true),
                Ok(command) => self.carry_out(command),
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::AddDevice(id, watched) => self.add_device(id, watched),
            Command::ForgetDevice(id) => self.devices.forget(id),
            Command::Watch { fence, device, source, ender, deadline_ns, point } => {
                self.watch(fence, Pending { device, source, ender, deadline_ns, point });
            }
            Command::AddTimeline(timeline, device, line) => {
                self.lines.add(timeline, device, line);
                self.lose_late(timeline);
            }
            Command::Promise(timeline, point) => {
                self.lines.promise(timeline, point);
                self.lose_late(timeline);
            }
            Command::SignalPoint(timeline, point) => self.lines.signal(timeline, point),
            Command::EndPromises(timeline, errno) => {
                if self.lines.end_promises(timeline) {
                    self.tell(Notice::PromisesEnded(timeline, errno, monotonic_ns()));
                }
            }
            Command::Adopt(timeline, line) => self.lines.adopt(timeline, line),
            Command::DropTimeline(timeline) => self.lines.forget(timeline),
            Command::WatchPoint(timeline, eventfd) => self.watch_point(timeline, eventfd),
            Command::ProbePoint { timeline, point, client, id } => {
                // As for a fence: who asks may have been woken by a source itself.
                for fence in self.lines.open_up_to(timeline, point) {
                    self.source_ended(fence);
                }
                let signalled = self.lines.signalled(timeline);
                self.tell(Notice::PointProbed { timeline, point, signalled, client, id });
            }
            Command::WatchImplicit { device, buffer, fence } => {
                let key = self.next_implicit;
                self.next_implicit = IMPLICIT | (key + 1);
                let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
                match self.epoll.add(fence.as_fd(), event) {
                    Ok(()) => {
                        self.implicit.insert(key, (device, buffer, fence));
                    }
                    Err(error) => {
                        tracing::warn!(%buffer, %error, "an implicit fence cannot be watched");
                    }
                }
            }
            Command::Probe { fence, client, id } => {
                // Who asks may have been woken by the source itself, before this thread was.
                self.source_ended(fence);
                self.tell(Notice::Probed { fence, client, id });
            }
            Command::AskCause(request, object) => {
                self.source_ended(object);
                for fence in self.lines.open_up_to(object, request.point) {
                    self.source_ended(fence);
                }
                self.tell(Notice::CauseAsked(request));
            }
            Command::Rehearse(device) => self.lose(device, Cause::Rehearsed, monotonic_ns()),
            Command::EndRehearsed { fences, timelines, guards, done } => {
                self.end_rehearsed(&fences, &timelines, guards);
                drop(done);
            }
            Command::Stop => {}
        }
    }

    fn tell(&self, notice: Notice) {
        if self.notices.send(notice).is_err() {
            tracing::debug!("the main thread is gone");
        }
    }

    fn add_device(&mut self, id: DeviceId, watched: Watched) {
        let there = self.machine.is_there(&watched.desc);
        let removed = self.devices.add(id, watched);
        // It may have gone after it was found and before it was known here: its event has passed.
        if !there || removed {
            self.lose(id, Cause::Unplugged, monotonic_ns());
        }
    }

    fn watch(&mut self, fence: ObjectId, pending: Pending) {
        let lost = match self.devices.known.get(&pending.device) {
            Some(known) => known.lost,
            None => Some(Cause::Unplugged),
        };
        if let Some(cause) = lost {
            // It passed the gate before the loss, and came out of the queue after it.
            let at_ns = monotonic_ns();
            if let Some(on) = pending.point {
                self.lines.submit(on.timeline, on.point, fence, on.in_turn);
            }
            end_guard(pending.ender, Err(cause.errno()));
            self.point_ended(pending.point);
            self.tell(Notice::Ended(fence, failed(cause, at_ns)));
            return;
        }
        if let Some(on) = pending.point {
            self.lines.submit(on.timeline, on.point, fence, on.in_turn);
        }
        if let Err((pending, error)) = self.table.add(&self.epoll, fence.0, fence, pending) {
            tracing::warn!(%fence, %error, "a fence cannot be watched; it ends with an error");
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            end_guard(pending.ender, Err(errno));
            self.point_ended(pending.point);
            self.tell(Notice::Ended(fence, failed(Cause::Exporter(errno), monotonic_ns())));
        }
    }

    fn source_ended(&mut self, fence: ObjectId) {
        let Some(source) = self.table.source(fence) else { return };
        let result = match self.machine.fence_status(source.as_fd()) {
            Ok(Status::Pending) => return,
            Ok(Status::Signalled) => Ok(()),
            Ok(Status::Error(errno)) => Err(errno),
            Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        self.end(fence, ended(result, monotonic_ns()));
    }

    fn end(&mut self, fence: ObjectId, state: FenceState) {
        let Some(pending) = self.table.take(fence) else { return };
        let result = match state {
            FenceState::Ok { .. } | FenceState::Pending => Ok(()),
            FenceState::Failed { cause, .. } => Err(cause.errno()),
        };
        end_guard(pending.ender, result);
        self.point_ended(pending.point);
        self.tell(Notice::Ended(fence, state));
        forget_source(&self.epoll, &pending.source);
    }

    fn implicit_ended(&mut self, key: u64) {
        let Some((device, buffer, fence)) = self.implicit.remove(&key) else { return };
        forget_source(&self.epoll, &fence);
        self.tell(Notice::ImplicitEnded(device, buffer, monotonic_ns()));
    }

    fn read_uevents(&mut self) {
        let mut buffer = [0; MESSAGE_MAX];
        loop {
            let Some(uevents) = &self.uevents else { return };
            let (meaning, at_ns) = match uevents.recv(&mut buffer) {
                Ok(None) => return,
                Ok(Some(event)) => {
                    let at_ns = monotonic_ns();
                    (self.devices.meaning(&event), at_ns)
                }
                Err(RecvError::Overrun) => {
                    self.look_for_lost();
                    continue;
                }
                Err(RecvError::Malformed(error)) => {
                    tracing::warn!(%error, "a uevent that makes no sense");
                    continue;
                }
                Err(RecvError::Io(error)) => {
                    tracing::error!(%error, "uevents cannot be read; looking what is still there");
                    self.look_for_lost();
                    return;
                }
            };
            match meaning {
                None => {}
                Some(Meaning::Lost(id)) => self.lose(id, Cause::Unplugged, at_ns),
                Some(Meaning::ParentRemoved(id)) => {
                    self.lose(id, Cause::Unplugged, at_ns);
                    self.tell(Notice::ParentRemoved(id, at_ns));
                }
                Some(Meaning::Requested(id, why)) => self.tell(Notice::RemovalRequested(id, why)),
                Some(Meaning::Wedged(id, mut wedge)) => {
                    wedge.at_ns = at_ns;
                    self.wedge(id, wedge);
                }
            }
        }
    }

    /// Looks at devices that may have vanished while something of theirs was pending. Only those that
    /// can be pulled: others are looked at when a deadline passes.
    fn take_turns(&mut self, now_ns: u64) {
        let known = &self.devices.known;
        let may_vanish = |known: &Known| {
            let desc = &known.watched.desc;
            known.lost.is_none() && desc.removable && !desc.pci.is_empty()
        };
        let of_those =
            |(device, _): &(DeviceId, ObjectId)| known.get(device).is_some_and(may_vanish);
        for device in self.liveness.due(now_ns, self.table.oldest().filter(of_those)) {
            self.look_at(device);
        }
    }

    fn look_at(&mut self, device: DeviceId) {
        if let Some(known) = self.devices.known.get(&device)
            && known.lost.is_none()
        {
            self.liveness.look(device, &known.watched.desc);
        }
    }

    fn take_answers(&mut self) {
        while let Some(looked) = self.liveness.answer() {
            if looked.vanished {
                self.lose(looked.device, Cause::Vanished, looked.at_ns);
            }
        }
    }

    /// A driver says that its device hangs. What is guarded of it ends now, and not when somebody
    /// recovers the device; what was passed through is the driver's to end, and stays watched. Of a
    /// device that its driver has recovered by itself, everything runs on.
    fn wedge(&mut self, id: DeviceId, mut wedge: Wedge) {
        if self.devices.known.get(&id).is_none_or(|known| known.lost.is_some()) {
            return;
        }
        let mut taken = Vec::new();
        if !wedge.has_recovered {
            taken = self.table.take_guarded_of(id);
        }
        for (fence, pending) in &mut taken {
            end_guard(pending.ender.take(), Err(Cause::Wedged.errno()));
            wedge.fences.push(*fence);
        }
        for (_, pending) in &taken {
            self.point_ended(pending.point);
        }
        self.tell(Notice::Wedged(id, wedge));
        for (_, pending) in taken {
            forget_source(&self.epoll, &pending.source);
        }
    }

    /// Events were lost: what is not there any more has gone unseen.
    fn look_for_lost(&mut self) {
        tracing::warn!("uevents were lost; looking for devices that have gone unseen");
        let at_ns = monotonic_ns();
        let vanished: Vec<DeviceId> = self
            .devices
            .known
            .iter()
            .filter(|(_, it)| it.lost.is_none() && !self.machine.is_there(&it.watched.desc))
            .map(|(&id, _)| id)
            .collect();
        for id in vanished {
            self.lose(id, Cause::Vanished, at_ns);
        }
    }

    /// Steps 1 and 2 of the unplug. The first caller wins.
    fn lose(&mut self, id: DeviceId, cause: Cause, uevent_ns: u64) {
        let Some(known) = self.devices.known.get_mut(&id) else { return };
        if known.lost == Some(Cause::Rehearsed) && cause != Cause::Rehearsed {
            known.removed = true;
        }
        if known.lost.is_some() || !known.watched.gate.lose() {
            return;
        }
        known.lost = Some(cause);
        let word = Word::new(known.watched.word.generation(), DeviceState::Lost);
        self.state_page.publish(known.watched.slot, id, word);
        let gate_ns = monotonic_ns();
        let mut swept = self.table.take_all_of(id);
        let mut guards = 0;
        for (_, pending) in &mut swept {
            if let Some(ender) = pending.ender.take() {
                guards += 1;
                end_guard(Some(ender), Err(cause.errno()));
            }
        }
        for on in swept.iter().filter_map(|(_, pending)| pending.point) {
            self.lines.ended(on.timeline, on.point);
        }
        self.lines.lose(id);
        let guards_ns = monotonic_ns();
        let wall_clock_s = wall_clock_s();
        let sweep = Sweep { cause, uevent_ns, wall_clock_s, gate_ns, guards_ns, guards };
        self.tell(Notice::Lost(id, sweep));
        for (_, pending) in swept {
            forget_source(&self.epoll, &pending.source);
        }
    }

    /// Steps 1 and 2 for one client's own, where the device is only said to be lost.
    fn end_rehearsed(
        &mut self,
        fences: &[ObjectId],
        timelines: &[ObjectId],
        guards: Vec<(ObjectId, Ender)>,
    ) {
        let errno = Cause::Rehearsed.errno();
        let taken: Vec<Pending> = fences.iter().filter_map(|&it| self.table.take(it)).collect();
        let mut sources = Vec::with_capacity(taken.len());
        for Pending { source, ender, point, .. } in taken {
            end_guard(ender, Err(errno));
            self.point_ended(point);
            sources.push(source);
        }
        for (fence, ender) in guards {
            end_guard(self.table.change_guard(fence, ender), Err(errno));
        }
        for &timeline in timelines {
            self.lines.lose_one(timeline);
        }
        for source in sources {
            forget_source(&self.epoll, &source);
        }
    }

    /// A timeline, or a promise, that passed the gate before the loss and came out of the queue
    /// after it.
    fn lose_late(&mut self, timeline: ObjectId) {
        let Some(device) = self.lines.device(timeline) else { return };
        if self.devices.known.get(&device).is_none_or(|known| known.lost.is_some()) {
            self.lines.lose_one(timeline);
        }
    }

    fn point_ended(&mut self, point: Option<OnPoint>) {
        if let Some(on) = point {
            self.lines.ended(on.timeline, on.point);
        }
    }

    fn watch_point(&mut self, timeline: ObjectId, eventfd: OwnedFd) {
        let key = self.next_point;
        self.next_point = LINES | (key + 1);
        match self.epoll.add(eventfd.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, key)) {
            Ok(()) => {
                self.watched_points.insert(key, (timeline, eventfd));
            }
            Err(error) => tracing::warn!(%timeline, %error, "a point cannot be watched"),
        }
    }

    fn point_signalled(&mut self, key: u64) {
        let Some((timeline, eventfd)) = self.watched_points.remove(&key) else { return };
        forget_source(&self.epoll, &eventfd);
        if let Some(point) = self.lines.signalled(timeline) {
            self.tell(Notice::LineSignalled(timeline, point));
        }
    }

    fn end_everything(&mut self) -> usize {
        let mut guards = 0;
        for pending in self.table.take_everything() {
            if let Some(ender) = pending.ender {
                guards += 1;
                end_guard(Some(ender), Err(libc::ECANCELED));
            }
            self.point_ended(pending.point);
            forget_source(&self.epoll, &pending.source);
        }
        self.lines.end_everything();
        guards
    }
}

fn end_guard(ender: Option<Ender>, result: Result<(), i32>) {
    if let Some(ender) = ender
        && let Err(error) = ender.end(result)
    {
        tracing::error!(%error, "a guard could not be ended as it should; it ends with an error");
    }
}
