//! Source fences: what a GPU's driver would have made, in the test's own hand.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use dmashare_uapi::sim::{self, SimFence};
use dmashare_uapi::sw_sync::Timeline;
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::vgem::{GuardPool, VgemGuard};

/// A pending fence, and the means to end it. Dropped, it ends (simulated: it stays as it is).
pub struct Source {
    fence: OwnedFd,
    hand: Option<Hand>,
}

enum Hand {
    SwSync(Timeline),
    Vgem(VgemGuard),
    Simulated,
}

impl Source {
    /// One that never ends by itself: sw_sync (as root), or simulated.
    ///
    /// # Errors
    /// There is no sw_sync, or the user may not open it.
    pub fn endless(simulated: bool) -> Result<Self> {
        if simulated {
            return Ok(Self { fence: SimFence::new()?, hand: Some(Hand::Simulated) });
        }
        let timeline = Timeline::open().context("sw_sync, for a source fence")?;
        let fence = timeline.create_fence(1, c"dmashare-test")?;
        Ok(Self { fence, hand: Some(Hand::SwSync(timeline)) })
    }

    /// One of vgem, for users other than root; the kernel ends it after 10 s. Or simulated.
    ///
    /// # Errors
    /// There is no vgem.
    pub fn vgem(simulated: bool) -> Result<Self> {
        if simulated {
            return Self::endless(true);
        }
        let (guard, fence) = GuardPool::open().context("vgem, for a source fence")?.guard()?;
        Ok(Self { fence, hand: Some(Hand::Vgem(guard)) })
    }

    /// The fence.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fence.as_fd()
    }

    /// How it stands.
    ///
    /// # Errors
    /// The kernel's.
    pub fn status(&self) -> Result<Status> {
        Ok(match self.hand {
            Some(Hand::Simulated) => sim::status(self.fd())?,
            _ => sync_file::status(self.fd())?,
        })
    }

    /// Ends it: its work is done.
    ///
    /// # Errors
    /// The kernel's.
    pub fn signal(&mut self) -> Result<()> {
        match self.hand.as_ref() {
            Some(Hand::SwSync(timeline)) => timeline.inc(1)?,
            Some(Hand::Vgem(_)) => {
                if let Some(Hand::Vgem(guard)) = self.hand.take() {
                    guard.end()?;
                }
            }
            Some(Hand::Simulated) => {
                sim::signal(self.fd(), Ok(()))?;
            }
            None => {}
        }
        Ok(())
    }

    /// Ends it with an error, and gives the errno that it can have: sw_sync knows ENOENT only, and
    /// vgem none at all (0).
    ///
    /// # Errors
    /// The kernel's.
    pub fn fail(&mut self) -> Result<i32> {
        Ok(match self.hand.take() {
            Some(Hand::SwSync(timeline)) => {
                drop(timeline);
                libc::ENOENT
            }
            Some(Hand::Vgem(guard)) => {
                guard.end()?;
                0
            }
            Some(Hand::Simulated) => {
                sim::signal(self.fd(), Err(libc::EIO))?;
                self.hand = Some(Hand::Simulated);
                libc::EIO
            }
            None => 0,
        })
    }
}
