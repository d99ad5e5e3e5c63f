//! What the broker asks its helper to write to sysfs, and what the helper answers: a line of JSON each.

use serde::{Deserialize, Serialize};

/// A request. The helper does one, and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Ask those who follow udev to let go of DRM nodes, or to take them up again: a synthetic uevent
    /// (Documentation/ABI/testing/sysfs-uevent).
    Nudge {
        /// The nodes' DEVPATHs.
        nodes: Vec<String>,
        /// What udev is told.
        action: Nudge,
    },
    /// Have the kernel remove a PCI function (Documentation/ABI/testing/sysfs-bus-pci). May never return.
    Remove {
        /// Its address.
        pci: String,
    },
    /// Have the kernel look for PCI devices.
    Rescan,
    /// Have the kernel end the PCIe tunnel to a Thunderbolt device
    /// (Documentation/ABI/testing/sysfs-bus-thunderbolt).
    Deauthorize {
        /// Its name in sysfs: `0-1`.
        router: String,
    },
}

/// What udev is told of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nudge {
    /// It goes, though it does not.
    Remove,
    /// It has come.
    Add,
}

impl Nudge {
    /// What is written to `uevent`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Add => "add",
        }
    }
}

/// An answer. The last is [`Self::Done`] or [`Self::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// It is done.
    Done,
    /// It could not be done.
    Failed {
        /// Why, in words.
        why: String,
    },
    /// The kernel has not come back for so long. Said again while that goes on.
    Stuck {
        /// Milliseconds since it was called.
        ms: u64,
        /// The kernel's functions that it sits in, the innermost first; empty where that cannot be seen.
        stack: Vec<String>,
        /// The helper's process, whose task it is.
        pid: u32,
    },
}
