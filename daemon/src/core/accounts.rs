//! Accounts: what each client and each user make the broker hold, and how much that may be.
//!
//! One tree: all, below it a user, below that a client. A [`Charge`] is on an account and on all above
//! it, and is given back when it is dropped: whoever holds a thing holds its charge beside it, so no
//! count can drift from what is there. It outlives the client where the thing does.
//!
//! Descriptors are counted by kind, at the stated cost ([`cost`]), which is never less than what the
//! broker holds in fact.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dmashare_proto::usage::Row;
use dmashare_proto::{ErrorCode, WireError};

mod usage;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connections.
    Clients,
    /// A client's names of buffers, imports, fences, timelines and inhibitors.
    Objects,
    /// The daemon's file descriptors.
    Descriptors,
    /// Unused tokens.
    Tokens,
    /// Fences and points whose source has not ended.
    Fences,
    /// Bytes of neutral buffers.
    Memory,
    /// Bytes of messages that wait to be taken by a client's socket.
    QueuedBytes,
    /// Descriptors that go with them, and those in the socket, which the client has not received.
    QueuedDescriptors,
}

/// Whose account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everybody's.
    All,
    /// One user's.
    User,
    /// One connection's.
    Client,
}

/// What things cost in descriptors.
pub mod cost {
    /// A connection: its socket, and the pidfd of who is at the other end.
    pub const CONNECTION: u64 = 2;
    /// A pending fence that is passed through: the source.
    pub const PASSED: u64 = 1;
    /// A guarded one: the source, the guard, and what ends it. vgem needs less.
    pub const GUARDED: u64 = 3;
    /// A timeline: its syncobj and both ends of the pipe that hangs up.
    pub const TIMELINE: u64 = 3;
    /// A point that the kernel is asked to tell of: an eventfd.
    pub const WATCHED_POINT: u64 = 1;
    /// A neutral buffer: all its planes are in one dma-buf. Any other costs one for each plane.
    pub const NEUTRAL: u64 = 1;
    /// An inhibitor that is held over the bus: the end of a pipe. One of the socket costs none.
    pub const BUS_INHIBITOR: u64 = 1;
}

impl Kind {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Clients,
        Self::Objects,
        Self::Descriptors,
        Self::Tokens,
        Self::Fences,
        Self::Memory,
        Self::QueuedBytes,
        Self::QueuedDescriptors,
    ];

    /// Its name where usage is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clients => "connections",
            Self::Objects => "objects",
            Self::Descriptors => "descriptors",
            Self::Tokens => "tokens",
            Self::Fences => "pending fences",
            Self::Memory => "neutral bytes",
            Self::QueuedBytes => "queued bytes",
            Self::QueuedDescriptors => "queued descriptors",
        }
    }

    /// The key in the configuration that bounds it, where there is one.
    #[must_use]
    pub const fn key(self, level: Level) -> Option<&'static str> {
        Some(match (self, level) {
            (Self::Clients, Level::All) => "limits.clients",
            (Self::Clients, Level::User) => "limits.clients_per_uid",
            (Self::Objects, Level::User) => "limits.objects_per_uid",
            (Self::Objects, Level::Client) => "limits.objects_per_client",
            (Self::Descriptors, Level::All) => "limits.descriptors",
            (Self::Descriptors, Level::User) => "limits.descriptors_per_uid",
            (Self::Descriptors, Level::Client) => "limits.descriptors_per_client",
            (Self::Tokens, Level::User) => "limits.tokens_per_uid",
            (Self::Tokens, Level::Client) => "limits.tokens_per_client",
            (Self::Fences, Level::User) => "limits.pending_fences_per_uid",
            (Self::Memory, Level::User) => "limits.neutral_mib_per_uid",
            (Self::Memory, Level::Client) => "limits.neutral_mib_per_client",
            (Self::QueuedBytes, Level::User) => "limits.queue_kib_per_uid",
            (Self::QueuedBytes, Level::Client) => "limits.queue_kib_per_client",
            (Self::QueuedDescriptors, Level::User) => "limits.queue_descriptors_per_uid",
            (Self::QueuedDescriptors, Level::Client) => "limits.queue_descriptors_per_client",
            _ => return None,
        })
    }
}

const KINDS: usize = Kind::ALL.len();

/// How much there may be of each kind, in the kind's own unit; without a bound unless one is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas([[u64; 3]; KINDS]);

impl Default for Quotas {
    fn default() -> Self {
        Self([[u64::MAX; 3]; KINDS])
    }
}

impl Quotas {
    /// Sets a bound.
    #[must_use]
    pub fn with(mut self, kind: Kind, level: Level, most: u64) -> Self {
        self.0[kind as usize][level as usize] = most;
        self
    }

    fn most(&self, kind: Kind, level: Level) -> u64 {
        self.0[kind as usize][level as usize]
    }
}

#[derive(Debug)]
struct Node {
    level: Level,
    /// Of a user, and of a client of theirs.
    uid: u32,
    counts: [AtomicU64; KINDS],
    up: Option<Arc<Node>>,
    quotas: Arc<Quotas>,
}

impl Node {
    fn used(&self, kind: Kind) -> u64 {
        self.counts[kind as usize].load(Ordering::Relaxed)
    }

    fn may(&self, kind: Kind, more: u64) -> Result<(), Over> {
        // From the widest down, so that of two equal limits the one is named that no second
        // connection would help against.
        if let Some(up) = &self.up {
            up.may(kind, more)?;
        }
        let (used, most) = (self.used(kind), self.quotas.most(kind, self.level));
        if used.checked_add(more).is_none_or(|sum| sum > most) {
            return Err(Over { kind, level: self.level, uid: self.uid, most, used, more });
        }
        Ok(())
    }

    fn add(&self, kind: Kind, more: u64) {
        // All is decided on one thread: atomics only so that a charge can go where it likes.
        self.counts[kind as usize].fetch_add(more, Ordering::Relaxed);
        if let Some(up) = &self.up {
            up.add(kind, more);
        }
    }

    fn subtract(&self, kind: Kind, less: u64) {
        self.counts[kind as usize].fetch_sub(less, Ordering::Relaxed);
        if let Some(up) = &self.up {
            up.subtract(kind, less);
        }
    }
}

/// An account of a client, a user, or all. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Account(Arc<Node>);

impl Account {
    /// Whether so many more would be within the limits.
    ///
    /// # Errors
    /// Which limit they would be over.
    pub fn may(&self, kind: Kind, more: u64) -> Result<(), Over> {
        self.0.may(kind, more)
    }

    /// Puts so many on the account.
    ///
    /// # Errors
    /// Which limit they would be over.
    pub fn charge(&self, kind: Kind, amount: u64) -> Result<Charge, Over> {
        self.0.may(kind, amount)?;
        Ok(self.take(kind, amount))
    }

    /// The same for what is there in any case, whatever the limits: it is counted, and what comes
    /// next is refused.
    pub fn take(&self, kind: Kind, amount: u64) -> Charge {
        self.0.add(kind, amount);
        Charge { account: Arc::clone(&self.0), kind, amount }
    }

    /// How many are on it.
    #[must_use]
    pub fn used(&self, kind: Kind) -> u64 {
        self.0.used(kind)
    }

    /// Each kind that is bounded on this account, or counted although it is not.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let row = |kind: Kind| {
            let most = self.0.quotas.most(kind, self.0.level);
            let limit = kind.key(self.0.level).filter(|_| most != u64::MAX);
            Row {
                resource: kind.name().to_owned(),
                used: self.used(kind),
                most: limit.map(|_| most),
                limit: limit.map(str::to_owned),
            }
        };
        Kind::ALL.into_iter().map(row).collect()
    }
}

/// What is on an account, and on all above it, until this is dropped.
#[derive(Debug)]
#[must_use = "it is taken off the account at once"]
pub struct Charge {
    account: Arc<Node>,
    kind: Kind,
    amount: u64,
}

impl Charge {
    /// Whose it is, and how much.
    pub fn of(&self) -> (u32, u64) {
        (self.account.uid, self.amount)
    }

    /// Makes it another amount, whatever the limits.
    pub fn set(&mut self, amount: u64) {
        self.account.add(self.kind, amount);
        self.account.subtract(self.kind, std::mem::replace(&mut self.amount, amount));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.subtract(self.kind, self.amount);
    }
}

/// A limit that a request would be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Of what there would be too many.
    pub kind: Kind,
    /// On whose account.
    pub level: Level,
    uid: u32,
    most: u64,
    used: u64,
    more: u64,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, level, uid, most, used, more } = *self;
        let key = kind.key(level).unwrap_or("a limit");
        let (of, raise) = match level {
            Level::Client => (String::new(), ""),
            Level::User => (format!(" by user {uid}"), ""),
            Level::All => (" by all users".to_owned(), ", or raise the limit"),
        };
        match kind {
            Kind::Clients => {
                write!(f, "{key} = {most} connections are in use; close one, or raise the limit")
            }
            Kind::Objects => {
                write!(f, "{key} = {most} objects are in use{of}; release some{raise}")
            }
            Kind::Descriptors => write!(
                f,
                "{more} descriptors are over {key} = {most}, of which {used} are in use{of}; release \
                 buffers, timelines or connections, let fences end, or raise the limit"
            ),
            Kind::Tokens => {
                write!(f, "{key} = {most} tokens are unused{of}; let them be used or expire")
            }
            Kind::Fences => write!(f, "{key} = {most} fences are pending; wait for some to end"),
            Kind::Memory => write!(
                f,
                "{more} bytes are over {key} = {} MiB, of which user {uid} has {used} bytes in use; \
                 release neutral buffers, or raise the limit",
                most >> 20
            ),
            Kind::QueuedBytes => write!(
                f,
                "{more} bytes are over {key} = {} KiB, of which {used} bytes wait to be read{of}; \
                 read what the broker sends",
                most >> 10
            ),
            Kind::QueuedDescriptors => write!(
                f,
                "{more} descriptors are over {key} = {most}, of which {used} wait to be read{of}; \
                 read what the broker sends"
            ),
        }
    }
}

impl From<Over> for WireError {
    fn from(over: Over) -> Self {
        Self::new(ErrorCode::OVER_QUOTA, over.to_string())
    }
}

/// The accounts of all.
#[derive(Debug)]
pub(super) struct Accounts {
    all: Account,
    /// Of those who have anything, or had when this was looked through last.
    users: HashMap<u32, Weak<Node>>,
    look_through_at: usize,
}

/// Users of which entries are kept before those who have nothing are forgotten.
const FEW: usize = 64;

impl Accounts {
    pub fn new(quotas: Quotas) -> Self {
        let counts = Default::default();
        let (uid, up, quotas) = (u32::MAX, None, Arc::new(quotas));
        let all = Account(Arc::new(Node { level: Level::All, uid, counts, up, quotas }));
        Self { all, users: HashMap::new(), look_through_at: FEW }
    }

    fn below(&self, level: Level, uid: u32, up: &Account) -> Account {
        let (counts, quotas) = (Default::default(), Arc::clone(&self.all.0.quotas));
        Account(Arc::new(Node { level, uid, counts, up: Some(Arc::clone(&up.0)), quotas }))
    }

    /// A user's account.
    pub fn user(&mut self, uid: u32) -> Account {
        if let Some(node) = self.users.get(&uid).and_then(Weak::upgrade) {
            return Account(node);
        }
        if self.users.len() >= self.look_through_at {
            self.users.retain(|_, node| node.strong_count() > 0);
            self.look_through_at = 2 * self.users.len().max(FEW);
        }
        let account = self.below(Level::User, uid, &self.all);
        self.users.insert(uid, Arc::downgrade(&account.0));
        account
    }

    /// An account for a new client of a user's.
    pub fn client(&mut self, uid: u32) -> Account {
        let user = self.user(uid);
        self.below(Level::Client, uid, &user)
    }

    pub fn all(&self) -> &Account {
        &self.all
    }

    /// Users who have anything, in order.
    pub fn users(&self) -> Vec<(u32, Account)> {
        let there = |(&uid, node): (&u32, &Weak<Node>)| Some((uid, Account(node.upgrade()?)));
        let mut users: Vec<_> = self.users.iter().filter_map(there).collect();
        users.sort_unstable_by_key(|&(uid, _)| uid);
        users
    }
}

/// A client's account, of a user of their own.
#[cfg(test)]
pub(crate) fn of_a_client(quotas: Quotas) -> Account {
    Accounts::new(quotas).client(1000)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod check;
#[cfg(test)]
mod tests;
