//! The bodies of messages in which a client speaks of itself, and of what others want of it.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, WireError};
use crate::ids::DeviceId;
use crate::limits::MAX_WHY;

/// What a client wants done with it when a device that it uses goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossPolicy {
    /// It lets go by itself: it is waited for, up to the broker's limit.
    #[default]
    Wait,
    /// It is to be ended and started anew, by whoever started it.
    Relaunch,
    /// It may be killed at once where it stands in the way.
    Kill,
    /// It does not care: it is not waited for, and nothing is done to it.
    Ignore,
}

impl LossPolicy {
    /// All there are, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Wait, Self::Relaunch, Self::Kill, Self::Ignore];

    /// The name on D-Bus, in JSON and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Relaunch => "relaunch",
            Self::Kill => "kill",
            Self::Ignore => "ignore",
        }
    }
}

/// What a client states of itself. Each statement takes the place of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declare {
    /// What is to be done with it.
    pub on_loss: LossPolicy,
    /// It goes on without the device, and loses nothing that its user would miss.
    pub survives: bool,
}

/// How long an inhibitor holds an eject up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InhibitMode {
    /// Until it is released, or the broker's limit has passed.
    Delay,
    /// An eject is refused while it is held.
    Block,
}

impl InhibitMode {
    /// All there are, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Delay, Self::Block];

    /// The name on D-Bus, in JSON and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Block => "block",
        }
    }
}

/// An inhibitor to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inhibit {
    /// The device whose eject is held up; `None` for each.
    pub device: Option<DeviceId>,
    /// How long.
    pub mode: InhibitMode,
    /// Why, for a person: at most [`MAX_WHY`] bytes, not empty, without control characters.
    pub why: String,
}

impl Inhibit {
    /// Refuses reasons that say nothing, or would disturb a table or a log.
    ///
    /// # Errors
    /// [`ErrorCode::BAD_VALUE`].
    pub fn check(&self) -> Result<(), WireError> {
        let why = &self.why;
        if why.trim().is_empty() || why.len() > MAX_WHY || why.chars().any(char::is_control) {
            return Err(WireError::new(
                ErrorCode::BAD_VALUE,
                format!(
                    "an inhibitor says why, in 1 to {MAX_WHY} bytes without control characters"
                ),
            ));
        }
        Ok(())
    }
}

/// Somebody asks that a device be let go of. It is still there, and everything of it works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalRequested {
    /// The device.
    pub device: DeviceId,
    /// Who asks, in words.
    pub why: String,
}
