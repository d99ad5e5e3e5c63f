//! An eject, as a pure state machine: events come in with the time, actions go out in the order in which
//! they are to be done. Whatever it has changed it takes back, unless the device goes.
//!
//! One look and one write to sysfs are under way at a time, so answers need no names. Each is answered, in
//! the end: who carries them out bounds all but a removal. The stages and what ends each are in
//! ARCHITECTURE.md.

use std::collections::BTreeSet;

use dmashare_proto::holders::Holders;
use dmashare_proto::job::{Outcome, Stage};
use dmashare_proto::sysfs::Request;

use crate::view::InhibitorView;

pub mod drivers;
mod removal;
mod stages;
#[cfg(test)]
mod tests;
mod undo;
mod way;
mod words;

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

    fn write(&mut self, request: Request, waits: Waits) {
        self.wake_ns = None;
        self.waits = waits;
        self.actions.push(Action::Write(request));
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
