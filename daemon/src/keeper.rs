//! The broker's end of its connection to the keeper, the process that holds over a restart what the
//! broker has ([`dmashare_proto::keeper`]). Used by both threads: a datagram is sent whole.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dmashare_proto::fd_passing::{CONTROL_WORDS, receive_with_fds};
use dmashare_proto::keeper::{
    Batch, Change, FULL_BATCH, KICK, Key, MAX_BATCH, MAX_BATCH_FDS, ToKeeper, decode, encode,
};
use dmashare_proto::transport::connect_now;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::clock::monotonic_ns;

/// How long the keeper is waited for, which has nothing else to do. Then nothing is kept any more.
const PATIENCE_MS: u16 = 5_000;
/// Keys in one [`ToKeeper::Now`].
const KEYS: usize = 2_000;

/// What was kept: the record's bytes and descriptors.
pub type Given = (Key, Vec<u8>, Vec<OwnedFd>);

/// Room for one datagram.
struct Buffer {
    bytes: Vec<u8>,
    control: Vec<u64>,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; MAX_BATCH], control: vec![0; CONTROL_WORDS] }
    }
}

/// The connection.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    /// It failed: nothing is kept from there on.
    broken: AtomicBool,
    /// Its process, once it has said so.
    pid: AtomicU32,
    /// What wakes it, once it has given that.
    kick: OnceLock<File>,
}

impl Keeper {
    /// Connects to a new keeper, which has nothing.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        connect_now(path).map(Self::from_fd)
    }

    /// Takes over a connection, with a keeper that may have something.
    #[must_use]
    pub fn from_fd(socket: OwnedFd) -> Self {
        let (broken, pid) = (AtomicBool::new(false), AtomicU32::new(0));
        Self { socket, broken, pid, kick: OnceLock::new() }
    }

    /// Whether what is sent there is kept.
    pub fn works(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// The keeper's process: what it has open is the broker's. 0 if it has not been asked for anything.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Sends changes, which are taken in together. An error is logged, and ends the keeping.
    pub fn keep(&self, entries: Vec<(Key, Change)>, fds: &[BorrowedFd<'_>]) {
        if self.works()
            && let Err(error) = self.send_all(entries, fds)
        {
            self.give_up(&error);
        }
    }

    /// Has these dropped at once, whatever the other thread is about to send: guards end by that.
    pub fn let_go(&self, keys: impl IntoIterator<Item = Key>) {
        let mut keys = keys.into_iter().peekable();
        while self.works() && keys.peek().is_some() {
            let some = keys.by_ref().take(KEYS).collect();
            if let Err(error) = self.send(&ToKeeper::Now(some), &[]) {
                self.give_up(&error);
            }
            self.kick();
        }
    }

    /// Everything that it has.
    ///
    /// # Errors
    /// It does not answer, or nothing that makes sense.
    pub fn give(&self) -> io::Result<Vec<Given>> {
        // Later than any other life's.
        let number = monotonic_ns();
        self.send(&ToKeeper::Give(number), &[])?;
        self.kick();
        let (mut all, mut buffer) = (Vec::new(), Buffer::default());
        loop {
            let (Batch { more, pid, entries, .. }, fds) = self.answer(number, &mut buffer)?;
            self.pid.store(pid, Ordering::Relaxed);
            let mut fds = fds.into_iter();
            for (key, change) in entries {
                let Change::Put { bytes, fds: count } = change else { continue };
                let mut own: Vec<_> = fds.by_ref().take(count.unwrap_or(0).into()).collect();
                if key == KICK {
                    own.pop().map(|fd| self.kick.get_or_init(|| File::from(fd)));
                } else {
                    all.push((key, bytes, own));
                }
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// It is to forget everything, which closes it: comes back when that is done.
    ///
    /// # Errors
    /// As [`Self::give`].
    pub fn forget(&self) -> io::Result<()> {
        let number = monotonic_ns();
        self.send(&ToKeeper::Forget(number), &[])?;
        self.kick();
        self.answer(number, &mut Buffer::default()).map(drop)
    }

    /// The next batch of the answer to a question. What another life has asked for, and did not live to
    /// read, is before it.
    fn answer(&self, to: u64, buffer: &mut Buffer) -> io::Result<(Batch, Vec<OwnedFd>)> {
        loop {
            let mut fds = Vec::new();
            let Buffer { bytes, control } = buffer;
            let (len, flags) = loop {
                match receive_with_fds(self.socket.as_fd(), bytes, control, &mut fds) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.wait(PollFlags::POLLIN)?;
                    }
                    other => break other?,
                }
            };
            if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
                return Err(io::Error::other("what was kept came cut short: out of descriptors?"));
            }
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let batch: Batch = decode(&bytes[..len])?;
            if batch.to == to {
                return Ok((batch, fds));
            }
        }
    }

    /// It is to look at its socket now.
    fn kick(&self) {
        // A keeper of another version looks by itself; a counter that is full wakes it too.
        if let Some(mut kick) = self.kick.get()
            && let Err(error) = kick.write(&1_u64.to_ne_bytes())
        {
            tracing::debug!(%error, "the keeper is not woken");
        }
    }

    fn give_up(&self, error: &io::Error) {
        if !self.broken.swap(true, Ordering::Relaxed) {
            tracing::error!(name: "keeper-failed", %error, "the keeper fails: a restart from here loses what there is");
        }
    }

    fn send_all(&self, entries: Vec<(Key, Change)>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let (mut batch, mut size, mut from, mut to) = (Batch::default(), 0, 0, 0);
        for (key, change) in entries {
            let (len, count) = match &change {
                Change::Drop => (32, 0),
                Change::Put { bytes, fds } => (bytes.len() + 48, usize::from(fds.unwrap_or(0))),
            };
            if to - from + count > MAX_BATCH_FDS || size > FULL_BATCH {
                batch.more = true;
                self.send(&ToKeeper::Batch(std::mem::take(&mut batch)), &raw[from..to])?;
                (from, size) = (to, 0);
            }
            size += len;
            to += count;
            batch.entries.push((key, change));
        }
        self.send(&ToKeeper::Batch(batch), &raw[from..to])
    }

    fn send(&self, message: &ToKeeper, fds: &[RawFd]) -> io::Result<()> {
        let bytes = encode(message)?;
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let parts = [IoSlice::new(&bytes)];
        loop {
            let socket = self.socket.as_raw_fd();
            match sendmsg::<()>(socket, &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => self.wait(PollFlags::POLLOUT)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The keeper only takes in: it is waited for as a disk would be.
    fn wait(&self, what: PollFlags) -> io::Result<()> {
        self.kick();
        loop {
            let mut polled = [PollFd::new(self.socket.as_fd(), what)];
            match poll(&mut polled, PollTimeout::from(PATIENCE_MS)) {
                Err(Errno::EINTR) => {}
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Keeper {
    /// To be kept by the service manager: with it another life of the service takes over.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
