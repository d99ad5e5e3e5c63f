//! Closing what clients have passed.
//!
//! `close` can wait for whoever serves the file: FUSE asks its server (FLUSH) and waits for the
//! answer, whatever signal comes; a network file system writes out; amdgpu's DRM node waits for the
//! client's queue. So what a client passed is closed by a thread of that connection's own; only what
//! is known not to wait (a dma-buf, a sync_file) is closed in place.
//!
//! A thread that hangs costs the client that made it hang: it is disconnected once too many of its
//! descriptors wait, and a user who has left too many such threads behind is refused.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use dmashare_proto::limits::MAX_FDS;
use dmashare_proto::{ErrorCode, WireError};
use tokio::sync::Notify;

use crate::core::{Account, Charge, Kind};

/// Descriptors of one connection that may wait to be closed before it is read on.
pub(super) const MOST: usize = 64;
/// How long they may.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long a connection's thread that has closed something does not look for more, if nobody hurries it, for
/// each connection that there is: a wake-up for each request costs more than most of what is closed, and so
/// all these threads together look so often at most. See [`lull`].
const LULL_EACH: Duration = Duration::from_micros(250);
/// At least.
pub(super) const LEAST_LULL: Duration = Duration::from_millis(2);
/// At most.
const MOST_LULL: Duration = Duration::from_millis(100);
/// So many of a connection's are closed at once.
const ENOUGH: usize = MOST / 2;
/// How long a request of a user's waits for what the user has passed before to be closed, where that takes the
/// place of what the request may need: ten times as long as it takes, if nothing hangs.
const TIGHT: Duration = Duration::from_millis(20);
/// Threads that one user's former connections may leave behind.
const MOST_STUCK: usize = 64;
/// Such a thread only closes.
pub(super) const STACK: usize = 64 * 1024;

/// How long that is among so many connections.
fn lull(connections: usize) -> Duration {
    let all = u32::try_from(connections).map_or(MOST_LULL, |count| LULL_EACH.saturating_mul(count));
    all.clamp(LEAST_LULL, MOST_LULL)
}

/// The lanes of all connections, and of former ones whose thread still closes, by user.
#[derive(Default)]
pub(super) struct Lanes {
    users: HashMap<u32, Rc<OfUser>>,
    /// How many there are whose connection is there.
    connections: Arc<AtomicUsize>,
}

#[derive(Default)]
struct OfUser {
    lanes: RefCell<Vec<Arc<Waiting>>>,
    /// Connections that wait until all is closed.
    in_need: Cell<usize>,
    all: Arc<All>,
}

impl OfUser {
    /// What waits is closed at once.
    fn hurry(&self) {
        self.lanes.borrow().iter().for_each(|waiting| waiting.hurry());
    }
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
        self.users.retain(|_, user| {
            let mut lanes = user.lanes.borrow_mut();
            // Held by its connection or by its thread as well, or else it is through.
            lanes.retain(|waiting| Arc::strong_count(waiting) > 1);
            !lanes.is_empty()
        });
        let user = self.users.entry(uid).or_default();
        let mut lanes = user.lanes.borrow_mut();
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
        drop(lanes);
        let (user, connections) = (Rc::clone(user), Arc::clone(&self.connections));
        connections.fetch_add(1, Ordering::Relaxed);
        let (sender, account) = (OnceCell::new(), OnceCell::new());
        Ok(Lane { waiting, user, connections, sender, account })
    }

    /// What waits is closed at once: a device is about to go, and one of its nodes may be among it.
    pub fn hurry(&self) {
        self.users.values().for_each(|user| user.hurry());
    }
}

#[derive(Default)]
struct Waiting {
    count: AtomicUsize,
    left_behind: AtomicBool,
    fewer: Notify,
    /// Who closes it, once something was to be closed.
    thread: OnceLock<Thread>,
}

impl Waiting {
    fn hurry(&self) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// One connection's way to get rid of descriptors.
pub(super) struct Lane {
    waiting: Arc<Waiting>,
    user: Rc<OfUser>,
    connections: Arc<AtomicUsize>,
    /// To its thread, which is started when it is first needed.
    sender: OnceCell<Sender<Discarded>>,
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
        let sender = match self.sender.get() {
            Some(sender) => sender,
            None => match self.start() {
                Ok(sender) => self.sender.get_or_init(|| sender),
                Err(error) => {
                    tracing::error!(%error, "no thread to close a client's file; closed in place");
                    return;
                }
            },
        };
        let before = self.waiting.count.fetch_add(1, Ordering::Relaxed);
        self.user.all.count.fetch_add(1, Ordering::Relaxed);
        let charge = self.account.get().map(|account| account.take(Kind::Descriptors, 1));
        if sender.send((fd, charge)).is_err() {
            tracing::error!("the thread that closes a client's files has ended");
        }
        if before + 1 == ENOUGH || self.user.in_need.get() > 0 {
            self.waiting.hurry();
        }
    }

    fn start(&self) -> io::Result<Sender<Discarded>> {
        let (sender, receiver) = channel();
        let (waiting, all) = (Arc::clone(&self.waiting), Arc::clone(&self.user.all));
        let connections = Arc::clone(&self.connections);
        let started = thread::Builder::new()
            .name("discard".to_owned())
            .stack_size(STACK)
            .spawn(move || close_all(&receiver, &waiting, &all, &connections))?;
        self.waiting.thread.get_or_init(|| started.thread().clone());
        Ok(sender)
    }

    /// Whether so many wait that the connection is not to be read on.
    pub fn is_full(&self) -> bool {
        self.waiting.count.load(Ordering::Acquire) >= MOST
    }

    /// Whether what waits to be closed is in the way of the next request: without it, there were room on its
    /// user's account for as many descriptors as a request can bring.
    pub fn is_tight(&self) -> bool {
        self.user.all.count.load(Ordering::Acquire) > 0
            && self
                .account
                .get()
                .is_some_and(|account| account.may(Kind::Descriptors, MAX_FDS as u64).is_err())
    }

    /// Waits until that is closed, for a while.
    async fn has_closed(&self) {
        let in_need = &self.user.in_need;
        in_need.set(in_need.get() + 1);
        let closed = async {
            loop {
                let mut none = std::pin::pin!(self.user.all.none.notified());
                none.as_mut().enable();
                if !self.is_tight() {
                    return;
                }
                self.user.hurry();
                none.await;
            }
        };
        if tokio::time::timeout(TIGHT, closed).await.is_err() {
            tracing::debug!(
                "a user has few descriptors left, and passed files that hang in closing"
            );
        }
        in_need.set(in_need.get() - 1);
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
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.waiting.left_behind.store(true, Ordering::Relaxed);
        // No more will come, which its thread is to see.
        drop(self.sender.take());
        if let Some(thread) = self.waiting.thread.get() {
            thread.unpark();
        }
    }
}

fn close_all(
    receiver: &Receiver<Discarded>,
    waiting: &Waiting,
    all: &All,
    connections: &AtomicUsize,
) {
    // Whoever hurries it leaves a token, if it does not rest just then.
    let rest = || thread::park_timeout(lull(connections.load(Ordering::Relaxed)));
    now_and_then(receiver, rest, |(fd, charge)| {
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

/// Takes everything that comes, to the end, with a rest after each look.
pub(super) fn now_and_then<T>(receiver: &Receiver<T>, rest: impl Fn(), mut take: impl FnMut(T)) {
    while let Ok(first) = receiver.recv() {
        take(first);
        receiver.try_iter().for_each(&mut take);
        rest();
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
    fn all_threads_together_look_so_often_at_most() {
        assert_eq!(lull(1), LEAST_LULL);
        assert_eq!(lull(8), LEAST_LULL);
        assert_eq!(lull(64), 8 * LEAST_LULL);
        assert_eq!(lull(usize::MAX), MOST_LULL);
    }

    #[test]
    fn a_lane_is_counted_while_its_connection_is_there() {
        let mut lanes = Lanes::default();
        let (one, other) = (lanes.lane(7).unwrap(), lanes.lane(8).unwrap());
        assert_eq!(lanes.connections.load(Ordering::Relaxed), 2);
        drop((one, other));
        assert_eq!(lanes.connections.load(Ordering::Relaxed), 0);
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
