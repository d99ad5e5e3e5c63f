//! What can go wrong, apart by whose fault it is.

use std::io;

use dmashare_proto::message::Cause;
use dmashare_proto::{DeviceId, ErrorCode, ObjectId, WireError};
use nix::errno::Errno;

use crate::fence_status::FenceError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker refused; nothing was changed. Its sentence says what to do.
    #[error("the broker refused: {0}")]
    Broker(WireError),
    /// The broker closed the connection, or is gone.
    #[error("the connection to the broker is closed{}", said(.0.as_ref()))]
    Disconnected(
        /// What the broker said before, if it did.
        Option<WireError>,
    ),
    /// The connection is the parent's, and this is a child that was forked since.
    #[error("the connection was made before a fork, by the parent; make one in this process")]
    Forked,
    /// The broker sent what no broker sends. The connection is closed.
    #[error("the broker broke the protocol, and the connection is closed: {0}")]
    Protocol(String),
    /// The broker is there and does not answer. What its late answer may still give is given back.
    #[error("the broker did not answer {request} in time")]
    NoAnswer {
        /// The request.
        request: &'static str,
    },
    /// A system call of this process's failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// The device is gone, and with it the contents of its buffers.
    #[error(transparent)]
    DeviceLost(#[from] DeviceLost),
    /// What was waited for has ended, and its work is not done.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The time is up, and the point is not over.
    #[error("point {point} of timeline {timeline} is not signalled yet; wait again")]
    TimeUp {
        /// The timeline.
        timeline: ObjectId,
        /// The point.
        point: u64,
    },
    /// The call cannot mean anything; the text says why.
    #[error("{0}")]
    InvalidArgument(String),
}

/// A device that was used is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {device} is lost{}; drop what you have of it", because(*cause))]
pub struct DeviceLost {
    /// Which.
    pub device: DeviceId,
    /// Why; `None` where the state page told it before the broker's event was read.
    pub cause: Option<Cause>,
}

fn said(reason: Option<&WireError>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

fn because(cause: Option<Cause>) -> String {
    cause.map_or_else(String::new, |cause| format!(" ({})", cause.name()))
}

impl DeviceLost {
    /// The positive errno for it: ENODEV, or what the cause says.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.cause.map_or(Errno::ENODEV as i32, Cause::errno)
    }
}

impl Error {
    pub(crate) fn io(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { what, source: source.into() }
    }

    /// Whether the device is the reason, whoever noticed it.
    #[must_use]
    pub fn is_device_lost(&self) -> bool {
        match self {
            Self::DeviceLost(_) => true,
            Self::Broker(error) => error.code == ErrorCode::DEVICE_LOST,
            Self::Fence(error) => error.is_device_lost(),
            _ => false,
        }
    }

    /// Whether the connection is of no more use.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Disconnected(_) | Self::Protocol(_))
    }

    /// The broker's code, if it refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Broker(error) => Some(error.code),
            _ => None,
        }
    }

    /// The nearest positive errno.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Broker(error) if error.errno > 0 => error.errno,
            Self::Broker(error) => errno_of(error.code) as i32,
            Self::Disconnected(_) => Errno::ECONNRESET as i32,
            Self::Protocol(_) => Errno::EPROTO as i32,
            Self::Forked => Errno::ECHILD as i32,
            Self::NoAnswer { .. } => Errno::ETIMEDOUT as i32,
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(Errno::EIO as i32),
            Self::DeviceLost(lost) => lost.errno(),
            Self::Fence(error) => error.errno(),
            // As a wait for a syncobj says it.
            Self::TimeUp { .. } => Errno::ETIME as i32,
            Self::InvalidArgument(_) => Errno::EINVAL as i32,
        }
    }
}

fn errno_of(code: ErrorCode) -> Errno {
    match code {
        ErrorCode::VERSION => Errno::EPROTONOSUPPORT,
        ErrorCode(100..200) => Errno::EPROTO,
        ErrorCode::UNKNOWN_OBJECT => Errno::ENOENT,
        ErrorCode::BAD_TOKEN => Errno::EACCES,
        ErrorCode::UNKNOWN_DEVICE => Errno::ENXIO,
        ErrorCode(200..300) => Errno::EINVAL,
        ErrorCode::OVER_QUOTA => Errno::EDQUOT,
        ErrorCode::DEVICE_LOST => Errno::ENODEV,
        ErrorCode::DRAINING => Errno::EBUSY,
        ErrorCode::UNSUPPORTED => Errno::EOPNOTSUPP,
        _ => Errno::EREMOTEIO,
    }
}

/// Keeps the errno, not the sentence: for callers that speak errno.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_survives_as_io_error() {
        let lost = Error::Broker(WireError::new(ErrorCode::DEVICE_LOST, "device 3 is lost"));
        assert!(lost.is_device_lost());
        assert_eq!(io::Error::from(lost).raw_os_error(), Some(Errno::ENODEV as i32));
        let mut wire = WireError::new(ErrorCode::INTERNAL, "dup failed");
        wire.errno = Errno::EMFILE as i32;
        assert_eq!(Error::Broker(wire).errno(), Errno::EMFILE as i32);
    }

    #[test]
    fn a_lost_device_says_why_where_that_is_known() {
        let lost = DeviceLost { device: DeviceId(7), cause: Some(Cause::Unplugged) };
        assert_eq!(lost.to_string(), "device 7 is lost (unplugged); drop what you have of it");
        assert_eq!(DeviceLost { cause: None, ..lost }.errno(), Errno::ENODEV as i32);
    }
}
