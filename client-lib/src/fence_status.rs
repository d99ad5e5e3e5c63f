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

/// Why a fence failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FenceError {
    /// Which fence.
    pub fence: ObjectId,
    /// Its exporter device.
    pub device: DeviceId,
    /// Why, as the broker knows it; `None` where only the kernel could be asked.
    pub cause: Option<Cause>,
    /// The positive errno.
    pub errno: i32,
    /// When it ended, if that is known.
    pub at: Option<Duration>,
}

impl FenceError {
    /// The positive errno: ENODEV for a lost device, ETIMEDOUT for a passed deadline, EIO for a
    /// wedged device, the exporter's own, or the kernel's where the broker could not be asked.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

impl fmt::Display for FenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fence, device, cause, errno, at: _ } = self;
        let error = Errno::from_raw(*errno).desc();
        match cause {
            Some(
                cause @ (Cause::Unplugged | Cause::Vanished | Cause::Ejected | Cause::Rehearsed),
            ) => {
                write!(
                    f,
                    "fence {fence} failed: its device {device} is lost ({}); what it was to \
                     write will not come, drop what you have of the device",
                    cause.name()
                )
            }
            Some(Cause::Wedged) => write!(
                f,
                "fence {fence} failed: its device {device} is wedged; what it was to write is not \
                 there, share it again when the device is reset"
            ),
            Some(Cause::TimedOut) => write!(
                f,
                "fence {fence} of device {device} did not end by its deadline; do not use what it \
                 was to write, or share it with a later deadline"
            ),
            Some(Cause::Exporter(_)) => write!(
                f,
                "fence {fence} failed: the driver of device {device} ended it with an error \
                 ({error}); do not use what it was to write"
            ),
            None => write!(
                f,
                "fence {fence} of device {device} ended with an error ({error}) that the broker \
                 has no cause for; do not use what it was to write"
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
