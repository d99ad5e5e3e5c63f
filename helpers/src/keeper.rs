//! Holds what the broker gives it, until the last end of the connection is closed: the broker's own, and
//! the copy of it in the service manager's store. Then nobody will come for it, and everything is closed,
//! which ends every guard.
//!
//! It knows nothing of what it holds. What it holds is what it had between two whole batches.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Sender, channel};

use dmashare_proto::fd_passing::{CONTROL_WORDS, receive_with_fds};
use dmashare_proto::keeper::{
    Batch, Change, FULL_BATCH, IN_PLACE, Key, MAX_BATCH, MAX_BATCH_FDS, ToKeeper, decode, encode,
};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// The records, and the way to close what they had.
struct Held {
    records: BTreeMap<Key, Record>,
    closer: Sender<Vec<OwnedFd>>,
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
    let mut held = Held { records: BTreeMap::new(), closer };
    let result = held.serve(socket);
    drop(held);
    // What hangs in a driver's hands is the kernel's from here.
    drop(thread);
    result
}

impl Held {
    fn serve(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (mut bytes, mut control) = (vec![0; MAX_BATCH], vec![0; CONTROL_WORDS]);
        let mut staged = Vec::new();
        loop {
            let mut fds = Vec::new();
            let (len, flags) = receive_with_fds(socket, &mut bytes, &mut control, &mut fds)?;
            if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
                return Err(io::Error::other("a batch was cut short"));
            }
            if len == 0 && fds.is_empty() {
                return Ok(());
            }
            match decode(&bytes[..len])? {
                ToKeeper::Batch(batch) => {
                    let more = batch.more;
                    stage(batch, fds, &mut staged)?;
                    if !more {
                        self.take_in(&mut staged)?;
                    }
                }
                ToKeeper::Now(keys) => {
                    for key in keys {
                        self.records.remove(&key);
                    }
                }
                ToKeeper::Give(to) => {
                    // Half a batch is of a broker that died within it.
                    staged.clear();
                    self.give(socket, to)?;
                }
                ToKeeper::Forget(to) => {
                    staged.clear();
                    self.records.clear();
                    send(socket, &Batch { to, ..Batch::default() }, &[])?;
                }
            }
        }
    }

    fn take_in(&mut self, staged: &mut Vec<Staged>) -> io::Result<()> {
        for (key, change) in staged.drain(..) {
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
            let Some(former) = former.filter(|fds| !fds.is_empty()) else { continue };
            if key.0 & IN_PLACE != 0 {
                drop(former);
            } else {
                self.closer.send(former).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn give(&self, socket: BorrowedFd<'_>, to: u64) -> io::Result<()> {
        let pid = std::process::id();
        let (mut entries, mut fds, mut size) = (Vec::new(), Vec::new(), 0);
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
            // Too many are in flight: the reader takes some out.
            Err(Errno::ETOOMANYREFS) => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}
