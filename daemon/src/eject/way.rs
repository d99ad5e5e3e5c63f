//! Who is in the way, and what is done about them.

use dmashare_proto::holders::{Holder, Role};
use dmashare_proto::job::{Outcome, Stage};

use super::words::{self, all_named};
use super::{Action, Job, KILL_TIME, LONGEST_PAUSE, MS, TERM_TIME};

impl Job {
    /// Who is in the way, by what they hold and by what they said of themselves.
    pub(super) fn in_the_way(&self) -> Vec<&Holder> {
        let processes = self.holders.iter().flat_map(|holders| &holders.processes);
        processes.filter(|holder| holder.is_active() && !words::yields(holder)).collect()
    }

    /// What is in the way that no process holds.
    pub(super) fn stands_in_the_way(&self) -> Option<&str> {
        let others = self.holders.iter().flat_map(|holders| &holders.others);
        others.filter(|other| other.active).map(|other| other.text.as_str()).next()
    }

    pub(super) fn judge(&mut self, now: u64) {
        let (holders, other) = (self.in_the_way(), self.stands_in_the_way());
        if holders.is_empty() && other.is_none() {
            return self.free(now);
        }
        let text = words::held(&holders, other);
        if self.options.dry_run {
            return self.finish(now, Outcome::Refused, format!("it would be refused: {text}"));
        }
        if now < self.patience_ns {
            self.message = format!("waits: {text}");
            self.pause_until(now, self.patience_ns);
        } else if self.options.force > 0 && other.is_none() {
            self.forced_ns = now;
            self.enter(now, Stage::Forcing, text);
            self.force(now);
        } else {
            let what = if other.is_some() {
                "no process can be ended for that"
            } else {
                "close it, or eject with --force"
            };
            self.finish(now, Outcome::Refused, format!("{text}; {what}. The device is as before"));
        }
    }

    /// Nobody is in the way.
    pub(super) fn free(&mut self, now: u64) {
        if self.options.dry_run {
            self.finish(
                now,
                Outcome::WouldEject,
                "nobody is in the way; it would be ejected".to_owned(),
            );
        } else {
            self.removing(now);
        }
    }

    pub(super) fn force(&mut self, now: u64) {
        // Clients are taken from by the loss itself, unless that cannot come before they have gone.
        let blocks = self.target.blocks_while_open;
        let told: Vec<Holder> = self
            .in_the_way()
            .into_iter()
            .filter(|holder| holder.clients.is_empty() || blocks)
            .cloned()
            .collect();
        if told.is_empty() {
            return self.removing(now);
        }
        let spared: Vec<&Holder> = told.iter().filter(|it| self.is_spared(it)).collect();
        if !spared.is_empty() {
            let who = all_named(&spared);
            let text = match spared.iter().all(|holder| holder.role == Role::Init) {
                true => format!("{who} holds it, and is never ended"),
                false => format!(
                    "{who} holds it: what the screen or the login runs by is not ended unless you say \
                     --force twice"
                ),
            };
            return self.finish(now, Outcome::Refused, format!("{text}. The device is as before"));
        }
        let since = now.saturating_sub(self.forced_ns);
        if since >= KILL_TIME {
            let who = words::held(&told.iter().collect::<Vec<_>>(), None);
            let text = format!("{who}, and has not gone after SIGKILL. The device is as before");
            return self.finish(now, Outcome::Refused, text);
        }
        let kill = since >= TERM_TIME;
        for holder in &told {
            let who = (holder.pid, holder.start);
            let sent = if kill { &mut self.killed } else { &mut self.termed };
            if sent.insert(who) {
                self.actions.push(Action::Signal { pid: who.0, start: who.1, kill });
            }
        }
        let who = all_named(&told.iter().collect::<Vec<_>>());
        self.message = format!("ends {who} ({})", if kill { "SIGKILL" } else { "SIGTERM" });
        let next = self.forced_ns + if kill { KILL_TIME } else { TERM_TIME };
        self.pause_until(now, next);
    }

    pub(super) fn is_spared(&self, holder: &Holder) -> bool {
        match holder.role {
            Role::Program => false,
            Role::Compositor | Role::DisplayManager => self.options.force < 2,
            Role::Init => true,
        }
    }

    /// Looks again in a while, and no later than then.
    pub(super) fn pause_until(&mut self, now: u64, then: u64) {
        self.wake_ns = Some((now + self.pause).min(then.max(now + MS)));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
