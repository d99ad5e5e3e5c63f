//! The removal: function by function, and from here there is no way back.

use dmashare_proto::job::{Outcome, Stage};
use dmashare_proto::sysfs::Request;

use super::{Action, Job, Waits};

impl Job {
    pub(super) fn removing(&mut self, now: u64) {
        self.expected = true;
        self.actions.push(Action::Expect);
        self.enter(now, Stage::Removing, String::new());
        self.remove_next(now);
    }

    pub(super) fn remove_next(&mut self, now: u64) {
        let all = self.target.functions.len();
        let Some(pci) = self.target.functions.get(self.removed).cloned() else {
            return self.deauthorize(now);
        };
        let what = if self.removed + 1 == all { "the GPU" } else { "a function beside it" };
        self.message = format!("the kernel removes {pci}, {what} ({} of {all})", self.removed + 1);
        self.note(now);
        self.write(Request::Remove { pci }, Waits::Remove);
    }

    pub(super) fn function_removed(&mut self, now: u64, result: Result<(), String>) {
        let pci = self.target.functions.get(self.removed).cloned().unwrap_or_default();
        let is_gpu = self.removed + 1 == self.target.functions.len();
        match result {
            Ok(()) => {
                self.removed += 1;
                self.remove_next(now);
            }
            // It went by itself meanwhile.
            Err(_) if self.lost && is_gpu => {
                self.removed += 1;
                self.remove_next(now);
            }
            Err(why) => {
                let text = format!("the kernel did not remove {pci}: {why}");
                self.finish(now, Outcome::Failed, text);
            }
        }
    }

    pub(super) fn deauthorize(&mut self, now: u64) {
        match self.target.router.clone().filter(|_| self.options.deauthorize) {
            Some(router) => {
                self.message = format!("ends the tunnel to {router}");
                self.note(now);
                self.write(Request::Deauthorize { router }, Waits::Deauthorize);
            }
            None => self.ejected(now, ""),
        }
    }

    pub(super) fn ejected(&mut self, now: u64, but: &str) {
        let text = format!("{} is removed: it is safe to unplug{but}", self.target.name);
        self.end(now, Outcome::Ejected, text);
    }
}
