//! What the broker and its keeper say to each other. The keeper is a process that only holds: the
//! broker gives it a record of every object, with the object's descriptors beside it, and whoever takes
//! over the broker's end of the connection gets all of them back.
//!
//! A datagram is a [`Batch`], encoded by `postcard`; the descriptors of its entries follow each other
//! beside it. A batch with `more` set is taken in together with the next one: what the keeper has is
//! always what it had between two whole batches, so a broker that dies at any instant leaves records
//! that agree with each other.

use std::io;

use serde::{Deserialize, Serialize};

/// Descriptors beside one datagram: the kernel takes 253 (SCM_MAX_FD).
pub const MAX_BATCH_FDS: usize = 250;
/// Bytes of one datagram at most; less than the kernel's default of a socket's buffer.
pub const MAX_BATCH: usize = 160 * 1024;
/// From how many bytes on another datagram is begun. A record is less than what is left.
pub const FULL_BATCH: usize = 48 * 1024;
/// Kinds of records with this bit have descriptors that are closed at once, in their turn: the ends of
/// guards. All others may take as long as their drivers like.
pub const IN_PLACE: u8 = 0x80;

/// The name of a record: what it is of, and one or two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub u8, pub u64, pub u64);

/// Of a record that the keeper gives with its own, without bytes and with one descriptor: an eventfd that
/// wakes it. While the broker is busy it looks at its socket only every [`LULL_MS`]; who cannot wait for
/// that, because a guard is to end or the socket is full, adds to the eventfd.
pub const KICK: Key = Key(0, 0, 0);
/// For how many milliseconds the keeper does not look at its socket after it has taken something in: a
/// wake-up for each request would cost more than all else that keeping takes.
pub const LULL_MS: u8 = 2;

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It is this from here on.
    Put {
        /// Its bytes: the broker's own business.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// How many descriptors come with it, in the place of those that it had; `None`: it keeps them.
        fds: Option<u8>,
    },
    /// It is no more, and its descriptors are closed.
    Drop,
}

/// One datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Another datagram belongs to this one.
    pub more: bool,
    /// From the keeper: its process, whose descriptors are the broker's own; else 0.
    pub pid: u32,
    /// From the keeper: the number of the question that it answers; else 0. A life of the broker that has
    /// asked and died leaves the answer to the next one.
    pub to: u64,
    /// In their order.
    pub entries: Vec<(Key, Change)>,
}

/// From the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// Take this in.
    Batch(Batch),
    /// Drop these now, whatever else is under way: the ends of guards, which end by it.
    Now(Vec<Key>),
    /// Give everything: answered by batches of `Put`s, of which the last has `more` not set. With a number
    /// that no life of the broker has used.
    Give(u64),
    /// Forget everything: nobody will ask for it. Answered by an empty batch when it is closed. With a
    /// number, as [`Self::Give`].
    Forget(u64),
}

/// As bytes.
///
/// # Errors
/// It does not fit.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    // As much as what one event leads to hardly ever passes.
    let to = Vec::with_capacity(512);
    postcard::to_extend(message, to)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// From bytes.
///
/// # Errors
/// It makes no sense.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
