//! The end, and what is taken back before it.

use dmashare_proto::job::{Outcome, Stage};
use dmashare_proto::sysfs::{Nudge, Request};

use super::{Action, Job, Waits};

impl Job {
    /// It ends so, when all is taken back.
    pub(super) fn finish(&mut self, now: u64, outcome: Outcome, text: String) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some((outcome, text));
        self.wake_ns = None;
        // A write is not interrupted: what takes it back comes after it.
        if self.waits != Waits::Nudge {
            self.waits = Waits::Nothing;
            self.take_back(now, None);
        }
    }

    /// The next of what is to be taken back, or the end.
    pub(super) fn take_back(&mut self, now: u64, failed: Option<String>) {
        if let (Some(why), Some((_, text))) = (failed.filter(|_| !self.lost), &mut self.ending) {
            text.push_str(&format!("; not all could be taken back: {why}"));
        }
        if self.nudged {
            self.nudged = false;
            let nodes = self.target.cards.iter().map(|(_, devpath)| devpath.clone()).collect();
            self.write(Request::Nudge { nodes, action: Nudge::Add }, Waits::Unnudge);
        } else if self.removed > 0 {
            self.removed = 0;
            self.write(Request::Rescan, Waits::Rescan);
        } else if let Some((outcome, text)) = self.ending.take() {
            self.end(now, outcome, text);
        }
    }

    pub(super) fn end(&mut self, now: u64, outcome: Outcome, text: String) {
        if outcome != Outcome::Ejected {
            if std::mem::take(&mut self.expected) {
                self.actions.push(Action::Unexpect);
            }
            if std::mem::take(&mut self.drained) {
                self.actions.push(Action::Undrain);
            }
        }
        self.wake_ns = None;
        self.waits = Waits::Nothing;
        self.outcome = Some(outcome);
        self.enter(now, Stage::Ended, text);
    }
}
