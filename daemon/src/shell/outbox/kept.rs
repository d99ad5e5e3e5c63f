//! What waits for a slow client, as the keeper has it: it is not lost with this life of the service.

use std::cell::Cell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use dmashare_proto::ClientId;
use dmashare_proto::keeper::{Change, Key};

use crate::keeper::Keeper;
use crate::shell::journal::QUEUED;

/// One client's.
pub(in crate::shell) struct Kept {
    keeper: Arc<Keeper>,
    client: ClientId,
    /// The number of the last one.
    last: Cell<u64>,
}

impl Kept {
    /// Nothing is kept yet; numbers go on from `last`.
    pub fn new(keeper: Arc<Keeper>, client: ClientId, last: u64) -> Self {
        Self { keeper, client, last: Cell::new(last) }
    }

    /// A message waits; gives its number.
    pub fn put(&self, bytes: &[u8], fds: &[Arc<OwnedFd>]) -> u64 {
        let number = self.last.get() + 1;
        self.last.set(number);
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        // A message has sixteen at most.
        let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
        let change = Change::Put { bytes: bytes.to_vec(), fds: Some(count) };
        self.keeper.keep(vec![(self.key(number), change)], &fds);
        number
    }

    /// These were sent, or never will be.
    pub fn drop(&self, numbers: impl IntoIterator<Item = u64>) {
        let gone: Vec<_> =
            numbers.into_iter().map(|number| (self.key(number), Change::Drop)).collect();
        if !gone.is_empty() {
            self.keeper.keep(gone, &[]);
        }
    }

    fn key(&self, number: u64) -> Key {
        Key(QUEUED, self.client.0, number)
    }
}
