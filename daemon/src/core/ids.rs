//! Ids that are never used again, also across restarts: they are reserved in blocks before they are
//! given out, and a restart begins after the last reserved block.

use dmashare_proto::{ClientId, DeviceId, ObjectId};

/// Ids in a block: one small file written a million objects.
const BLOCK: u64 = 1 << 20;

/// Gives out ids.
#[derive(Debug)]
pub struct IdSource {
    next: u64,
    reserved: u64,
}

impl IdSource {
    /// Begins at `first` (at least 1). Nothing is reserved yet: ask [`Self::reservation`].
    #[must_use]
    pub fn new(first: u64) -> Self {
        let first = first.max(1);
        Self { next: first, reserved: first }
    }

    fn take(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    /// Up to which id (exclusive) is to be reserved on disk now, if a reservation is due: at the
    /// start, and when half of the block is used.
    pub fn reservation(&mut self) -> Option<u64> {
        if self.next + BLOCK / 2 < self.reserved {
            return None;
        }
        self.reserved = self.next + BLOCK;
        Some(self.reserved)
    }

    /// The first id that was not given out: what a clean stop leaves reserved.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn device(&mut self) -> DeviceId {
        DeviceId(self.take())
    }

    pub(super) fn client(&mut self) -> ClientId {
        ClientId(self.take())
    }

    pub(super) fn object(&mut self) -> ObjectId {
        ObjectId(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_reserved_before_it_is_given_out() {
        let mut ids = IdSource::new(7);
        let mut reserved = ids.reservation().unwrap();
        for _ in 0..3 * BLOCK {
            if let Some(more) = ids.reservation() {
                reserved = more;
            }
            assert!(ids.object().0 < reserved);
        }
        assert_eq!(ids.next(), 7 + 3 * BLOCK);
    }
}
