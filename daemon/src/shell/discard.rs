//! Closing what clients have passed.
//!
//! `close` can wait for whoever serves the file: FUSE asks its server (FLUSH) and waits for the
//! answer, whatever signal comes; a network file system writes out; amdgpu's DRM node waits for the
//! client's queue. So what a client passed is closed by a thread of that connection's own; only what
//! is known not to wait (a dma-buf, a sync_file) is closed in place.
//!
//! A thread that hangs costs the client that made it hang: it is disconnected once too many of its
//! descriptors wait, and a user who has left too many such threads behind is refused.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dmashare_proto::limits::MAX_FDS;
use dmashare_proto::{ErrorCode, WireError};
use tokio::sync::Notify;

use crate::core::{Account, Charge, Kind};

/// Descriptors of one connection that may wait to be closed before it is read on.
pub(super) const MOST: usize = 64;
/// How long they may.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long a thread that has closed something does not look for more: a wake-up for each request
/// costs more than most of what is closed. Not waited for by anybody but who has passed [`MOST`].
const LULL: Duration = Duration::from_millis(2);
/// How long a request of a user's waits for what the user has passed before to be closed, where that takes the
/// place of what the request may need: ten times as long as it takes, if nothing hangs.
const TIGHT: Duration = Duration::from_millis(20);
/// Threads that one user's former connections may leave behind.
const MOST_STUCK: usize = 64;
/// Such a thread only closes.
const STACK: usize = 64 * 1024;

/// The lanes of all connections, and of former ones whose thread still closes, by user.
#[derive(Default)]
pub(super) struct Lanes(HashMap<u32, OfUser>);

#[derive(Default)]
struct OfUser {
    lanes: Vec<Arc<Waiting>>,
    all: Arc<All>,
}

/// What waits to be closed on all lanes of a user.
#[derive(Default)]
struct All {
    count: AtomicUsize,
    none: Notify,
}

impl Lanes {
    /// A lane for a new connection.
    ///
    /// # Errors
    /// `OVER_QUOTA`: the user's former connections have left too much behind.
    pub fn lane(&mut self, uid: u32) -> Result<Lane, WireError> {
        self.0.retain(|_, user| {
            // Held by its connection or by its thread as well, or else it is through.
            user.lanes.retain(|waiting| Arc::strong_count(waiting) > 1);
            !user.lanes.is_empty()
        });
        let OfUser { lanes, all } = self.0.entry(uid).or_default();
        let stuck = lanes.iter().filter(|waiting| waiting.left_behind.load(Ordering::Relaxed));
        if stuck.count() >= MOST_STUCK {
            return Err(WireError::new(
                ErrorCode::OVER_QUOTA,
                format!(
                    "{MOST_STUCK} former connections of user {uid} passed files that cannot be \
                     closed: who serves them does not answer"
                ),
            ));
        }
        let waiting = Arc::<Waiting>::default();
        lanes.push(Arc::clone(&waiting));
        let all = Arc::clone(all);
        Ok(Lane { waiting, all, thread: OnceCell::new(), account: OnceCell::new() })
    }
}

#[derive(Default)]
struct Waiting {
    count: AtomicUsize,
    left_behind: AtomicBool,
    fewer: Notify,
}

/// One connection's way to get rid of descriptors.
pub(super) struct Lane {
    waiting: Arc<Waiting>,
    all: Arc<All>,
    /// Started when it is first needed.
    thread: OnceCell<Sender<Discarded>>,
    account: OnceCell<Account>,
}

/// What is to be closed, on its user's account until it is.
type Discarded = (OwnedFd, Option<Charge>);

impl Lane {
    /// Whose account is charged. The first one stays.
    pub fn charge_to(&self, account: Account) {
        self.account.get_or_init(|| account);
    }

    /// Closes a descriptor, however long that takes.
    pub fn discard(&self, fd: OwnedFd) {
        let thread = match self.thread.get() {
            Some(thread) => thread,
            None => match start(Arc::clone(&self.waiting), Arc::clone(&self.all)) {
                Ok(thread) => self.thread.get_or_init(|| thread),
                Err(error) => {
                    tracing::error!(%error, "no thread to close a client's file; closed in place");
                    return;
                }
            },
        };
        self.waiting.count.fetch_add(1, Ordering::Relaxed);
        self.all.count.fetch_add(1, Ordering::Relaxed);
        let charge = self.account.get().map(|account| account.take(Kind::Descriptors, 1));
        if thread.send((fd, charge)).is_err() {
            tracing::error!("the thread that closes a client's files has ended");
        }
    }

    /// Whether so many wait that the connection is not to be read on.
    pub fn is_full(&self) -> bool {
        self.waiting.count.load(Ordering::Acquire) >= MOST
    }

    /// Whether what waits to be closed is in the way of the next request: without it, there were room on its
    /// user's account for as many descriptors as a request can bring.
    pub fn is_tight(&self) -> bool {
        self.all.count.load(Ordering::Acquire) > 0
            && self
                .account
                .get()
                .is_some_and(|account| account.may(Kind::Descriptors, MAX_FDS as u64).is_err())
    }

    /// Waits until that is closed, for a while.
    async fn has_closed(&self) {
        let closed = async {
            loop {
                let mut none = std::pin::pin!(self.all.none.notified());
                none.as_mut().enable();
                if !self.is_tight() {
                    return;
                }
                none.await;
            }
        };
        if tokio::time::timeout(TIGHT, closed).await.is_err() {
            tracing::debug!(
                "a user has few descriptors left, and passed files that hang in closing"
            );
        }
    }

    /// Waits until the connection may be read on.
    ///
    /// # Errors
    /// `OVER_QUOTA`: nothing was closed for too long. To be told to the client, which is given up.
    pub async fn has_room(&self) -> Result<(), WireError> {
        let room = async {
            while self.is_full() {
                self.waiting.fewer.notified().await;
            }
        };
        if self.is_tight() {
            self.has_closed().await;
        }
        tokio::time::timeout(PATIENCE, room).await.map_err(|_| {
            WireError::new(
                ErrorCode::OVER_QUOTA,
                format!(
                    "{MOST} files that this client passed cannot be closed: who serves them does \
                     not answer"
                ),
            )
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.waiting.left_behind.store(true, Ordering::Relaxed);
    }
}

fn start(waiting: Arc<Waiting>, all: Arc<All>) -> io::Result<Sender<Discarded>> {
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name("discard".to_owned())
        .stack_size(STACK)
        .spawn(move || close_all(&receiver, &waiting, &all))?;
    Ok(sender)
}

fn close_all(receiver: &Receiver<Discarded>, waiting: &Waiting, all: &All) {
    now_and_then(receiver, |(fd, charge)| {
        drop(fd);
        drop(charge);
        if waiting.count.fetch_sub(1, Ordering::Release) == MOST {
            waiting.fewer.notify_one();
        }
        if all.count.fetch_sub(1, Ordering::Release) == 1 {
            all.none.notify_waiters();
        }
    });
}

/// Takes everything that comes, to the end, with a [`LULL`] after each look.
fn now_and_then<T>(receiver: &Receiver<T>, mut take: impl FnMut(T)) {
    while let Ok(first) = receiver.recv() {
        take(first);
        receiver.try_iter().for_each(&mut take);
        std::thread::sleep(LULL);
    }
}

/// Buffers that wait for the thread that closes them, before the main thread closes in place: so who
/// makes them faster than their exporter can end them is held up.
const MOST_UNUSED: usize = 4096;

/// Where buffers are closed that nobody has any more: the last reference makes the exporter end them,
/// and a large one takes milliseconds, of which the other clients are to have no part.
#[derive(Default)]
pub(super) struct Unused {
    waiting: Arc<AtomicUsize>,
    /// Started when it is first needed.
    thread: OnceCell<Sender<Vec<Arc<OwnedFd>>>>,
}

impl Unused {
    /// Drops these on another thread, unless too many wait there or there is none.
    pub fn discard(&self, fds: Vec<Arc<OwnedFd>>) {
        let count = fds.len();
        if self.waiting.fetch_add(count, Ordering::Relaxed) + count > MOST_UNUSED {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            return;
        }
        let unsent = match self.thread() {
            Some(thread) => thread.send(fds).is_err(),
            None => true,
        };
        if unsent {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
        }
    }

    fn thread(&self) -> Option<&Sender<Vec<Arc<OwnedFd>>>> {
        if self.thread.get().is_none() {
            let (sender, receiver) = channel::<Vec<Arc<OwnedFd>>>();
            let waiting = Arc::clone(&self.waiting);
            let started = std::thread::Builder::new()
                .name("unused".to_owned())
                .stack_size(STACK)
                .spawn(move || {
                    now_and_then(&receiver, |fds| {
                        let count = fds.len();
                        drop(fds);
                        waiting.fetch_sub(count, Ordering::Relaxed);
                    });
                });
            match started {
                Ok(_) => return Some(self.thread.get_or_init(|| sender)),
                Err(error) => {
                    tracing::warn!(%error, "no thread to close buffers; they are closed in place");
                }
            }
        }
        self.thread.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Level, Quotas};

    /// A descriptor whose `close` can be waited for: the other end sees the end of the file.
    fn pipe() -> (std::io::PipeReader, OwnedFd) {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, writer.into())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_discarded_is_closed_and_makes_room() {
        let mut lanes = Lanes::default();
        let lane = lanes.lane(7).unwrap();
        let (readers, writers): (Vec<_>, Vec<_>) = (0..2 * MOST).map(|_| pipe()).unzip();
        for writer in writers {
            lane.discard(writer);
        }
        lane.has_room().await.unwrap();
        for mut reader in readers {
            assert_eq!(std::io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_waits_to_be_closed_is_charged_and_given_back_behind_its_close() {
        let account = crate::core::accounts_for_tests(crate::core::Quotas::default());
        let mut lanes = Lanes::default();
        let lane = lanes.lane(7).unwrap();
        lane.charge_to(account.clone());
        let (_readers, writers): (Vec<_>, Vec<_>) = (0..MOST).map(|_| pipe()).unzip();
        for writer in writers {
            lane.discard(writer);
            assert!(account.used(Kind::Descriptors) <= MOST as u64);
        }
        lane.has_room().await.unwrap();
        // Its thread ends when the lane is gone and all is closed.
        let waiting = Arc::downgrade(&lane.waiting);
        drop((lane, lanes));
        while waiting.strong_count() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(account.used(Kind::Descriptors), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_in_the_way_of_the_next_request_is_closed_before_it() {
        let few = MAX_FDS as u64 + 4;
        let quotas = Quotas::default().with(Kind::Descriptors, Level::User, few);
        let account = crate::core::accounts_for_tests(quotas);
        let mut lanes = Lanes::default();
        let (lane, other) = (lanes.lane(7).unwrap(), lanes.lane(7).unwrap());
        for lane in [&lane, &other] {
            lane.charge_to(account.clone());
        }
        let (_readers, writers): (Vec<_>, Vec<_>) = (0..8).map(|_| pipe()).unzip();
        for writer in writers {
            other.discard(writer);
        }
        // Of another connection of the same user's.
        lane.has_room().await.unwrap();
        assert!(!lane.is_tight());
        assert!(account.may(Kind::Descriptors, few).is_ok());
        // What is not to be closed is in nobody's way.
        let kept = account.take(Kind::Descriptors, few);
        assert!(!lane.is_tight());
        drop(kept);
    }

    #[test]
    fn too_many_stuck_threads_of_one_user_are_refused() {
        let mut lanes = Lanes::default();
        let stuck: Vec<_> =
            (0..MOST_STUCK).map(|_| Arc::clone(&lanes.lane(7).unwrap().waiting)).collect();
        assert_eq!(lanes.lane(7).err().map(|error| error.code), Some(ErrorCode::OVER_QUOTA));
        assert!(lanes.lane(8).is_ok(), "another user");
        drop(stuck);
        assert!(lanes.lane(7).is_ok(), "the threads are through");
    }
}
