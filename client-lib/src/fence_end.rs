//! How a fence whose guard has ended did so: what the kernel shows, and what the broker knows.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use dmashare_proto::message::{FenceState, GuardKind};
use dmashare_uapi::sync_file::{self, Status};
use nix::errno::Errno;

use crate::error::Error;
use crate::fence_status::{FenceError, FenceStatus};
use crate::handle::Handle;

/// A guard that poll says has ended.
pub(crate) struct Ended<'a> {
    pub(crate) handle: &'a Handle,
    pub(crate) guard: GuardKind,
    pub(crate) fd: BorrowedFd<'a>,
}

/// What the kernel shows of it.
pub(crate) enum Look {
    /// All that there is to know.
    Known(FenceStatus),
    /// The broker knows more: beside an error of the kernel's, or all of it.
    Ask(Option<i32>),
}

impl Ended<'_> {
    pub(crate) fn status(&self) -> Result<FenceStatus, Error> {
        match self.look() {
            Look::Known(status) => Ok(status),
            Look::Ask(errno) => self.judge(errno, self.handle.query()),
        }
    }

    pub(crate) fn look(&self) -> Look {
        match self.guard {
            GuardKind::Source | GuardKind::SwSync => match sync_file::info(self.fd) {
                Ok(info) => match info.status {
                    Status::Pending => Look::Known(FenceStatus::Pending),
                    Status::Signalled => {
                        let at = info.fences.iter().map(|fence| fence.timestamp_ns).max();
                        let at = Duration::from_nanos(at.unwrap_or(0));
                        Look::Known(FenceStatus::Ok { at })
                    }
                    Status::Error(errno) => Look::Ask(Some(errno)),
                },
                // A source that is no sync_file is simulated.
                Err(_) => Look::Ask(None),
            },
            _ => Look::Ask(None),
        }
    }

    /// What it is by the broker's answer, which is newer than the guard's end; so where it holds a fence
    /// pending, the guard came to its own (the kernel ends a vgem fence after 10 s).
    pub(crate) fn judge(
        &self,
        errno: Option<i32>,
        answer: Result<FenceState, Error>,
    ) -> Result<FenceStatus, Error> {
        let status = |state| FenceStatus::new(self.handle.id, self.handle.device.id(), state);
        match (errno, answer) {
            // The kernel shows an error, so it failed, whether or not the broker can say why.
            (Some(_), Ok(state @ FenceState::Failed { .. })) => Ok(status(state)),
            // sw_sync knows ENOENT only; a lost device is the better word for it.
            (Some(_), _) if self.handle.device.is_lost() => Ok(self.failed(Errno::ENODEV as i32)),
            (Some(errno), _) => Ok(self.failed(errno)),
            (None, Ok(FenceState::Pending)) => Ok(self.failed(Errno::ETIMEDOUT as i32)),
            (None, Ok(ended)) => Ok(status(ended)),
            (None, Err(error)) if error.is_device_lost() => Ok(self.failed(error.errno())),
            (None, Err(error)) => Err(error),
        }
    }

    fn failed(&self, errno: i32) -> FenceStatus {
        FenceStatus::Failed(FenceError {
            fence: self.handle.id,
            point: None,
            device: self.handle.device.id(),
            cause: None,
            errno,
            at: None,
        })
    }
}
