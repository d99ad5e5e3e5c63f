//! Holds what the broker gives it, until the last end of the connection is closed: the broker's own, and
//! the copy of it in the service manager's store. Then nobody will come for it, and everything is closed,
//! which ends every guard.
//!
//! It knows nothing of what it holds. What it holds is what it had between two whole batches.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Sender, channel};

use dmashare_proto::fd_passing::{CONTROL_WORDS, receive_with_fds};
use dmashare_proto::keeper::{
    Batch, Change, FULL_BATCH, IN_PLACE, KICK, Key, LULL_MS, MAX_BATCH, MAX_BATCH_FDS, ToKeeper,
    decode, encode,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// The records, and the way to close what they had.
struct Held {
    records: BTreeMap<Key, Record>,
    /// Half a batch, while the other half is on its way.
    staged: Vec<Staged>,
    /// What is to be closed, until the closer is told.
    former: Vec<OwnedFd>,
    closer: Sender<Vec<OwnedFd>>,
    kick: EventFd,
}

/// So many descriptors that are to be closed do not wait for company.
const MANY: usize = 64;

/// What was in the socket.
enum Taken {
    Nothing,
    Some,
    /// The connection's end.
    Last,
}

/// Serves one connection to its end.
///
/// # Errors
/// The socket fails, or what comes makes no sense: then nothing can be trusted, and the broker, which sees
/// the connection end, gives everything anew to another one.
pub fn serve(socket: BorrowedFd<'_>) -> io::Result<()> {
    // A driver may take its time to close what is its own; a guard that is to end does not wait for it.
    let (closer, closing) = channel::<Vec<OwnedFd>>();
    let thread = std::thread::Builder::new()
        .name("closer".to_owned())
        .spawn(move || closing.into_iter().for_each(drop))?;
    let kick = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    fcntl(socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let (records, staged, former) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut held = Held { records, staged, former, closer, kick };
    let result = held.serve(socket);
    drop(held);
    // What hangs in a driver's hands is the kernel's from here.
    drop(thread);
    result
}

impl Held {
    fn serve(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (mut bytes, mut control) = (vec![0; MAX_BATCH], vec![0; CONTROL_WORDS]);
        loop {
            let taken = self.take_some(socket, &mut bytes, &mut control)?;
            if !self.former.is_empty() {
                self.close_former()?;
            }
            match taken {
                Taken::Last => return Ok(()),
                Taken::Some => self.wait(None)?,
                Taken::Nothing => self.wait(Some(socket))?,
            }
        }
    }

    /// Waits for a kick: with a socket also for that, else for a while.
    fn wait(&self, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut polled = vec![PollFd::new(self.kick.as_fd(), PollFlags::POLLIN)];
        polled.extend(socket.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
        let end = if socket.is_some() { PollTimeout::NONE } else { PollTimeout::from(LULL_MS) };
        match poll(&mut polled, end) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if polled[0].any() == Some(false) {
            return Ok(());
        }
        match self.kick.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in what is in the socket.
    fn take_some(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &mut [u8],
        control: &mut [u64],
    ) -> io::Result<Taken> {
        let mut taken = Taken::Nothing;
        loop {
            let mut fds = Vec::new();
            let (len, flags) = match receive_with_fds(socket, bytes, control, &mut fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
                other => other?,
            };
            if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
                return Err(io::Error::other("a batch was cut short"));
            }
            if len == 0 && fds.is_empty() {
                return Ok(Taken::Last);
            }
            taken = Taken::Some;
            match decode(&bytes[..len])? {
                ToKeeper::Batch(batch) => {
                    let more = batch.more;
                    stage(batch, fds, &mut self.staged)?;
                    if !more {
                        self.take_in()?;
                    }
                }
                ToKeeper::Now(keys) => {
                    for key in keys {
                        self.records.remove(&key);
                    }
                }
                ToKeeper::Give(to) => {
                    // Half a batch is of a broker that died within it.
                    self.staged.clear();
                    self.give(socket, to)?;
                }
                ToKeeper::Forget(to) => {
                    self.staged.clear();
                    self.records.clear();
                    send(socket, &Batch { to, ..Batch::default() }, &[])?;
                }
            }
        }
    }

    fn take_in(&mut self) -> io::Result<()> {
        for (key, change) in self.staged.drain(..) {
            let former = match change {
                None => self.records.remove(&key).map(|record| record.fds),
                Some((bytes, None)) => {
                    self.records.entry(key).or_default().bytes = bytes;
                    None
                }
                Some((bytes, Some(fds))) => {
                    self.records.insert(key, Record { bytes, fds }).map(|record| record.fds)
                }
            };
            // Those of a kind that does not take long are closed here.
            if key.0 & IN_PLACE == 0 {
                self.former.extend(former.into_iter().flatten());
            }
        }
        if self.former.len() >= MANY {
            self.close_former()?;
        }
        Ok(())
    }

    fn close_former(&mut self) -> io::Result<()> {
        self.closer.send(std::mem::take(&mut self.former)).map_err(io::Error::other)
    }

    fn give(&self, socket: BorrowedFd<'_>, to: u64) -> io::Result<()> {
        let pid = std::process::id();
        let kick = Change::Put { bytes: Vec::new(), fds: Some(1) };
        let (mut entries, mut fds, mut size) =
            (vec![(KICK, kick)], vec![self.kick.as_fd().as_raw_fd()], 0);
        for (&key, record) in &self.records {
            let len = record.bytes.len() + 64;
            if fds.len() + record.fds.len() > MAX_BATCH_FDS || size > FULL_BATCH {
                let entries = std::mem::take(&mut entries);
                send(socket, &Batch { more: true, pid, to, entries }, &fds)?;
                fds.clear();
                size = 0;
            }
            size += len;
            fds.extend(record.fds.iter().map(AsRawFd::as_raw_fd));
            let count = u8::try_from(record.fds.len()).map_err(io::Error::other)?;
            entries.push((key, Change::Put { bytes: record.bytes.clone(), fds: Some(count) }));
        }
        send(socket, &Batch { more: false, pid, to, entries }, &fds)
    }
}

/// A change with its descriptors: nothing is a drop; without descriptors those that are there stay.
type Staged = (Key, Option<(Vec<u8>, Option<Vec<OwnedFd>>)>);

fn stage(batch: Batch, fds: Vec<OwnedFd>, staged: &mut Vec<Staged>) -> io::Result<()> {
    let mut fds = fds.into_iter();
    for (key, change) in batch.entries {
        staged.push((
            key,
            match change {
                Change::Drop => None,
                Change::Put { bytes, fds: None } => Some((bytes, None)),
                Change::Put { bytes, fds: Some(count) } => {
                    let own: Vec<_> = fds.by_ref().take(count.into()).collect();
                    if own.len() != usize::from(count) {
                        return Err(io::Error::other("a batch has too few descriptors"));
                    }
                    Some((bytes, Some(own)))
                }
            },
        ));
    }
    match fds.next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("a batch has too many descriptors")),
    }
}

fn send(socket: BorrowedFd<'_>, batch: &Batch, fds: &[RawFd]) -> io::Result<()> {
    let bytes = encode(batch)?;
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(&bytes)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut polled = [PollFd::new(socket, PollFlags::POLLOUT)];
                match poll(&mut polled, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // Too many are in flight: the reader takes some out.
            Err(Errno::ETOOMANYREFS) => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}
