//! The reactor's loop.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use dmashare_proto::keeper::Key;
use dmashare_proto::message::{Cause, FenceState};
use dmashare_proto::{DeviceId, ObjectId};
use dmashare_uapi::sync_file::Status;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use tokio::sync::mpsc::UnboundedSender;

use super::fences::{Pending, Table, forget_source};
use super::handover::{Found, Inbox};
use super::lines::Lines;
use super::liveness::Liveness;
use super::removals::Devices;
use super::{Command, Lookout, Notice, OnPoint, Uevents, Watched, failed};
use crate::clock::monotonic_ns;
use crate::core::ended;
use crate::guard::{Ender, GuardBackend};
use crate::keeper::Keeper;
use crate::kernel::Machine;
use crate::shell::{ENDER, HANGUP};
use crate::state_page::StatePage;

/// Keys in epoll. Ids of fences stay far below: they are given out one by one.
const WAKE: u64 = u64::MAX;
const UEVENTS: u64 = u64::MAX - 1;
const IMPLICIT: u64 = 1 << 63;
const LINES: u64 = 1 << 62;

pub(super) struct Engine {
    pub(super) machine: Machine,
    pub(super) uevents: Option<Uevents>,
    pub(super) state_page: Arc<StatePage>,
    pub(super) commands: Inbox<Command>,
    pub(super) wake: Arc<EventFd>,
    pub(super) notices: UnboundedSender<Notice>,
    pub(super) epoll: Epoll,
    pub(super) table: Table,
    pub(super) devices: Devices,
    pub(super) liveness: Liveness,
    pub(super) lines: Lines,
    /// Eventfds that the kernel writes to when a point is signalled.
    pub(super) watched_points: HashMap<u64, (ObjectId, OwnedFd)>,
    pub(super) next_point: u64,
    pub(super) implicit: HashMap<u64, (DeviceId, ObjectId, OwnedFd)>,
    pub(super) next_implicit: u64,
    /// Has an end of every guard, and of every pipe that is to hang up.
    pub(super) keeper: Option<Arc<Keeper>>,
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
            commands: Inbox::new(commands),
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
            keeper: None,
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
            if events[..count].iter().any(|event| event.data() == UEVENTS) && self.read_uevents()? {
                return Ok(self.end_everything());
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
    pub(super) fn carry_out_commands(&mut self) -> io::Result<bool> {
        loop {
            match self.commands.next(&*self.wake)? {
                Found::Nothing => return Ok(false),
                Found::Item(Command::Stop) | Found::End => return Ok(true),
                Found::Item(command) => self.carry_out(command),
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            // Who asked has gone only when the service ends.
            Command::Turn(answer) => _ = answer.send(()),
            Command::AddDevice(id, watched) => self.add_device(id, watched),
            Command::ForgetDevice(id) => self.devices.forget(id),
            Command::Stand(id, standing) => self.stand(id, standing),
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
            Command::Restored { timeline, submitted, ended_early } => {
                self.lines.restored(timeline, submitted, &ended_early);
            }
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

    pub(super) fn tell(&self, notice: Notice) {
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
            self.let_go([fence]);
            end_guard(pending.ender, Err(cause.errno()));
            self.point_ended(pending.point);
            self.tell(Notice::Ended(fence, failed(cause, at_ns)));
            return;
        }
        if let Some(on) = pending.point {
            self.lines.submit(on.timeline, on.point, fence, on.in_turn);
        }
        if let Err((pending, error)) = self.table.add(&self.epoll, fence.0, fence, pending) {
            tracing::warn!(name: "fence-unwatched", %fence, %error, "a fence cannot be watched; it ends with an error");
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.let_go([fence]);
            end_guard(pending.ender, Err(errno));
            self.point_ended(pending.point);
            self.tell(Notice::Ended(fence, failed(Cause::Exporter(errno), monotonic_ns())));
        }
    }

    pub(super) fn source_ended(&mut self, fence: ObjectId) {
        let Some(source) = self.table.source(fence) else { return };
        let result = match self.machine.fence_status(source.as_fd()) {
            Ok(Status::Pending) => return,
            Ok(Status::Signalled) => Ok(()),
            Ok(Status::Error(errno)) => Err(errno),
            Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        self.end(fence, ended(result, monotonic_ns()));
    }

    pub(super) fn end(&mut self, fence: ObjectId, state: FenceState) {
        let Some(pending) = self.table.take(fence) else { return };
        let result = match state {
            FenceState::Ok { .. } | FenceState::Pending => Ok(()),
            FenceState::Failed { cause, .. } => Err(cause.errno()),
        };
        if result.is_err() {
            self.let_go([fence]);
        }
        end_guard(pending.ender, result);
        self.point_ended(pending.point);
        self.tell(Notice::Ended(fence, state));
        forget_source(&self.epoll, &pending.source);
    }

    /// These are about to fail, by the close of their last descriptor: the keeper has others.
    pub(super) fn let_go(&self, fences: impl IntoIterator<Item = ObjectId>) {
        if let Some(keeper) = &self.keeper {
            keeper.let_go(fences.into_iter().map(|fence| Key(ENDER, fence.0, 0)));
        }
    }

    /// The same of timelines that are about to hang up.
    pub(super) fn let_go_of_lines(&self, timelines: impl IntoIterator<Item = ObjectId>) {
        if let Some(keeper) = &self.keeper {
            keeper.let_go(timelines.into_iter().map(|timeline| Key(HANGUP, timeline.0, 0)));
        }
    }

    fn implicit_ended(&mut self, key: u64) {
        let Some((device, buffer, fence)) = self.implicit.remove(&key) else { return };
        forget_source(&self.epoll, &fence);
        self.tell(Notice::ImplicitEnded(device, buffer, monotonic_ns()));
    }

    pub(super) fn point_ended(&mut self, point: Option<OnPoint>) {
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
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.forget()
        {
            tracing::error!(%error, "the keeper does not let go: guards end when it ends");
        }
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

pub(super) fn end_guard(ender: Option<Ender>, result: Result<(), i32>) {
    if let Some(ender) = ender
        && let Err(error) = ender.end(result)
    {
        tracing::error!(%error, "a guard could not be ended as it should; it ends with an error");
    }
}
