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

impl Ended<'_> {
    pub(crate) fn status(&self) -> Result<FenceStatus, Error> {
        match self.guard {
            GuardKind::Source | GuardKind::SwSync => match sync_file::info(self.fd) {
                Ok(info) => match info.status {
                    Status::Pending => Ok(FenceStatus::Pending),
                    Status::Signalled => {
                        let at = info.fences.iter().map(|fence| fence.timestamp_ns).max();
                        Ok(FenceStatus::Ok { at: Duration::from_nanos(at.unwrap_or(0)) })
                    }
                    Status::Error(errno) => Ok(self.with_cause(errno)),
                },
                // A source that is no sync_file is simulated.
                Err(_) => self.ask(),
            },
            _ => self.ask(),
        }
    }

    /// What the broker says. Its answer is newer than the guard's end; so where it holds a fence
    /// pending, the guard came to its own (the kernel ends a vgem fence after 10 s).
    pub(crate) fn ask(&self) -> Result<FenceStatus, Error> {
        match self.handle.query() {
            Ok(FenceState::Pending) => Ok(self.failed(Errno::ETIMEDOUT as i32)),
            Ok(ended) => Ok(FenceStatus::new(self.handle.id, self.handle.device.id(), ended)),
            Err(error) if error.is_device_lost() => Ok(self.failed(error.errno())),
            Err(error) => Err(error),
        }
    }

    /// The kernel shows an error, so it failed, whether or not the broker can say why.
    fn with_cause(&self, errno: i32) -> FenceStatus {
        match self.handle.query() {
            Ok(state @ FenceState::Failed { .. }) => {
                FenceStatus::new(self.handle.id, self.handle.device.id(), state)
            }
            // sw_sync knows ENOENT only; a lost device is the better word for it.
            _ if self.handle.device.is_lost() => self.failed(Errno::ENODEV as i32),
            _ => self.failed(errno),
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
