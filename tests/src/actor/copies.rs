//! Copying a mapping in a loop while its device goes away: which copies are taken for good.

use anyhow::Result;
use dmashare::Access;
use serde::{Deserialize, Serialize};

use super::objects::Imported;

/// How it went. A copy is *whole* if each of its bytes is the one that the buffer is full of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copies {
    /// `end` said that it is good, and it is whole.
    pub good: u64,
    /// `end` said that it is good, and it is not whole.
    pub wrong: u64,
    /// `end` refused it, and it was not whole: the memory was taken back in the middle.
    pub torn: u64,
    /// `end` refused it, and it was whole all the same.
    pub refused: u64,
}

impl std::ops::AddAssign for Copies {
    fn add_assign(&mut self, other: Self) {
        self.good += other.good;
        self.wrong += other.wrong;
        self.torn += other.torn;
        self.refused += other.refused;
    }
}

/// Copies until the loss is told; says so from the third copy on.
pub(super) fn copy_until_lost(import: &Imported, byte: u8, at_it: impl Fn()) -> Result<Copies> {
    let memory = &import.memory;
    let (mut bytes, whole) = (vec![0; memory.len()], vec![byte; memory.len()]);
    let mut copies = Copies::default();
    loop {
        let bracket = match memory.begin(Access::Read) {
            Ok(bracket) => bracket,
            Err(error) if error.is_device_lost() => return Ok(copies),
            Err(error) => return Err(error.into()),
        };
        memory.copy_to_slice(0, &mut bytes)?;
        let end = bracket.end();
        // In one go: most of the time is to be spent copying.
        let is_whole = bytes == whole;
        match end {
            Ok(()) if is_whole => copies.good += 1,
            Ok(()) => copies.wrong += 1,
            Err(error) if !error.is_device_lost() => return Err(error.into()),
            Err(_) if is_whole => copies.refused += 1,
            Err(_) => copies.torn += 1,
        }
        if copies.good == 3 {
            at_it();
        }
    }
}
