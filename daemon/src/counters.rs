//! What the service has done since its process was started. Counted by the main thread, where effects are carried
//! out; read by the bus.

use std::sync::atomic::{AtomicU64, Ordering};

use dmashare_proto::Reply;
use dmashare_proto::message::{Cause, FenceState};
use dmashare_proto::stats::Counter;

use crate::core::{Effect, Handles, Outgoing};

/// A number for each [`Counter`].
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counters {
    /// One more.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    fn add(&self, counter: Counter, by: u64) {
        // Who reads them together sees each as it was at some time; no more is claimed.
        self.0[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// All, with their names.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let values = self.0.iter().map(|value| value.load(Ordering::Relaxed));
        Counter::ALL.iter().map(|counter| counter.name()).zip(values)
    }

    /// What is about to be done.
    pub fn note<H: Handles>(&self, effect: &Effect<H>) {
        match effect {
            Effect::Send { message: Outgoing::Reply(_, reply), .. } => self.answer(reply),
            Effect::SubmitPoint { .. } => self.count(Counter::PointsSubmitted),
            Effect::AddTimeline { .. } => self.count(Counter::TimelinesMade),
            Effect::Overdue { .. } => self.count(Counter::ClientsOverdue),
            Effect::TellWedged { fences, .. } => {
                self.count(Counter::DevicesWedged);
                self.add(Counter::FencesFailed, (*fences).into());
            }
            Effect::TellLost { cause, had, .. } => {
                match cause {
                    Cause::Vanished => self.count(Counter::DevicesVanished),
                    Cause::Ejected => self.count(Counter::DevicesEjected),
                    Cause::Rehearsed => self.count(Counter::DevicesRehearsed),
                    _ => self.count(Counter::DevicesUnplugged),
                }
                self.add(Counter::BuffersLost, had.buffers.into());
                self.add(Counter::ImportsRevoked, had.imports.into());
                self.add(Counter::FencesLost, had.fences.into());
            }
            _ => {}
        }
    }

    fn answer(&self, reply: &Reply) {
        let (counter, token) = match reply {
            Reply::Welcome(_) => (Counter::ClientsConnected, false),
            Reply::Exported(it) => (Counter::BuffersExported, it.token.is_some()),
            Reply::Imported(_) => (Counter::BuffersImported, false),
            Reply::Allocated(_) => (Counter::BuffersAllocated, false),
            Reply::FenceShared(it) => (Counter::FencesShared, it.token.is_some()),
            Reply::FenceImported(_) => (Counter::FencesImported, false),
            Reply::Granted(_) => (Counter::TokensGranted, false),
            Reply::Error(_) => (Counter::RequestsRefused, false),
            _ => return,
        };
        self.count(counter);
        if token {
            self.count(Counter::TokensGranted);
        }
    }

    /// A fence has ended. Those that end with their device, or with its hang, are told of all at once.
    pub fn ended(&self, state: &FenceState) {
        match state {
            FenceState::Ok { .. } => self.count(Counter::FencesDone),
            FenceState::Failed { cause: Cause::Exporter(_) | Cause::TimedOut, .. } => {
                self.count(Counter::FencesFailed);
            }
            _ => {}
        }
    }
}
