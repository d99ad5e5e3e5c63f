//! An eject, as the service shows it (`org.dmashare.Job1`). Stages and outcomes stay words: a newer
//! service may have more of them than this tool knows.

use dmashare_proto::holders::Holders;
use serde::{Deserialize, Serialize};
use zbus::zvariant::OwnedObjectPath;

use crate::failure::Failure;
use crate::model::{Properties, take};

/// A job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Job {
    /// Its id.
    pub id: u64,
    /// The device that is to go.
    pub device: Option<u64>,
    /// That device's name.
    pub device_name: String,
    /// Who asked for it.
    pub uid: u32,
    /// What it does now.
    pub stage: String,
    /// The same in a sentence, or how it ended.
    pub message: String,
    /// What its last look found; `null` before.
    pub holders: Option<Holders>,
    /// When its time is up, CLOCK_MONOTONIC in nanoseconds; 0 if it has no limit.
    pub deadline_ns: u64,
    /// How it ended; `null` while it goes on.
    pub outcome: Option<String>,
    /// It only looks.
    pub dry_run: bool,
    /// What it did so far.
    pub steps: Vec<Step>,
}

/// A step of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which stage.
    pub stage: String,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
    /// In words.
    #[serde(default)]
    pub message: String,
}

impl Job {
    pub(crate) fn take(mut of: Properties) -> Result<Self, Failure> {
        let of = &mut of;
        let device: OwnedObjectPath = take(of, "Device")?;
        let holders: String = take(of, "Holders")?;
        let outcome: String = take(of, "Outcome")?;
        let steps: String = take(of, "Steps")?;
        let unreadable = |what: &str, error: serde_json::Error| {
            Failure::Unexpected(format!("{what} of a job: {error}"))
        };
        Ok(Self {
            id: take(of, "Id")?,
            device: number(device.as_str(), "/d"),
            device_name: take(of, "DeviceName")?,
            uid: take(of, "Uid")?,
            stage: take(of, "Stage")?,
            message: take(of, "Message")?,
            holders: match holders.as_str() {
                "" => None,
                text => Some(serde_json::from_str(text).map_err(|why| unreadable("Holders", why))?),
            },
            deadline_ns: take(of, "DeadlineNs")?,
            outcome: Some(outcome).filter(|outcome| !outcome.is_empty()),
            dry_run: take(of, "DryRun")?,
            steps: match steps.as_str() {
                "" => Vec::new(),
                text => serde_json::from_str(text).map_err(|why| unreadable("Steps", why))?,
            },
        })
    }

    /// What a person calls the device.
    #[must_use]
    pub fn shown_device(&self) -> String {
        let name = crate::render::text::clean(&self.device_name);
        self.device.map_or_else(|| name.clone(), |id| format!("d{id} ({name})"))
    }

    /// How long it may still take at a time of CLOCK_MONOTONIC, in whole seconds, rounded up.
    #[must_use]
    pub fn seconds_left(&self, now_ns: u64) -> Option<u64> {
        let limited = self.deadline_ns != 0 && self.outcome.is_none();
        limited.then(|| self.deadline_ns.saturating_sub(now_ns).div_ceil(1_000_000_000))
    }
}

/// The number behind `mark` at the end of an object's path.
pub(crate) fn number(path: &str, mark: &str) -> Option<u64> {
    path.rsplit_once(mark).and_then(|(_, number)| number.parse().ok())
}
