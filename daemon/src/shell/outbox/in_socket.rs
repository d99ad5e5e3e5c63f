//! What is in a client's socket: sent, and perhaps not received.

use std::collections::VecDeque;

use crate::core::{Account, Charge, Kind};

/// No message takes less of a socket's buffer: `struct sk_buff` and `skb_shared_info` alone are more
/// (include/linux/skbuff.h, SKB_TRUESIZE).
const LEAST: u64 = 512;

/// As far as it is known.
#[derive(Default)]
pub(super) struct InSocket {
    /// Messages that were sent.
    sent: u64,
    /// Of those that may not have been received: which they were, and their descriptors.
    with_fds: VecDeque<(u64, u64)>,
    descriptors: u64,
    charge: Option<Charge>,
}

impl InSocket {
    /// Descriptors that may not have been received.
    pub fn descriptors(&self) -> u64 {
        self.descriptors
    }

    /// A message was sent, with so many descriptors.
    pub fn sent(&mut self, descriptors: u64) {
        self.sent += 1;
        if descriptors > 0 {
            self.with_fds.push_back((self.sent, descriptors));
            self.descriptors += descriptors;
        }
    }

    /// So many bytes of the socket's buffer are taken: messages are received in order, and each takes its
    /// part of it.
    pub fn left(&mut self, bytes: u64) {
        let received = self.sent.saturating_sub(bytes.div_ceil(LEAST));
        while let Some(&(message, fds)) = self.with_fds.front() {
            if message > received {
                break;
            }
            self.with_fds.pop_front();
            self.descriptors -= fds;
        }
    }

    /// Has its descriptors on the account.
    pub fn note(&mut self, account: &Account) {
        let descriptors = self.descriptors;
        let charge = self.charge.get_or_insert_with(|| account.take(Kind::QueuedDescriptors, 0));
        charge.set(descriptors);
    }
}
