//! How a fence stands, and why it failed.

use std::fmt;
use std::io;
use std::time::Duration;

use dmashare_proto::message::{Cause, FenceState};
use dmashare_proto::{DeviceId, ObjectId};
use nix::errno::Errno;

/// How a fence stands. Times are of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceStatus {
    /// Not ended.
    Pending,
    /// Its work is done.
    Ok {
        /// When.
        at: Duration,
    },
    /// It ended, and its work is not done.
    Failed(FenceError),
}

impl FenceStatus {
    pub(crate) fn new(fence: ObjectId, device: DeviceId, state: FenceState) -> Self {
        match state {
            FenceState::Pending => Self::Pending,
            FenceState::Ok { at_ns } => Self::Ok { at: Duration::from_nanos(at_ns) },
            FenceState::Failed { cause, at_ns } => Self::Failed(FenceError {
                fence,
                point: None,
                device,
                cause: Some(cause),
                errno: cause.errno(),
                at: Some(Duration::from_nanos(at_ns)),
            }),
        }
    }

    /// Whether it ended, one way or the other.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        *self != Self::Pending
    }
}

/// Why a fence, or a point of a timeline, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FenceError {
    /// Which fence; or which timeline, where it is a point of one.
    pub fence: ObjectId,
    /// Which point of it.
    pub point: Option<u64>,
    /// Its exporter device; for a point that of the timeline.
    pub device: DeviceId,
    /// Why, as the broker knows it; `None` where only the kernel could be asked, or the broker has
    /// forgotten (of a point that ended long ago: then `errno` is ENODATA).
    pub cause: Option<Cause>,
    /// The positive errno.
    pub errno: i32,
    /// When it ended, if that is known.
    pub at: Option<Duration>,
}

impl FenceError {
    /// The positive errno: ENODEV for a lost device, ETIMEDOUT for a passed deadline, EIO for a
    /// wedged device, EOWNERDEAD for a promised point that nobody is left to submit, the exporter's
    /// own, or the kernel's where the broker could not be asked.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// Whether the loss of a device is the reason.
    #[must_use]
    pub fn is_device_lost(&self) -> bool {
        match self.cause {
            Some(Cause::Unplugged | Cause::Vanished | Cause::Ejected | Cause::Rehearsed) => true,
            Some(_) => false,
            None => self.errno == Errno::ENODEV as i32,
        }
    }
}

/// "fence 51" or "point 5 of timeline 51".
struct Name(ObjectId, Option<u64>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(fence, None) => write!(f, "fence {fence}"),
            Self(timeline, Some(point)) => write!(f, "point {point} of timeline {timeline}"),
        }
    }
}

impl fmt::Display for FenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fence, point, device, cause, errno, at: _ } = self;
        let name = Name(*fence, *point);
        let error = Errno::from_raw(*errno).desc();
        // The source of a point can be another device's.
        let or_source = if point.is_some() { ", or its source's," } else { "" };
        match cause {
            Some(
                cause @ (Cause::Unplugged | Cause::Vanished | Cause::Ejected | Cause::Rehearsed),
            ) => {
                write!(
                    f,
                    "{name} failed: its device {device}{or_source} is lost ({}); what it was to \
                     write will not come, drop what you have of the device",
                    cause.name()
                )
            }
            Some(Cause::Wedged) => write!(
                f,
                "{name} failed: its device {device}{or_source} is wedged; what it was to write is \
                 not there, share it again when the device is reset"
            ),
            Some(Cause::TimedOut) => write!(
                f,
                "{name} of device {device} did not end by its deadline; do not use what it was to \
                 write, or share it with a later deadline"
            ),
            Some(Cause::Exporter(_)) if point.is_some() && *errno == Errno::EOWNERDEAD as i32 => {
                write!(
                    f,
                    "{name} was promised and will not come: who was to submit it has left; do not \
                     use what it was to write"
                )
            }
            Some(Cause::Exporter(_)) => write!(
                f,
                "{name} failed: the driver of device {device} ended it with an error ({error}); do \
                 not use what it was to write"
            ),
            None if *errno == Errno::ENODATA as i32 => write!(
                f,
                "{name} ended so long ago that the broker has forgotten how; do not trust what it \
                 was to write, and ask sooner"
            ),
            None => write!(
                f,
                "{name} of device {device} ended with an error ({error}) that the broker has no \
                 cause for; do not use what it was to write"
            ),
        }
    }
}

impl std::error::Error for FenceError {}

impl From<FenceError> for io::Error {
    fn from(error: FenceError) -> Self {
        Self::from_raw_os_error(error.errno)
    }
}
