//! The bodies of messages about timelines (drm_syncobj), and about guards in reservation objects.

use serde::{Deserialize, Serialize};

use crate::ids::ObjectId;
use crate::message::{Cause, DeviceAt, FenceState, GuardKind, Policy};

/// Which way a timeline's points go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Its maker submits the points, importers wait for them.
    Acquire,
    /// Its maker waits, an importer submits the points or signals them on the syncobj itself.
    Release,
}

/// A timeline to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTimeline {
    /// How points reach importers. `Pass` is for devices that cannot be pulled.
    pub policy: Policy,
    /// Who submits.
    pub direction: Direction,
}

/// A timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineInfo {
    /// The new timeline, or the importer's handle on it.
    pub timeline: ObjectId,
    /// The device whose loss ends its points.
    pub at: DeviceAt,
    /// Who submits.
    pub direction: Direction,
    /// What is put to a point while its source is pending. `None`: nothing, the point is signalled
    /// when its source ends, so it cannot be handed to a GPU before.
    pub guard: GuardKind,
    /// The last point that was promised so far, 0 for none.
    pub promised: u64,
}

/// A point of a timeline: 1 to [`crate::limits::MAX_POINT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointAt {
    /// The timeline, or a handle on it.
    pub timeline: ObjectId,
    /// The point.
    pub point: u64,
}

/// A point whose source is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitPoint {
    /// Which; above all that were submitted. It fulfils every promise up to it.
    pub to: PointAt,
    /// After how many milliseconds its guard ends with ETIMEDOUT; 0 is the broker's default.
    pub deadline_ms: u32,
}

/// How a point stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PointState {
    /// Nobody has promised it.
    Unknown,
    /// Promised; its source has not been handed over.
    Promised,
    /// Its source, or that of a point below, has not ended.
    Pending,
    /// It is signalled, and its work is done.
    Ok {
        /// CLOCK_MONOTONIC, nanoseconds.
        at_ns: u64,
    },
    /// It is signalled, and its work is not done.
    Failed {
        /// Why.
        cause: Cause,
        /// CLOCK_MONOTONIC, nanoseconds.
        at_ns: u64,
    },
    /// It is signalled, so long ago that how it ended is no longer kept.
    Forgotten,
}

impl PointState {
    /// Whether a wait for it is over.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Ok { .. } | Self::Failed { .. } | Self::Forgotten)
    }
}

impl From<FenceState> for PointState {
    fn from(state: FenceState) -> Self {
        match state {
            FenceState::Pending => Self::Pending,
            FenceState::Ok { at_ns } => Self::Ok { at_ns },
            FenceState::Failed { cause, at_ns } => Self::Failed { cause, at_ns },
        }
    }
}

/// A guard to be put into a buffer's reservation object, for importers that know implicit sync only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachFence {
    /// A fence that the client shared or imported.
    pub fence: ObjectId,
    /// A buffer that it exported, or an import.
    pub buffer: ObjectId,
    /// Who has to wait.
    pub access: Access,
}

/// What a fence in a reservation object stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// A read: writers wait for it.
    Read,
    /// A write: readers and writers wait for it.
    Write,
}

/// A driver has declared its device wedged. The device stays: until it is gone, or has recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWedged {
    /// The device.
    pub device: crate::ids::DeviceId,
    /// CLOCK_MONOTONIC of the kernel's event, nanoseconds.
    pub at_ns: u64,
    /// What the driver names as recovery, in its order, separated by commas: `none`, `rebind`,
    /// `bus-reset`, … The broker does none of it.
    pub recovery: String,
    /// The task that the driver blames, empty if it names none.
    pub task: String,
    /// Fences and points of the client's that ended with the cause.
    pub fences: u32,
}
