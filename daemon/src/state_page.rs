//! The broker's side of the state page.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use dmashare_proto::DeviceId;
use dmashare_proto::state_page::{LAYOUT, MAGIC, SIZE, SLOTS, Word, word_offset};
use dmashare_uapi::futex;
use dmashare_uapi::memfd::SharedPage;

use crate::slot;

/// The page, writable here and nowhere else. Shared by the main thread (devices that come and go)
/// and the reactor (devices that are lost): a slot has one writer at a time, since the reactor knows
/// a device only after its slot was filled, and forgets it before the slot is used again.
pub struct StatePage(SharedPage);

impl StatePage {
    /// A page with no device.
    ///
    /// # Errors
    /// The memfd cannot be made, mapped or sealed.
    pub fn create() -> io::Result<Self> {
        let page = SharedPage::create(c"dmashare-state", SIZE)?;
        page.atomic_u64(0).store(MAGIC, Ordering::Relaxed);
        page.atomic_u32(8).store(LAYOUT, Ordering::Relaxed);
        page.atomic_u32(12).store(SLOTS, Ordering::Release);
        Ok(Self(page))
    }

    /// The page of another life of the service.
    ///
    /// # Errors
    /// It is none, or of another layout.
    pub fn restore(fd: OwnedFd) -> io::Result<Self> {
        let page = SharedPage::from_fd(fd)?;
        let is_ours = page.len() >= SIZE
            && page.atomic_u64(0).load(Ordering::Relaxed) == MAGIC
            && page.atomic_u32(8).load(Ordering::Relaxed) == LAYOUT
            && page.atomic_u32(12).load(Ordering::Relaxed) == SLOTS;
        if is_ours { Ok(Self(page)) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// The descriptor by which another life of the service can write it.
    #[must_use]
    pub fn writable(&self) -> BorrowedFd<'_> {
        self.0.writable()
    }

    /// Writes a slot and wakes whoever waits for a change of it. A failing wake is an error of ours
    /// (the futex is in our own memory), so it is logged where it is found.
    pub fn publish(&self, at: u32, device: DeviceId, word: Word) {
        let Some(offset) = word_offset(at) else {
            tracing::error!(slot = at, "a slot beyond the state page");
            return;
        };
        let (id, futex_word) = (self.0.atomic_u64(offset + 8), self.0.atomic_u32(offset));
        let woken = slot::publish(id, futex_word, (device.0, word.0), |word| {
            futex::wake_all(word).map(drop)
        });
        if let Err(error) = woken {
            tracing::error!(slot = at, %error, "waking the waiters of a device's state failed");
        }
    }

    /// The word in a slot.
    #[must_use]
    pub fn word(&self, slot: u32) -> Option<Word> {
        let offset = word_offset(slot)?;
        Some(Word(self.0.atomic_u32(offset).load(Ordering::Acquire)))
    }
}

impl AsFd for StatePage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
