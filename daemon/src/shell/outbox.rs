//! What waits to be sent to one client. It never makes the broker wait, and is bounded in messages,
//! bytes and descriptors: who does not read is disconnected at the bound.
//!
//! The kernel counts descriptors that were sent and not received ("in flight") for the daemon's user, and
//! refuses more of them than its RLIMIT_NOFILE (ETOOMANYREFS). So what is in a client's socket is on its
//! user's account too, and stays there after the connection until the client has received or closed it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::Reply;
use dmashare_proto::codec::{decode_header, encode};
use dmashare_proto::transport::send;
use dmashare_uapi::unix_socket::unreceived;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::sync::Notify;

use crate::core::{Account, Charge, Kind, Outgoing, Over};

mod in_socket;
mod kept;

use in_socket::InSocket;
pub(super) use kept::Kept;

/// How long after ETOOMANYREFS it is tried again at first. There is no event for it: what it waits for is
/// that any client receives descriptors.
const FIRST_TRY: Duration = Duration::from_millis(10);
/// The longest that it waits between two tries.
const LAST_TRY: Duration = Duration::from_secs(1);
/// The same for a connection that is over, of which descriptors are in the client's socket.
const LAST_LOOK: Duration = Duration::from_secs(8);

/// Descriptors in a socket up to which it is not looked at whether they were received: one look for so
/// many is next to nothing.
const LOOK_FROM: u64 = 64;
type SendOne = fn(BorrowedFd<'_>, &[u8], &[BorrowedFd<'_>]) -> io::Result<()>;

/// Encoded bytes, what goes beside them, and what they are charged as.
struct Queued {
    bytes: Vec<u8>,
    fds: Vec<Arc<OwnedFd>>,
    _charges: Option<[Charge; 2]>,
    /// Its number at the keeper.
    kept: Option<u64>,
}

/// What became of what was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Nothing is left, or the connection is over.
    All,
    /// The socket takes no more; it tells when it does.
    Full,
    /// Too many descriptors are in flight to clients; nothing tells when that is over.
    InFlight,
}

/// An answer that a former life of the service had decided on, and may have given.
pub(super) struct Handled {
    pub id: u64,
    pub bytes: Vec<u8>,
    pub fds: Vec<Arc<OwnedFd>>,
}

/// What waits to be sent to one client, and the way to send it.
pub(super) struct Outbox {
    socket: Arc<OwnedFd>,
    queue: RefCell<VecDeque<Queued>>,
    in_socket: RefCell<InSocket>,
    account: OnceCell<Account>,
    kept: OnceCell<Kept>,
    wake: Notify,
    next_try: Cell<Duration>,
    send: SendOne,
    /// To be closed once the queue is empty.
    closing: Cell<bool>,
    /// To be closed at once: it did not read, or its process is met by the policy.
    broken: Cell<bool>,
    /// Until the first request that comes: it may have been handled in a former life, or is open.
    former: RefCell<Option<(Option<Handled>, Vec<u64>)>>,
    pub pid: i32,
    pub pidfd: Option<OwnedFd>,
}

impl Outbox {
    /// Of a connection. Nothing of it is charged before [`Self::charge_to`].
    pub fn new(socket: Arc<OwnedFd>, pid: i32, pidfd: Option<OwnedFd>) -> Self {
        Self {
            socket,
            queue: RefCell::default(),
            in_socket: RefCell::default(),
            account: OnceCell::new(),
            kept: OnceCell::new(),
            wake: Notify::new(),
            next_try: Cell::new(FIRST_TRY),
            send,
            closing: Cell::new(false),
            broken: Cell::new(false),
            former: RefCell::default(),
            pid,
            pidfd,
        }
    }

    /// A former life of the service has handled a request, and left others open.
    pub fn go_on(&self, handled: Option<Handled>, open: Vec<u64>) {
        self.former.replace(Some((handled, open)));
    }

    /// Whether a former life has taken care of a request: then it is answered, again perhaps, or is
    /// going to be.
    pub fn is_handled(&self, request: &[u8], most: usize) -> bool {
        let Some((handled, open)) = self.former.borrow_mut().take() else { return false };
        let Ok(header) = decode_header(request) else { return false };
        match handled {
            Some(handled) if handled.id == header.id => {
                self.put(handled.bytes, handled.fds, most);
                true
            }
            _ => open.contains(&header.id),
        }
    }

    /// The connection's.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whose account all is on. The first one stays.
    pub fn charge_to(&self, account: Account) {
        self.account.get_or_init(|| account);
    }

    /// What waits is kept over a restart. The first one stays.
    pub fn keep_by(&self, kept: Kept) {
        self.kept.get_or_init(|| kept);
    }

    /// What waited in a former life of the service goes first, in its order: numbers, bytes, descriptors.
    pub fn put_kept(&self, all: impl IntoIterator<Item = (u64, Vec<u8>, Vec<OwnedFd>)>) {
        for (number, bytes, fds) in all {
            let charges = self.account.get().map(|account| {
                let descriptors = account.take(Kind::QueuedDescriptors, fds.len() as u64);
                [account.take(Kind::QueuedBytes, bytes.len() as u64), descriptors]
            });
            let fds = fds.into_iter().map(Arc::new).collect();
            let queued = Queued { bytes, fds, _charges: charges, kept: Some(number) };
            self.queue.borrow_mut().push_back(queued);
        }
    }

    /// Sends a message now if the socket takes it, else when it does; a client that has let `most`
    /// messages wait is given up.
    pub fn push(&self, message: &Outgoing, fds: Vec<Arc<OwnedFd>>, most: usize) {
        if self.closing.get() || self.broken.get() {
            return;
        }
        let encoded = match message {
            Outgoing::Reply(id, reply) => encode(reply, *id, fds.len()),
            Outgoing::Event(event) => encode(event, 0, fds.len()),
        };
        let bytes = match (encoded, message) {
            (Ok(bytes), _) => bytes,
            (Err(error), Outgoing::Reply(id, _)) => {
                tracing::error!(%error, "a reply does not fit its datagram");
                let Ok(bytes) = encode(&Reply::Error(error), *id, 0) else { return };
                return self.put(bytes, Vec::new(), most);
            }
            (Err(error), Outgoing::Event(_)) => {
                tracing::error!(%error, "an event does not fit its datagram");
                return;
            }
        };
        self.put(bytes, fds, most);
    }

    pub fn put(&self, bytes: Vec<u8>, fds: Vec<Arc<OwnedFd>>, most: usize) {
        if self.queue.borrow().is_empty() {
            match self.send_one(&bytes, &fds) {
                Ok(()) => return,
                Err(error) if is_full(&error) => {}
                Err(_) => return self.break_off(),
            }
        }
        if self.queue.borrow().len() >= most {
            tracing::warn!(name: "client-disconnected",
                pid = self.pid,
                "limits.queue_messages = {most} messages wait for a client that does not read; it is \
                 disconnected"
            );
            return self.break_off();
        }
        let charges = match self.charge(bytes.len() as u64, fds.len() as u64) {
            Ok(charges) => charges,
            Err(over) => return self.give_up(over),
        };
        let kept = self.kept.get().map(|kept| kept.put(&bytes, &fds));
        self.queue.borrow_mut().push_back(Queued { bytes, fds, _charges: charges, kept });
        self.wake.notify_one();
    }

    fn charge(&self, bytes: u64, descriptors: u64) -> Result<Option<[Charge; 2]>, Over> {
        let Some(account) = self.account.get() else { return Ok(None) };
        if account.may(Kind::QueuedDescriptors, descriptors).is_err() {
            self.look();
        }
        let descriptors = account.charge(Kind::QueuedDescriptors, descriptors)?;
        Ok(Some([account.charge(Kind::QueuedBytes, bytes)?, descriptors]))
    }

    fn give_up(&self, over: Over) {
        tracing::warn!(name: "client-disconnected", pid = self.pid, "{over}: a client does not read; it is disconnected");
        self.break_off();
    }

    fn send_one(&self, bytes: &[u8], fds: &[Arc<OwnedFd>]) -> io::Result<()> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        (self.send)(self.socket.as_fd(), bytes, &borrowed)?;
        self.next_try.set(FIRST_TRY);
        let mut there = self.in_socket.borrow_mut();
        there.sent(fds.len() as u64);
        if fds.is_empty() {
            return Ok(());
        }
        let look = there.descriptors() > LOOK_FROM;
        if let Some(account) = self.account.get() {
            there.note(account);
        }
        drop(there);
        if look {
            self.look();
            if let Some(Err(over)) = self.account.get().map(|it| it.may(Kind::QueuedDescriptors, 0))
            {
                self.give_up(over);
            }
        }
        Ok(())
    }

    /// Sees how much of what was sent can still be in the socket.
    pub fn look(&self) {
        let Ok(bytes) = unreceived(self.socket.as_fd()) else { return };
        let mut there = self.in_socket.borrow_mut();
        there.left(bytes);
        if let Some(account) = self.account.get() {
            there.note(account);
        }
    }

    /// Closes the connection when what is queued is sent.
    pub fn close(&self) {
        self.closing.set(true);
        self.wake.notify_one();
    }

    /// Closes the connection at once.
    pub fn break_off(&self) {
        self.broken.set(true);
        self.wake.notify_one();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub fn is_over(&self) -> bool {
        self.broken.get() || (self.closing.get() && self.queue.borrow().is_empty())
    }

    /// Sends what the socket takes.
    pub fn flush(&self) -> Flushed {
        let mut sent = Vec::new();
        let flushed = self.flush_into(&mut sent);
        if let Some(kept) = self.kept.get() {
            kept.drop(sent);
        }
        flushed
    }

    fn flush_into(&self, sent: &mut Vec<u64>) -> Flushed {
        loop {
            let mut queue = self.queue.borrow_mut();
            let Some(Queued { bytes, fds, .. }) = queue.front() else { return Flushed::All };
            match self.send_one(bytes, fds) {
                Ok(()) => sent.extend(queue.pop_front().and_then(|it| it.kept)),
                Err(error) if is_in_flight(&error) => return Flushed::InFlight,
                Err(error) if is_full(&error) => return Flushed::Full,
                Err(_) => {
                    self.broken.set(true);
                    return Flushed::All;
                }
            }
        }
    }

    /// Waits until there is something to do.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until it may be tried again to send what was refused because of what is in flight: longer
    /// from try to try. In any other case for ever.
    pub async fn may_try_again(&self, flushed: Flushed) {
        if flushed != Flushed::InFlight {
            return std::future::pending().await;
        }
        let wait = self.next_try.get();
        tokio::time::sleep(wait).await;
        self.next_try.set((2 * wait).min(LAST_TRY));
    }

    /// The connection is over. What the client has not received stays on its user's account, with the
    /// socket, until it has, or has closed its end: else it could have any number of descriptors in
    /// flight, connection after connection, and nobody else could be sent one.
    ///
    /// There is no event for that which the client could not forge (it can shut its side down and read
    /// nothing), so it is looked at, less and less often.
    pub async fn linger(&self) {
        let never_sent = std::mem::take(&mut *self.queue.borrow_mut());
        if let Some(kept) = self.kept.get() {
            kept.drop(never_sent.iter().filter_map(|it| it.kept));
        }
        drop(never_sent);
        self.look();
        let Some(account) = self.account.get() else { return };
        let mut wait = FIRST_TRY;
        let mut held = None;
        while self.in_socket.borrow().descriptors() > 0 {
            let hold = || {
                // It is the end for the client, as if the socket were closed.
                if let Err(error) = shutdown(self.socket.as_raw_fd(), Shutdown::Both) {
                    tracing::debug!(%error, "a connection was shut down before");
                }
                [account.take(Kind::Clients, 1), account.take(Kind::Descriptors, 1)]
            };
            held.get_or_insert_with(hold);
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(LAST_LOOK);
            self.look();
        }
    }
}

/// Not now: the peer's queue is full, or too many of our fds are in flight to peers that do not read.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || is_in_flight(error)
}

fn is_in_flight(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

#[cfg(test)]
mod tests;
