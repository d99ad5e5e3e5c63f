//! An eject, as a pure state machine: events come in with the time, actions go out in the order in which
//! they are to be done. Whatever it has changed it takes back, unless the device goes.
//!
//! One look and one write to sysfs are under way at a time, so answers need no names. Each is answered, in
//! the end: who carries them out bounds all but a removal. The stages and what ends each are in
//! ARCHITECTURE.md.

use std::collections::BTreeSet;

use dmashare_proto::holders::{Holder, Holders, Role, What};
use dmashare_proto::job::{Outcome, Stage};
use dmashare_proto::message::InhibitMode;
use dmashare_proto::sysfs::{Nudge, Request};

use crate::view::InhibitorView;

pub mod drivers;
#[cfg(test)]
mod tests;
mod words;

use words::{all_named, named};

const MS: u64 = 1_000_000;
/// The first pause between two looks, doubled up to [`LONGEST_PAUSE`].
const PAUSE: u64 = 100 * MS;
const LONGEST_PAUSE: u64 = 1000 * MS;
/// How long who was sent SIGTERM has before SIGKILL; and then, before the eject is given up.
const TERM_TIME: u64 = 2000 * MS;
const KILL_TIME: u64 = 5000 * MS;

/// When programs that only know udev are told that the device goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NudgeWhen {
    /// If a process of a graphical session has a card node open.
    #[default]
    Auto,
    /// Whoever has it open.
    Always,
    /// Never.
    Never,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// 0: who holds on is in the way. 1: they are ended, but for what the user sees and logs in by. 2: those
    /// too.
    pub force: u8,
    /// How long all before the removal may take, in nanoseconds.
    pub timeout_ns: u64,
    /// How long a delay lock holds it up at most, in nanoseconds.
    pub delay_ns: u64,
    /// Look only.
    pub dry_run: bool,
    /// See [`NudgeWhen`].
    pub nudge: NudgeWhen,
    /// End the Thunderbolt tunnel at the end.
    pub deauthorize: bool,
}

/// What.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// What people call it: its PCI address.
    pub name: String,
    /// DRM nodes that display servers open (`card*`): path and DEVPATH.
    pub cards: Vec<(String, String)>,
    /// Functions of its slot, in the order in which they go; the GPU's own is the last.
    pub functions: Vec<String>,
    /// The Thunderbolt device that it is behind.
    pub router: Option<String>,
    /// Its driver cannot be removed while anybody has it open.
    pub blocks_while_open: bool,
}

/// What happens to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// It begins, with these inhibitors of the device.
    Begin(Vec<InhibitorView>),
    /// The device's inhibitors have changed.
    Inhibitors(Vec<InhibitorView>),
    /// No client has anything of the device.
    Emptied,
    /// The answer to [`Action::Look`].
    Looked(Result<Holders, String>),
    /// The answer to [`Action::Write`].
    Written(Result<(), String>),
    /// The kernel has not come back from [`Action::Write`].
    Stuck {
        /// For how long.
        ms: u64,
        /// Where in the kernel it is, the innermost function first.
        stack: Vec<String>,
        /// Whose task it is.
        pid: u32,
    },
    /// The device is lost.
    Lost,
    /// Somebody wants it not to go on.
    Cancel,
    /// [`Job::wake_ns`] has passed.
    Time,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// [`crate::core::Broker::drain`]
    Drain,
    /// [`crate::core::Broker::undrain`]
    Undrain,
    /// From here the loss of the device is an eject.
    Expect,
    /// The removal has failed: it is not any more.
    Unexpect,
    /// Look who holds the device.
    Look,
    /// Write to sysfs.
    Write(Request),
    /// End a process that has this id and started then.
    Signal {
        /// Its id.
        pid: i32,
        /// When it started.
        start: u64,
        /// SIGKILL, else SIGTERM.
        kill: bool,
    },
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Nothing,
    Look,
    Nudge,
    Unnudge,
    Remove,
    Rescan,
    Deauthorize,
}

/// A stage that was reached.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StepNote {
    /// Which.
    pub stage: Stage,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
    /// What was said then.
    pub message: String,
}

/// One eject.
#[derive(Debug)]
pub struct Job {
    options: Options,
    target: Target,
    stage: Stage,
    message: String,
    steps: Vec<StepNote>,
    holders: Option<Holders>,
    outcome: Option<Outcome>,
    /// How it will end, once what it has changed is taken back.
    ending: Option<(Outcome, String)>,
    waits: Waits,
    /// Of all before the removal.
    deadline_ns: u64,
    wake_ns: Option<u64>,
    /// Until when holders may let go by themselves.
    patience_ns: u64,
    pause: u64,
    drained: bool,
    nudged: bool,
    expected: bool,
    lost: bool,
    removed: usize,
    forced_ns: u64,
    /// Processes that were sent SIGTERM, and those that were sent SIGKILL.
    termed: BTreeSet<(i32, u64)>,
    killed: BTreeSet<(i32, u64)>,
    actions: Vec<Action>,
}

impl Job {
    /// A job that has not begun.
    #[must_use]
    pub fn new(options: Options, target: Target) -> Self {
        Self {
            options,
            target,
            stage: Stage::Inhibited,
            message: String::new(),
            steps: Vec::new(),
            holders: None,
            outcome: None,
            ending: None,
            waits: Waits::Nothing,
            deadline_ns: 0,
            wake_ns: None,
            patience_ns: 0,
            pause: PAUSE,
            drained: false,
            nudged: false,
            expected: false,
            lost: false,
            removed: 0,
            forced_ns: 0,
            termed: BTreeSet::new(),
            killed: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What goes on, or how it ended, in a sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The stages so far.
    #[must_use]
    pub fn steps(&self) -> &[StepNote] {
        &self.steps
    }

    /// What the last look found.
    #[must_use]
    pub fn holders(&self) -> Option<&Holders> {
        self.holders.as_ref()
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Until when all before the removal is to be done; 0 where nothing limits it.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        if self.stage < Stage::Removing { self.deadline_ns } else { 0 }
    }

    /// When [`Event::Time`] is due.
    #[must_use]
    pub fn wake_ns(&self) -> Option<u64> {
        self.wake_ns
    }

    /// Whether [`Event::Cancel`] comes in time.
    #[must_use]
    pub fn can_be_cancelled(&self) -> bool {
        self.stage < Stage::Removing && self.ending.is_none()
    }

    /// Takes an event in; gives what is to be done for it.
    pub fn handle(&mut self, now_ns: u64, event: Event) -> Vec<Action> {
        if self.stage != Stage::Ended {
            self.take(now_ns, event);
        }
        std::mem::take(&mut self.actions)
    }

    fn take(&mut self, now: u64, event: Event) {
        match event {
            Event::Begin(inhibitors) => self.begin(now, &inhibitors),
            Event::Inhibitors(inhibitors) => self.inhibitors(now, &inhibitors),
            Event::Emptied => {
                if self.stage == Stage::Draining && self.ending.is_none() {
                    self.nudging(now);
                }
            }
            Event::Looked(found) => self.looked(now, found),
            Event::Written(result) => self.written(now, result),
            Event::Stuck { ms, stack, pid } => {
                let (name, place) = (&self.target.name, words::place(&stack));
                let text = format!(
                    "the kernel has not finished with {name} for {} s{place}; the removal goes on in \
                     process {pid}, and nothing else waits for it",
                    ms / 1000
                );
                self.message = text;
            }
            Event::Lost => self.device_lost(now),
            Event::Cancel => {
                if self.can_be_cancelled() {
                    self.finish(
                        now,
                        Outcome::Cancelled,
                        "cancelled; the device is as before".to_owned(),
                    );
                }
            }
            Event::Time => self.time(now),
        }
    }

    fn begin(&mut self, now: u64, inhibitors: &[InhibitorView]) {
        self.deadline_ns = now.saturating_add(self.options.timeout_ns);
        self.enter(now, Stage::Inhibited, "begins".to_owned());
        self.inhibitors(now, inhibitors);
    }

    fn inhibitors(&mut self, now: u64, inhibitors: &[InhibitorView]) {
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

    fn draining(&mut self, now: u64) {
        self.deadline_ns = now.saturating_add(self.options.timeout_ns);
        self.drained = true;
        self.actions.push(Action::Drain);
        self.enter(now, Stage::Draining, "clients are asked to let go".to_owned());
        self.wake_ns = Some(now + self.options.timeout_ns / 3);
    }

    fn nudging(&mut self, now: u64) {
        if self.options.nudge == NudgeWhen::Never {
            return self.looking(now);
        }
        self.enter(now, Stage::Nudging, "looks which display servers have it".to_owned());
        self.look();
    }

    fn looking(&mut self, now: u64) {
        self.begin_looking(now);
        self.look();
    }

    fn begin_looking(&mut self, now: u64) {
        self.enter(now, Stage::Looking, "looks who holds it".to_owned());
        let left = self.deadline_ns.saturating_sub(now);
        // With force, half of it is for those who need to be told.
        self.patience_ns = now + if self.options.force > 0 { left / 2 } else { left };
        self.pause = PAUSE;
    }

    fn look(&mut self) {
        self.wake_ns = None;
        self.waits = Waits::Look;
        self.actions.push(Action::Look);
    }

    fn write(&mut self, request: Request, waits: Waits) {
        self.wake_ns = None;
        self.waits = waits;
        self.actions.push(Action::Write(request));
    }

    fn looked(&mut self, now: u64, found: Result<Holders, String>) {
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

    fn nudge(&mut self, now: u64) {
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

    /// Who is in the way, by what they hold and by what they said of themselves.
    fn in_the_way(&self) -> Vec<&Holder> {
        let processes = self.holders.iter().flat_map(|holders| &holders.processes);
        processes.filter(|holder| holder.is_active() && !words::yields(holder)).collect()
    }

    /// What is in the way that no process holds.
    fn stands_in_the_way(&self) -> Option<&str> {
        let others = self.holders.iter().flat_map(|holders| &holders.others);
        others.filter(|other| other.active).map(|other| other.text.as_str()).next()
    }

    fn judge(&mut self, now: u64) {
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
    fn free(&mut self, now: u64) {
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

    fn force(&mut self, now: u64) {
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

    fn is_spared(&self, holder: &Holder) -> bool {
        match holder.role {
            Role::Program => false,
            Role::Compositor | Role::DisplayManager => self.options.force < 2,
            Role::Init => true,
        }
    }

    /// Looks again in a while, and no later than then.
    fn pause_until(&mut self, now: u64, then: u64) {
        self.wake_ns = Some((now + self.pause).min(then.max(now + MS)));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn removing(&mut self, now: u64) {
        self.expected = true;
        self.actions.push(Action::Expect);
        self.enter(now, Stage::Removing, String::new());
        self.remove_next(now);
    }

    fn remove_next(&mut self, now: u64) {
        let all = self.target.functions.len();
        let Some(pci) = self.target.functions.get(self.removed).cloned() else {
            return self.deauthorize(now);
        };
        let what = if self.removed + 1 == all { "the GPU" } else { "a function beside it" };
        self.message = format!("the kernel removes {pci}, {what} ({} of {all})", self.removed + 1);
        self.note(now);
        self.write(Request::Remove { pci }, Waits::Remove);
    }

    fn deauthorize(&mut self, now: u64) {
        match self.target.router.clone().filter(|_| self.options.deauthorize) {
            Some(router) => {
                self.message = format!("ends the tunnel to {router}");
                self.note(now);
                self.write(Request::Deauthorize { router }, Waits::Deauthorize);
            }
            None => self.ejected(now, ""),
        }
    }

    fn ejected(&mut self, now: u64, but: &str) {
        let text = format!("{} is removed: it is safe to unplug{but}", self.target.name);
        self.end(now, Outcome::Ejected, text);
    }

    fn written(&mut self, now: u64, result: Result<(), String>) {
        match std::mem::replace(&mut self.waits, Waits::Nothing) {
            Waits::Nothing => {}
            // The answer of a look comes as one; this is none.
            Waits::Look => self.waits = Waits::Look,
            Waits::Nudge if self.ending.is_some() => self.take_back(now, None),
            Waits::Nudge => {
                if let Err(why) = result {
                    self.message = format!("display servers could not be told: {why}");
                    self.note(now);
                }
                self.looking(now);
            }
            Waits::Remove => self.function_removed(now, result),
            Waits::Deauthorize => match result {
                Ok(()) => self.ejected(now, ""),
                Err(why) => self.ejected(now, &format!(" (the tunnel stays: {why})")),
            },
            Waits::Unnudge | Waits::Rescan => self.take_back(now, result.err()),
        }
    }

    fn function_removed(&mut self, now: u64, result: Result<(), String>) {
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

    fn device_lost(&mut self, now: u64) {
        self.lost = true;
        if self.stage < Stage::Removing {
            let text = format!("{} was lost before it was ejected", self.target.name);
            self.finish(now, Outcome::Lost, text);
        }
    }

    fn time(&mut self, now: u64) {
        if self.wake_ns.is_none_or(|wake| now < wake) {
            return;
        }
        self.wake_ns = None;
        match self.stage {
            Stage::Inhibited => self.draining(now),
            Stage::Draining => self.nudging(now),
            Stage::Looking | Stage::Forcing if self.waits == Waits::Nothing => self.look(),
            _ => {}
        }
    }

    /// It ends so, when all is taken back.
    fn finish(&mut self, now: u64, outcome: Outcome, text: String) {
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
    fn take_back(&mut self, now: u64, failed: Option<String>) {
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

    fn end(&mut self, now: u64, outcome: Outcome, text: String) {
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

    fn enter(&mut self, now: u64, stage: Stage, message: String) {
        self.stage = stage;
        self.wake_ns = None;
        self.message = message;
        if !self.message.is_empty() {
            self.note(now);
        }
    }

    fn note(&mut self, at_ns: u64) {
        self.steps.push(StepNote { stage: self.stage, at_ns, message: self.message.clone() });
    }
}

/// Who a holder is, for a list.
#[must_use]
pub fn who(holder: &Holder) -> String {
    named(holder)
}
