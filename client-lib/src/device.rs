//! A device as the state page shows it: alive or not, without asking anybody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::DeviceId;
use dmashare_proto::message::{self, DeviceAt};
use dmashare_proto::state_page::{DeviceState, Word, word_offset};
use dmashare_uapi::futex;
use dmashare_uapi::memfd::{PageWord, ReadOnlyPage};

use crate::deadline::Deadline;
use crate::error::{DeviceLost, Error};

/// One GPU for as long as it is plugged in. The same card plugged in again is another one.
///
/// What it says comes from a page of shared memory that the broker alone writes, so it stays true
/// without a round trip, and without anybody reading events. If the broker is gone, it stays as
/// the broker left it.
#[derive(Clone)]
pub struct Device {
    page: Arc<ReadOnlyPage>,
    at: DeviceAt,
    offset: usize,
}

impl Device {
    /// A slot beyond the page is the broker's mistake.
    pub(crate) fn new(page: &Arc<ReadOnlyPage>, at: DeviceAt) -> Result<Self, Error> {
        let offset = word_offset(at.slot).ok_or_else(|| {
            Error::Protocol(format!("device {} in slot {}, which is none", at.device, at.slot))
        })?;
        Ok(Self { page: Arc::clone(page), at, offset })
    }

    /// Its id, never used again.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.at.device
    }

    /// Whether it is lost: one load. A loss that was rehearsed for this client alone is not on the
    /// page: its event tells of it, and what was imported then refuses to be used.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        !self.word().is_usable_since(self.at.word)
    }

    /// How it stands. *Gone* also when its place on the page is another device's by now.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        let word = self.word();
        if word.generation() == self.at.word.generation() {
            word.state()
        } else {
            DeviceState::Gone
        }
    }

    /// Sleeps until it is lost: true, or false when the time is up. Needs no event to be read.
    ///
    /// # Errors
    /// The kernel's, for a futex; none is expected.
    pub fn wait_lost(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        let deadline = Deadline::after(timeout);
        loop {
            let word = self.word();
            if !word.is_usable_since(self.at.word) {
                return Ok(true);
            }
            if deadline.passed() {
                return Ok(false);
            }
            let shared = self.page.atomic_u32(self.offset);
            futex::wait(shared, word.0, deadline.left())
                .map_err(|error| Error::io("cannot wait on the state page", error))?;
        }
    }

    /// Its word, and what that was when it came.
    pub(crate) fn live(&self) -> (PageWord, Word) {
        (PageWord::new(&self.page, self.offset), self.at.word)
    }

    /// An error if it is lost; the cause is for the caller to fill in.
    pub(crate) fn check(&self) -> Result<(), DeviceLost> {
        if self.is_lost() { Err(DeviceLost { device: self.id(), cause: None }) } else { Ok(()) }
    }

    fn word(&self) -> Word {
        Word(self.page.load_u32(self.offset))
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {})", self.id(), self.state().name())
    }
}

/// A GPU, as the broker describes it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// How it stands now and later.
    pub device: Device,
    /// The kernel driver.
    pub driver: String,
    /// PCI address (`0000:01:00.0`), empty for a device that is not on a PCI bus.
    pub pci: String,
    /// DRM nodes (`/dev/dri/card1`).
    pub nodes: Vec<String>,
    /// Whether it can be pulled: its fences are guarded.
    pub removable: bool,
}

impl DeviceInfo {
    pub(crate) fn new(page: &Arc<ReadOnlyPage>, info: message::DeviceInfo) -> Result<Self, Error> {
        let message::DeviceInfo { at, state: _, driver, pci, nodes, removable } = info;
        Ok(Self { device: Device::new(page, at)?, driver, pci, nodes, removable })
    }
}
