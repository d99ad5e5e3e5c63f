//! The timelines as the reactor knows them: enough to end them at once, and to signal points in
//! their turn where nothing can be put to them before.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::message::GuardKind;
use dmashare_proto::{DeviceId, ObjectId};

use crate::guard::GuardBackend;
use crate::id_map::IdMap;
use crate::timeline::{Line, NewLine};

/// One timeline.
pub(super) struct Known {
    device: DeviceId,
    line: Arc<Line>,
    /// Dropped at the loss: readers of the pipe see it hang up.
    hangup: Option<OwnedFd>,
    promised: u64,
    submitted: u64,
    /// Pending points and their fences.
    open: BTreeMap<u64, ObjectId>,
    /// Points that are signalled by hand when they and all below have ended; `true`: it has.
    in_turn: BTreeMap<u64, bool>,
    /// What could not be signalled, for there was no keeper.
    owed: u64,
}

/// All of them.
#[derive(Default)]
pub(super) struct Lines {
    known: IdMap<ObjectId, Known>,
    backend: Option<Arc<dyn GuardBackend>>,
}

impl Lines {
    pub fn new(backend: Option<Arc<dyn GuardBackend>>) -> Self {
        Self { known: IdMap::default(), backend }
    }

    pub fn add(&mut self, timeline: ObjectId, device: DeviceId, new: NewLine) {
        let NewLine { line, hangup, .. } = new;
        self.known.insert(
            timeline,
            Known {
                device,
                line,
                hangup: Some(hangup),
                promised: 0,
                submitted: 0,
                open: BTreeMap::new(),
                in_turn: BTreeMap::new(),
                owed: 0,
            },
        );
    }

    /// How far a timeline of another life's had come.
    pub fn restored(&mut self, timeline: ObjectId, submitted: u64, ended_early: &[u64]) {
        let Some(known) = self.known.get_mut(&timeline) else { return };
        known.submitted = known.submitted.max(submitted);
        for &point in ended_early {
            known.in_turn.insert(point, true);
        }
    }

    /// The timelines of a device.
    pub fn of(&self, device: DeviceId) -> Vec<ObjectId> {
        let known = self.known.iter().filter(|(_, known)| known.device == device);
        known.map(|(&timeline, _)| timeline).collect()
    }

    pub fn forget(&mut self, timeline: ObjectId) {
        self.known.remove(&timeline);
    }

    pub fn promise(&mut self, timeline: ObjectId, point: u64) {
        if let Some(known) = self.known.get_mut(&timeline) {
            known.promised = known.promised.max(point);
        }
    }

    /// A point's fence is watched from here. `in_turn`: nothing was put to the point.
    pub fn submit(&mut self, timeline: ObjectId, point: u64, fence: ObjectId, in_turn: bool) {
        let Some(known) = self.known.get_mut(&timeline) else { return };
        known.submitted = known.submitted.max(point);
        known.open.insert(point, fence);
        if in_turn {
            known.in_turn.insert(point, false);
        }
    }

    /// A point's fence has ended.
    pub fn ended(&mut self, timeline: ObjectId, point: u64) {
        let Some(known) = self.known.get_mut(&timeline) else { return };
        known.open.remove(&point);
        if let Some(ended) = known.in_turn.get_mut(&point) {
            *ended = true;
            known.advance();
        }
    }

    /// A point whose work is done without a fence.
    pub fn signal(&mut self, timeline: ObjectId, point: u64) {
        let Some(known) = self.known.get_mut(&timeline) else { return };
        known.submitted = known.submitted.max(point);
        known.in_turn.insert(point, true);
        known.advance();
    }

    /// Fences of a timeline up to a point that have not ended.
    pub fn open_up_to(&self, timeline: ObjectId, point: u64) -> Vec<ObjectId> {
        let known = self.known.get(&timeline);
        known.into_iter().flat_map(|known| known.open.range(..=point)).map(|(_, id)| *id).collect()
    }

    /// How far the kernel's timeline is signalled.
    pub fn signalled(&self, timeline: ObjectId) -> Option<u64> {
        let line = &self.known.get(&timeline)?.line;
        line.signalled().unwrap_or_else(|error| {
            tracing::debug!(%timeline, %error, "the timeline cannot be asked");
            None
        })
    }

    /// Another keeper has the timeline now.
    pub fn adopt(&mut self, timeline: ObjectId, line: Arc<Line>) {
        let Some(known) = self.known.get_mut(&timeline) else { return };
        known.line = line;
        let owed = std::mem::take(&mut known.owed);
        if owed > 0 {
            known.signal_now(owed);
        }
        known.advance();
    }

    /// Ends what is promised and not submitted. `true` if there was anything.
    pub fn end_promises(&mut self, timeline: ObjectId) -> bool {
        let backend = self.backend.as_deref();
        self.known.get_mut(&timeline).is_some_and(|known| known.end_promises(backend))
    }

    /// The device is lost (its guards are ended): ends the promises of its timelines and hangs up.
    pub fn lose(&mut self, device: DeviceId) {
        let backend = self.backend.as_deref();
        for known in self.known.values_mut().filter(|known| known.device == device) {
            known.lose(backend);
        }
    }

    /// The same for one timeline: it came out of the queue after its device was lost.
    pub fn lose_one(&mut self, timeline: ObjectId) {
        if let Some(known) = self.known.get_mut(&timeline) {
            known.lose(self.backend.as_deref());
        }
    }

    pub fn device(&self, timeline: ObjectId) -> Option<DeviceId> {
        self.known.get(&timeline).map(|known| known.device)
    }

    /// The service ends: nobody fulfils a promise any more. Pipes hang up by being closed.
    pub fn end_everything(&mut self) {
        let backend = self.backend.as_deref();
        for known in self.known.values_mut() {
            known.lose(backend);
        }
        self.known.clear();
    }
}

impl Known {
    fn lose(&mut self, backend: Option<&dyn GuardBackend>) {
        self.end_promises(backend);
        if let Some(hangup) = self.hangup.take() {
            // For those who wait for data alone; the hang-up is what stays.
            let mut pipe = std::fs::File::from(hangup);
            if let Err(error) = pipe.write_all(&1_u64.to_ne_bytes()) {
                tracing::debug!(%error, "a timeline's pipe takes no data; it hangs up all the same");
            }
        }
    }

    fn end_promises(&mut self, backend: Option<&dyn GuardBackend>) -> bool {
        // On a release timeline the importer's own signals are known to the kernel alone.
        let in_kernel = self.line.submitted().ok().flatten().unwrap_or(0);
        let point = self.promised;
        if point <= self.submitted.max(in_kernel) {
            return false;
        }
        self.submitted = point;
        if !self.in_turn.is_empty() {
            self.in_turn.insert(point, true);
            self.advance();
            return true;
        }
        match self.fail(point, backend) {
            Ok(true) => {}
            Ok(false) => self.signal_now(point),
            Err(error) => {
                tracing::warn!(point, %error, "an error cannot be shown on a timeline's point");
                self.signal_now(point);
            }
        }
        true
    }

    /// Puts a pending guard to the point and lets it fail: an error that is put later is not seen.
    /// `false` if no backend shows errors.
    fn fail(&self, point: u64, backend: Option<&dyn GuardBackend>) -> io::Result<bool> {
        let Some(backend) = backend.filter(|it| it.kind() == GuardKind::SwSync) else {
            return Ok(false);
        };
        let guard = backend.make()?;
        self.line.put(point, guard.fence.as_fd())?;
        guard.ender.end(Err(libc::ENODEV))?;
        Ok(true)
    }

    /// Signals the points that are in their turn, as one: a point stands for all below.
    fn advance(&mut self) {
        let mut up_to = None;
        while let Some(first) = self.in_turn.first_entry()
            && *first.get()
        {
            up_to = Some(*first.key());
            first.remove();
        }
        if let Some(point) = up_to {
            self.signal_now(point);
        }
    }

    fn signal_now(&mut self, point: u64) {
        if let Err(error) = self.line.signal(point) {
            tracing::warn!(point, %error, "a point cannot be signalled; it is when a device can");
            self.owed = self.owed.max(point);
        }
    }
}

#[cfg(test)]
mod tests {
    use dmashare_uapi::sim;
    use nix::poll::{PollFd, PollFlags, PollTimeout};

    use super::*;
    use crate::timeline::Keeper;

    fn lines() -> (Lines, OwnedFd) {
        let (line, fd) = Keeper::simulated(DeviceId(1)).create().unwrap();
        assert!(sim::is_fence(fd.as_fd()).unwrap());
        let (reader, hangup) = crate::timeline::hangup().unwrap();
        let mut lines = Lines::new(None);
        let (line, syncobj) = (Arc::new(line), Arc::new(fd));
        lines.add(ObjectId(7), DeviceId(1), NewLine { line, hangup, syncobj, in_turn: true });
        (lines, reader)
    }

    fn poll(fd: &OwnedFd) -> PollFlags {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::ZERO).unwrap();
        fds[0].revents().unwrap()
    }

    #[test]
    fn the_pipe_hangs_up_at_the_loss_and_stays_so() {
        let (mut lines, reader) = lines();
        assert_eq!(poll(&reader), PollFlags::empty());
        lines.promise(ObjectId(7), 5);
        lines.lose(DeviceId(2));
        assert_eq!(poll(&reader), PollFlags::empty());
        lines.lose(DeviceId(1));
        assert_eq!(poll(&reader), PollFlags::POLLIN | PollFlags::POLLHUP);
        let mut word = [0; 8];
        assert_eq!(nix::unistd::read(&reader, &mut word).unwrap(), 8);
        assert_eq!(u64::from_ne_bytes(word), 1);
        assert_eq!(poll(&reader), PollFlags::POLLHUP);
    }

    #[test]
    fn points_without_a_guard_are_signalled_in_turn() {
        let (mut lines, _reader) = lines();
        let timeline = ObjectId(7);
        for point in 1..=3 {
            lines.submit(timeline, point, ObjectId(point + 10), true);
        }
        lines.promise(timeline, 9);
        lines.ended(timeline, 3);
        lines.ended(timeline, 2);
        assert_eq!(lines.known[&timeline].in_turn.len(), 3);
        assert_eq!(lines.open_up_to(timeline, 9), [ObjectId(11)]);
        assert!(lines.end_promises(timeline));
        assert!(!lines.end_promises(timeline), "once");
        assert_eq!(lines.known[&timeline].in_turn.len(), 4);
        lines.ended(timeline, 1);
        assert!(lines.known[&timeline].in_turn.is_empty());
        assert_eq!(lines.open_up_to(timeline, 9), []);
    }
}
