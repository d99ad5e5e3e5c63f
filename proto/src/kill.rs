//! What the broker asks its helper that ends processes, and what that answers: a line of JSON each.

use serde::{Deserialize, Serialize};

/// A request. The helper does one, and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The process.
    pub pid: i32,
    /// When it started, in the kernel's clock ticks since boot (field 22 of /proc/PID/stat): one that has
    /// its id since is spared.
    pub start: u64,
    /// How.
    pub how: How,
}

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It is asked to: SIGTERM.
    Term,
    /// It is not asked: SIGKILL.
    Kill,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    /// The signal was sent.
    Sent,
    /// It was not.
    Failed {
        /// A sentence.
        why: String,
    },
}
