//! Neutral buffers: memory of the broker's own, which no loss takes back. They have no device, so
//! nothing counts them but their user's account.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dmashare_proto::message::{Allocate, Allocated, Layout, Reply};
use dmashare_proto::{ClientId, ErrorCode, WireError, linear};

use super::buffers::Buffer;
use super::{Broker, CheckedPlane, Effect, Effects, Handles, Outgoing, Owned};

/// Bytes of neutral buffers by user. Of one that has none there is no entry for long.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<u32, Arc<AtomicU64>>);

/// Bytes that are on a user's account until this is dropped.
#[derive(Debug)]
#[must_use = "the bytes are taken off the account at once"]
pub struct Charge {
    account: Arc<AtomicU64>,
    pub(super) uid: u32,
    pub(super) bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Accounts {
    /// Puts back what was kept.
    pub fn put_back(&mut self, uid: u32, bytes: u64) -> Charge {
        let account = self.0.entry(uid).or_default();
        account.fetch_add(bytes, Ordering::Relaxed);
        Charge { account: Arc::clone(account), uid, bytes }
    }

    /// Puts bytes on a user's account; gives what is there if it would be more than `most`.
    fn charge(&mut self, uid: u32, bytes: u64, most: u64) -> Result<Charge, u64> {
        self.0.retain(|_, account| account.load(Ordering::Relaxed) > 0);
        let account = self.0.entry(uid).or_default();
        let there = account.load(Ordering::Relaxed);
        if there.checked_add(bytes).is_none_or(|sum| sum > most) {
            return Err(there);
        }
        // All of it is on one thread: an atomic only so that a charge can go where it likes.
        account.fetch_add(bytes, Ordering::Relaxed);
        Ok(Charge { account: Arc::clone(account), uid, bytes })
    }

    /// The bytes of the user who has the most.
    #[cfg(test)]
    pub fn most(&self) -> u64 {
        self.0.values().map(|account| account.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// All users' bytes.
    pub fn total(&self) -> u64 {
        self.0.values().map(|account| account.load(Ordering::Relaxed)).sum()
    }
}

/// A neutral buffer that is to be made.
#[derive(Debug)]
pub struct Allocation {
    /// Who asks.
    pub client: ClientId,
    /// In which request.
    pub id: u64,
    /// Its layout; all planes in one dma-buf.
    pub layout: Layout,
    /// Bytes.
    pub size: u64,
    /// Theirs.
    pub charge: Charge,
}

impl<H: Handles> Broker<H> {
    pub(super) fn allocate(
        &mut self,
        client: ClientId,
        id: u64,
        wanted: Allocate,
        out: &mut Effects<H>,
    ) {
        out.push(match self.plan_allocation(client, id, wanted) {
            Ok(allocation) => Effect::Allocate(allocation),
            Err(error) => Effect::error(client, id, error),
        });
        self.after(out);
    }

    fn plan_allocation(
        &mut self,
        client: ClientId,
        id: u64,
        wanted: Allocate,
    ) -> Result<Allocation, WireError> {
        let (layout, size) = linear::plan(wanted)?;
        self.may_have_one_more(client)?;
        let uid = self.uid_of(client);
        let most = self.limits.neutral_bytes_per_uid;
        let charge = self.accounts.charge(uid, size, most).map_err(|there| {
            WireError::new(
                ErrorCode::OVER_QUOTA,
                format!(
                    "{size} bytes are over limits.neutral_mib_per_uid = {} MiB, of which user {uid} \
                     has {there} bytes in use; release neutral buffers, or raise the limit",
                    most >> 20
                ),
            )
        })?;
        self.one_more_wait(client)?;
        Ok(Allocation { client, id, layout, size, charge })
    }

    /// The shell has made the memory, or could not.
    pub fn allocated(
        &mut self,
        allocation: Allocation,
        made: Result<(CheckedPlane<H::Fd>, bool), WireError>,
        out: &mut Effects<H>,
    ) {
        let Allocation { client, id, layout, size: _, charge } = allocation;
        self.neutral_dirty = true;
        // Who has left takes nothing, and its account is settled.
        let Some(known) = self.clients.get_mut(&client) else { return };
        known.waits -= 1;
        // Others of the client's may have come first.
        let made = made.and_then(|made| self.may_have_one_more(client).map(|()| made));
        match made {
            Err(error) => out.push(Effect::error(client, id, error)),
            Ok((plane, cpu_sync)) => {
                let planes = vec![plane; layout.planes.len()];
                let sizes = planes.iter().map(|plane| plane.size).collect();
                let fds = planes.iter().map(|plane| plane.fd.clone()).collect();
                let buffer = self.ids.object();
                let reply = Allocated { buffer, layout: layout.clone(), sizes, cpu_sync };
                let new = Buffer::neutral(client, layout, planes, cpu_sync, charge);
                self.buffers.insert(buffer, new);
                self.note(client, buffer, Owned::Buffer);
                let message = Outgoing::Reply(id, Reply::Allocated(reply));
                out.push(Effect::Send { client, message, fds });
            }
        }
        self.after(out);
    }
}
