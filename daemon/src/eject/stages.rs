//! The stages before anybody is in the way: those who hold ejects up, draining, nudging, looking.

use dmashare_proto::holders::{Holder, Holders, Role, What};
use dmashare_proto::job::{Outcome, Stage};
use dmashare_proto::message::InhibitMode;
use dmashare_proto::sysfs::{Nudge, Request};

use super::words::{self, all_named};
use super::{Action, Job, NudgeWhen, PAUSE, Waits};
use crate::view::InhibitorView;

impl Job {
    pub(super) fn begin(&mut self, now: u64, inhibitors: &[InhibitorView]) {
        self.deadline_ns = now.saturating_add(self.options.timeout_ns);
        self.enter(now, Stage::Inhibited, "begins".to_owned());
        self.inhibitors(now, inhibitors);
    }

    pub(super) fn inhibitors(&mut self, now: u64, inhibitors: &[InhibitorView]) {
        if self.stage >= Stage::Removing || self.ending.is_some() {
            return;
        }
        if let Some(block) = inhibitors.iter().find(|it| it.mode == InhibitMode::Block) {
            let text = format!(
                "{} blocks ejects: {}; end what it does, or ask it to let go",
                words::inhibitor(block),
                block.why
            );
            return self.finish(now, Outcome::Refused, text);
        }
        if self.stage != Stage::Inhibited {
            return;
        }
        let Some(first) = inhibitors.first().filter(|_| !self.options.dry_run) else {
            return if self.options.dry_run { self.looking(now) } else { self.draining(now) };
        };
        let limit = self.steps.first().map_or(now, |step| step.at_ns) + self.options.delay_ns;
        // What holders wait for is no time for the holders of the device.
        self.deadline_ns = limit.saturating_add(self.options.timeout_ns);
        self.wake_ns = Some(limit);
        self.message = format!("waits for {}: {}", words::inhibitor(first), first.why);
    }

    pub(super) fn draining(&mut self, now: u64) {
        self.deadline_ns = now.saturating_add(self.options.timeout_ns);
        self.drained = true;
        self.actions.push(Action::Drain);
        self.enter(now, Stage::Draining, "clients are asked to let go".to_owned());
        self.wake_ns = Some(now + self.options.timeout_ns / 3);
    }

    pub(super) fn nudging(&mut self, now: u64) {
        if self.options.nudge == NudgeWhen::Never {
            return self.looking(now);
        }
        self.enter(now, Stage::Nudging, "looks which display servers have it".to_owned());
        self.look();
    }

    pub(super) fn looking(&mut self, now: u64) {
        self.begin_looking(now);
        self.look();
    }

    pub(super) fn begin_looking(&mut self, now: u64) {
        self.enter(now, Stage::Looking, "looks who holds it".to_owned());
        let left = self.deadline_ns.saturating_sub(now);
        // With force, half of it is for those who need to be told.
        self.patience_ns = now + if self.options.force > 0 { left / 2 } else { left };
        self.pause = PAUSE;
    }

    pub(super) fn look(&mut self) {
        self.wake_ns = None;
        self.waits = Waits::Look;
        self.actions.push(Action::Look);
    }

    pub(super) fn looked(&mut self, now: u64, found: Result<Holders, String>) {
        if self.waits != Waits::Look {
            return;
        }
        self.waits = Waits::Nothing;
        let holders = match found {
            Ok(holders) => holders,
            Err(why) => {
                let text = format!("it cannot be seen who holds the device: {why}");
                return self.finish(now, Outcome::Failed, text);
            }
        };
        self.holders = Some(holders);
        match self.stage {
            Stage::Nudging => self.nudge(now),
            Stage::Forcing => self.force(now),
            _ => self.judge(now),
        }
    }

    pub(super) fn nudge(&mut self, now: u64) {
        let Some(holders) = &self.holders else { return };
        let has_card = |holder: &&Holder| {
            holder.holds.iter().any(|held| match &held.what {
                What::Node { path, .. } => self.target.cards.iter().any(|(card, _)| card == path),
                _ => false,
            })
        };
        let is_display =
            |holder: &&Holder| !holder.session.is_empty() || holder.role == Role::Compositor;
        let told: Vec<&Holder> = match self.options.nudge {
            NudgeWhen::Never => Vec::new(),
            NudgeWhen::Always => holders.processes.iter().filter(has_card).collect(),
            NudgeWhen::Auto => {
                holders.processes.iter().filter(has_card).filter(is_display).collect()
            }
        };
        if told.is_empty() {
            // What was just seen is new enough.
            self.begin_looking(now);
            return self.judge(now);
        }
        self.message =
            format!("tells {} that the card goes (a synthetic `remove`)", all_named(&told));
        let nodes = self.target.cards.iter().map(|(_, devpath)| devpath.clone()).collect();
        self.nudged = true;
        self.note(now);
        self.write(Request::Nudge { nodes, action: Nudge::Remove }, Waits::Nudge);
    }
}
