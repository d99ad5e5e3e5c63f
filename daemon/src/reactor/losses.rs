//! Devices that go, hang, or are looked at: steps 1 and 2 of the unplug.

use std::io;

use dmashare_proto::message::Cause;
use dmashare_proto::state_page::{DeviceState, Word};
use dmashare_proto::{DeviceId, ObjectId};
use dmashare_uapi::uevent::{MESSAGE_MAX, RecvError};

use super::Notice;
use super::engine::{Engine, end_guard};
use super::fences::{Pending, forget_source};
use super::removals::{Known, Meaning};
use crate::clock::{monotonic_ns, wall_clock_s};
use crate::core::{Standing, Sweep, Wedge};
use crate::guard::Ender;

impl Engine {
    /// Reads what the kernel has to say. Losses count at once; words about a device that stays are obeyed
    /// after the commands in the queue, since whoever speaks may have heard from the main thread that the
    /// device is known, or that a fence of it is watched. `true` for the stop among them.
    pub(super) fn read_uevents(&mut self) -> io::Result<bool> {
        let mut words = Vec::new();
        self.read_all_uevents(&mut words);
        if words.is_empty() {
            return Ok(false);
        }
        if self.carry_out_commands()? {
            return Ok(true);
        }
        for (meaning, at_ns) in words {
            let meaning = match meaning {
                Meaning::Early(devpath, said) => self.devices.word(devpath, said),
                known => known,
            };
            self.obey(meaning, at_ns);
        }
        Ok(false)
    }

    /// Obeys losses, and gives the rest.
    fn read_all_uevents(&mut self, words: &mut Vec<(Meaning, u64)>) {
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
                    tracing::error!(name: "uevents-lost", %error, "uevents cannot be read; looking what is still there");
                    self.look_for_lost();
                    return;
                }
            };
            match meaning {
                Some(meaning @ (Meaning::Lost(_) | Meaning::ParentRemoved(_))) => {
                    self.obey(meaning, at_ns);
                }
                other => words.extend(other.map(|word| (word, at_ns))),
            }
        }
    }

    fn obey(&mut self, meaning: Meaning, at_ns: u64) {
        match meaning {
            Meaning::Lost(id) => self.lose(id, Cause::Unplugged, at_ns),
            Meaning::ParentRemoved(id) => {
                self.lose(id, Cause::Unplugged, at_ns);
                self.tell(Notice::ParentRemoved(id, at_ns));
            }
            Meaning::Requested(id, why) => self.tell(Notice::RemovalRequested(id, why)),
            Meaning::Wedged(id, mut wedge) => {
                wedge.at_ns = at_ns;
                self.wedge(id, wedge);
            }
            // Of a device that is not known after all.
            Meaning::Early(..) => {}
        }
    }

    /// Looks at devices that may have vanished while something of theirs was pending. Only those that
    /// can be pulled: others are looked at when a deadline passes.
    pub(super) fn take_turns(&mut self, now_ns: u64) {
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

    pub(super) fn look_at(&mut self, device: DeviceId) {
        if let Some(known) = self.devices.known.get(&device)
            && known.lost.is_none()
        {
            self.liveness.look(device, &known.watched.desc);
        }
    }

    pub(super) fn take_answers(&mut self) {
        while let Some(looked) = self.liveness.answer() {
            if looked.vanished {
                self.lose(looked.device, Cause::Vanished, looked.at_ns);
            }
        }
    }

    /// A driver says that its device hangs. What is guarded of it ends now, and not when somebody
    /// recovers the device; what was passed through is the driver's to end, and stays watched. Of a
    /// device that its driver has recovered by itself, everything runs on.
    pub(super) fn wedge(&mut self, id: DeviceId, mut wedge: Wedge) {
        if self.devices.known.get(&id).is_none_or(|known| known.lost.is_some()) {
            return;
        }
        let mut taken = Vec::new();
        if !wedge.has_recovered {
            taken = self.table.take_guarded_of(id);
        }
        self.let_go(taken.iter().map(|(fence, _)| *fence));
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
    pub(super) fn look_for_lost(&mut self) {
        tracing::warn!(name: "uevents-lost", "uevents were lost; looking for devices that have gone unseen");
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

    /// The word of a device that is there is written on this thread alone, so that none is ever put in the
    /// place of *Lost*.
    pub(super) fn stand(&mut self, id: DeviceId, standing: Standing) {
        let Some(known) = self.devices.known.get_mut(&id) else { return };
        if known.lost.is_some() {
            return;
        }
        known.standing = standing;
        let state = match standing {
            Standing::Present => DeviceState::Present,
            Standing::Draining | Standing::Ejecting => DeviceState::Draining,
        };
        let word = Word::new(known.watched.word.generation(), state);
        self.state_page.publish(known.watched.slot, id, word);
    }

    /// Steps 1 and 2 of the unplug. The first caller wins.
    pub(super) fn lose(&mut self, id: DeviceId, cause: Cause, uevent_ns: u64) {
        let Some(known) = self.devices.known.get_mut(&id) else { return };
        if known.lost == Some(Cause::Rehearsed) && cause != Cause::Rehearsed {
            known.removed = true;
        }
        if known.lost.is_some() || !known.watched.gate.lose() {
            return;
        }
        let cause = match (cause, known.standing) {
            (Cause::Unplugged, Standing::Ejecting) => Cause::Ejected,
            (cause, _) => cause,
        };
        known.lost = Some(cause);
        let word = Word::new(known.watched.word.generation(), DeviceState::Lost);
        self.state_page.publish(known.watched.slot, id, word);
        let gate_ns = monotonic_ns();
        // The keeper's ends and ours are closed side by side: it is told first. Nothing else is done before
        // the last guard has ended.
        let names = self.table.take_names_of(id);
        self.let_go(names.iter().copied());
        self.let_go_of_lines(self.lines.of(id));
        let mut guards = 0;
        let mut swept = Vec::with_capacity(names.len());
        for fence in names {
            let Some(mut pending) = self.table.take_swept(fence) else { continue };
            if let Some(ender) = pending.ender.take() {
                guards += 1;
                end_guard(Some(ender), Err(cause.errno()));
            }
            swept.push((fence, pending));
        }
        for on in swept.iter().filter_map(|(_, pending)| pending.point) {
            self.lines.ended(on.timeline, on.point);
        }
        self.lines.lose(id);
        let guards_ns = monotonic_ns();
        let wall_clock_s = wall_clock_s();
        let sweep = Sweep { cause, uevent_ns, wall_clock_s, gate_ns, guards_ns, guards };
        self.tell(Notice::Lost(id, sweep));
        for (fence, pending) in &swept {
            self.table.forget(&self.epoll, *fence, pending);
        }
    }

    /// Steps 1 and 2 for one client's own, where the device is only said to be lost.
    pub(super) fn end_rehearsed(
        &mut self,
        fences: &[ObjectId],
        timelines: &[ObjectId],
        guards: Vec<(ObjectId, Ender)>,
    ) {
        let errno = Cause::Rehearsed.errno();
        self.let_go(fences.iter().copied());
        self.let_go_of_lines(timelines.iter().copied());
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
    pub(super) fn lose_late(&mut self, timeline: ObjectId) {
        let Some(device) = self.lines.device(timeline) else { return };
        if self.devices.known.get(&device).is_none_or(|known| known.lost.is_some()) {
            self.let_go_of_lines([timeline]);
            self.lines.lose_one(timeline);
        }
    }
}
