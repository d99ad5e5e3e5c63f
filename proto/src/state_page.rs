//! The layout of the state page: a sealed memfd that the broker alone can write and every client
//! maps read-only. A header line, then one cache line a device.
//!
//! | offset | type | field |
//! | --- | --- | --- |
//! | 0 | u64 | magic, the bytes `dmashare` |
//! | 8 | u32 | version of the layout, 1 |
//! | 12 | u32 | number of slots |
//! | 64 × (1 + slot) | u32 | the slot's word (a futex): generation << 2 \| state |
//! | 64 × (1 + slot) + 8 | u64 | device id, 0 while the slot was never used |
//!
//! All values are in the machine's byte order. The word changes by a store with release order and
//! is followed by a futex wake of all waiters, so a reader loads it with acquire order. A slot is
//! used again only after its device is *Gone*, with the next generation: a word that somebody kept
//! never matches a later device.

use serde::{Deserialize, Serialize};

/// First eight bytes of the page.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"dmashare");
/// Version of the layout.
pub const LAYOUT: u32 = 1;
/// Bytes of the page.
pub const SIZE: usize = 4096;
/// Bytes of a slot: a cache line, so that one device's change disturbs no reader of another's.
pub const LINE: usize = 64;
/// Devices that the page has room for.
pub const SLOTS: u32 = (SIZE / LINE) as u32 - 1;

/// Byte offset of a slot's word, `None` beyond the page.
#[must_use]
pub const fn word_offset(slot: u32) -> Option<usize> {
    if slot < SLOTS { Some(LINE * (1 + slot as usize)) } else { None }
}

/// The state of a device, as the lowest two bits of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum DeviceState {
    /// In use.
    Present = 0,
    /// In use, and about to be ejected: nothing new may be made.
    Draining = 1,
    /// Not there any more; what it had is being taken back.
    Lost = 2,
    /// Nothing of it is left.
    Gone = 3,
}

impl DeviceState {
    /// The name on D-Bus and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Draining => "draining",
            Self::Lost => "lost",
            Self::Gone => "gone",
        }
    }
}

/// A slot's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Word(pub u32);

impl Word {
    /// Generations that a slot can have before it is retired.
    pub const MAX_GENERATION: u32 = u32::MAX >> 2;

    /// Packs a word.
    #[must_use]
    pub const fn new(generation: u32, state: DeviceState) -> Self {
        Self(generation << 2 | state as u32)
    }

    /// Which use of the slot this is.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.0 >> 2
    }

    /// The state in the word.
    #[must_use]
    pub const fn state(self) -> DeviceState {
        match self.0 & 3 {
            0 => DeviceState::Present,
            1 => DeviceState::Draining,
            2 => DeviceState::Lost,
            _ => DeviceState::Gone,
        }
    }

    /// Whether the device that had word `then` when it was handed out is still usable, now that
    /// its slot reads `self`: the same generation, and *Present* or *Draining*.
    #[must_use]
    #[inline]
    pub const fn is_usable_since(self, then: Self) -> bool {
        // One comparison of both: the bit of the lost states, and the generation; not *Draining*.
        (self.0 & !1) == (then.0 & !3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_generation_is_never_taken_for_an_earlier_one() {
        let then = Word::new(7, DeviceState::Present);
        assert!(Word::new(7, DeviceState::Draining).is_usable_since(then));
        assert!(!Word::new(7, DeviceState::Lost).is_usable_since(then));
        assert!(!Word::new(7, DeviceState::Gone).is_usable_since(then));
        assert!(!Word::new(8, DeviceState::Present).is_usable_since(then));
    }

    #[test]
    fn slots_end_with_the_page() {
        assert_eq!(word_offset(0), Some(64));
        assert_eq!(word_offset(SLOTS - 1), Some(SIZE - LINE));
        assert_eq!(word_offset(SLOTS), None);
    }

    #[test]
    fn a_word_round_trips() {
        for state in
            [DeviceState::Present, DeviceState::Draining, DeviceState::Lost, DeviceState::Gone]
        {
            let word = Word::new(Word::MAX_GENERATION, state);
            assert_eq!((word.generation(), word.state()), (Word::MAX_GENERATION, state));
        }
    }
}
