//! An eject, as the broker tells of it: on D-Bus (`org.dmashare.Job1`), and in `dmasharectl`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a job is. In this order; a step that has nothing to do is passed in no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It waits for those who hold ejects up.
    Inhibited,
    /// Clients are asked to let go, and nothing new is made of the device.
    Draining,
    /// Programs that only know udev are asked, by a synthetic `remove`.
    Nudging,
    /// It looks who holds the device.
    Looking,
    /// Those who hold on are ended.
    Forcing,
    /// The kernel removes the slot's functions. From here it cannot be taken back.
    Removing,
    /// It has ended.
    Ended,
}

impl Stage {
    /// All, in their order.
    pub const ALL: [Self; 7] = [
        Self::Inhibited,
        Self::Draining,
        Self::Nudging,
        Self::Looking,
        Self::Forcing,
        Self::Removing,
        Self::Ended,
    ];

    /// The name on D-Bus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inhibited => "inhibited",
            Self::Draining => "draining",
            Self::Nudging => "nudging",
            Self::Looking => "looking",
            Self::Forcing => "forcing",
            Self::Removing => "removing",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The device is gone from the kernel: it is safe to unplug.
    Ejected,
    /// Somebody holds on, or blocks ejects. The device is *Present*, as before.
    Refused,
    /// It was cancelled. The device is *Present*, as before.
    Cancelled,
    /// The device was lost meanwhile, by something else.
    Lost,
    /// A step could not be done. The message says which, and how the device is now.
    Failed,
    /// A dry run: nobody is in the way.
    WouldEject,
}

impl Outcome {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Ejected, Self::Refused, Self::Cancelled, Self::Lost, Self::Failed, Self::WouldEject];

    /// The name on D-Bus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ejected => "ejected",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Failed => "failed",
            Self::WouldEject => "would-eject",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
