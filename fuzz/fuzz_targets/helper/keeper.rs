//! The keeper, over a real socket: what it gives back is what it had between two whole batches, and
//! nothing of it is left when the connection has ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use dmashare_helpers::keeper;
use dmashare_proto::fd_passing::{CONTROL_WORDS, receive_with_fds};
use dmashare_proto::keeper::{Batch, Change, KICK, Key, MAX_BATCH, ToKeeper, decode};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, sendmsg, shutdown,
    socketpair,
};

/// Datagrams of one input.
const DATAGRAMS: usize = 16;

/// Datagrams follow each other: how many descriptors, the length in two bytes, the bytes.
fn datagrams(mut bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut all = Vec::new();
    while let [fds, low, high, rest @ ..] = bytes
        && all.len() < DATAGRAMS
    {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (datagram, after) = rest.split_at(len);
        all.push((usize::from(*fds % 12), datagram));
        bytes = after;
    }
    all
}

/// To which question, and all records: their bytes, and how many descriptors they have.
type Answer = (u64, BTreeMap<Key, (Vec<u8>, usize)>);

/// What the keeper is to answer, and whether it gets so far as the connection's end.
#[derive(Default)]
struct Expected {
    held: BTreeMap<Key, (Vec<u8>, usize)>,
    staged: Vec<(Key, Change)>,
    answers: Vec<Answer>,
    well: bool,
}

impl Expected {
    fn of(datagrams: &[(usize, &[u8])]) -> Self {
        let mut this = Self::default();
        this.well = datagrams.iter().try_for_each(|(fds, bytes)| this.hear(*fds, bytes)).is_some();
        this
    }

    fn hear(&mut self, fds: usize, bytes: &[u8]) -> Option<()> {
        match decode::<ToKeeper>(bytes).ok()? {
            ToKeeper::Batch(Batch { more, entries, .. }) => {
                let count = |change: &Change| match change {
                    Change::Put { fds, .. } => usize::from(fds.unwrap_or(0)),
                    Change::Drop => 0,
                };
                if entries.iter().map(|(_, change)| count(change)).sum::<usize>() != fds {
                    return None;
                }
                self.staged.extend(entries);
                if !more {
                    self.take_in();
                }
            }
            ToKeeper::Now(keys) => keys.iter().for_each(|key| drop(self.held.remove(key))),
            ToKeeper::Give(to) => {
                self.staged.clear();
                self.answers.push((to, self.held.clone()));
            }
            ToKeeper::Forget(to) => {
                self.staged.clear();
                self.held.clear();
                self.answers.push((to, BTreeMap::new()));
            }
        }
        Some(())
    }

    fn take_in(&mut self) {
        for (key, change) in self.staged.drain(..) {
            match change {
                Change::Drop => drop(self.held.remove(&key)),
                Change::Put { bytes, fds: None } => self.held.entry(key).or_default().0 = bytes,
                Change::Put { bytes, fds: Some(fds) } => {
                    self.held.insert(key, (bytes, fds.into()));
                }
            }
        }
    }
}

/// Gives a keeper these datagrams, and holds what it says against what it was given.
pub fn serve(bytes: &[u8]) {
    let before = open();
    let datagrams = datagrams(bytes);
    let expected = Expected::of(&datagrams);
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("two sockets");
    let server = std::thread::spawn(move || keeper::serve(theirs.as_fd()).is_ok());
    let answers = std::thread::scope(|scope| {
        let answers = scope.spawn(|| receive(&ours));
        let file = fs::File::open("/dev/null").expect("it is there");
        for (count, bytes) in datagrams {
            let fds: Vec<RawFd> = vec![file.as_raw_fd(); count];
            let rights = [ControlMessage::ScmRights(&fds)];
            let control = if fds.is_empty() { &[][..] } else { &rights[..] };
            let parts = [IoSlice::new(bytes)];
            // One that has had enough does not listen any more; one of nothing is an end to it.
            let sent =
                sendmsg::<()>(ours.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None);
            if sent.is_err() {
                break;
            }
        }
        _ = shutdown(ours.as_raw_fd(), Shutdown::Write);
        answers.join().expect("it receives")
    });
    let well = server.join().expect("the keeper does not panic");
    assert!(well || !expected.well, "it gave up what was right");
    // A datagram of nothing ends a connection, as its end does: what follows is not heard.
    for ((to, mut given), (asked, mut wanted)) in answers.into_iter().zip(expected.answers) {
        // Its own, beside one of that name which it may have been given.
        given.remove(&KICK);
        wanted.remove(&KICK);
        assert_eq!((to, given), (asked, wanted), "it gives what it had");
    }
    drop(ours);
    // Its thread that closes may be at it still.
    while open() > before {
        std::thread::yield_now();
    }
}

/// Whole answers, to the end.
fn receive(socket: &OwnedFd) -> Vec<Answer> {
    let (mut bytes, mut control) = (vec![0; MAX_BATCH], vec![0; CONTROL_WORDS]);
    let (mut all, mut answer) = (Vec::new(), BTreeMap::new());
    loop {
        let mut fds = Vec::new();
        // It has closed with something unread: what it has said is there all the same.
        let got = receive_with_fds(socket.as_fd(), &mut bytes, &mut control, &mut fds);
        let Ok((len, flags)) = got else { continue };
        if len == 0 {
            return all;
        }
        assert_eq!(flags & (nix::libc::MSG_TRUNC | nix::libc::MSG_CTRUNC), 0);
        let batch: Batch = decode(&bytes[..len]).expect("the keeper's answers are whole");
        let mut count = 0;
        for (key, change) in batch.entries {
            let Change::Put { bytes, fds: Some(fds) } = change else { panic!("it gives records") };
            count += usize::from(fds);
            answer.insert(key, (bytes, fds.into()));
        }
        assert_eq!(count, fds.len(), "descriptors are beside their records");
        if !batch.more {
            all.push((batch.to, std::mem::take(&mut answer)));
        }
    }
}

/// Descriptors of this process.
fn open() -> usize {
    fs::read_dir("/proc/self/fd").expect("it is there").count()
}
