//! The transport, over real sockets. Tests of one binary are threads of one process, and some of
//! these count its descriptors: they run one at a time.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use dmashare_proto::limits::{MAX_FDS, MAX_MESSAGE};
use dmashare_proto::transport::{Buffer, Received, connect_to, send};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    listen, sendmsg, socket, socketpair,
};
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, pipe};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Past `send`, which refuses more than the limit.
fn send_raw(to: &OwnedFd, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let part = [std::io::IoSlice::new(bytes)];
    sendmsg::<()>(to.as_raw_fd(), &part, control, MsgFlags::empty(), None).unwrap();
}

fn inode(fd: BorrowedFd<'_>) -> u64 {
    fstat(fd).unwrap().st_ino
}

#[test]
fn descriptors_arrive_in_order_and_close_on_exec() {
    let _alone = alone();
    let before = open_fds();
    {
        let (ours, theirs) = pair();
        let pipes: Vec<_> = (0..MAX_FDS / 2).map(|_| pipe().unwrap()).collect();
        let sent: Vec<BorrowedFd<'_>> =
            pipes.iter().flat_map(|(read, write)| [read.as_fd(), write.as_fd()]).collect();
        assert_eq!(sent.len(), MAX_FDS);
        send(ours.as_fd(), b"eight", &sent).unwrap();

        let mut buffer = Buffer::default();
        let Received::Datagram(len, fds) = buffer.receive(theirs.as_fd()).unwrap() else {
            panic!("no datagram");
        };
        assert_eq!(buffer.bytes(len), b"eight");
        let inodes = |fds: &[BorrowedFd<'_>]| fds.iter().map(|fd| inode(*fd)).collect::<Vec<_>>();
        let came: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        assert_eq!(inodes(&came), inodes(&sent));
        for fd in &fds {
            let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
    }
    assert_eq!(open_fds(), before);
}

#[test]
fn a_datagram_keeps_its_bounds() {
    let _alone = alone();
    let (ours, theirs) = pair();
    send(ours.as_fd(), b"one", &[]).unwrap();
    send(ours.as_fd(), b"second", &[]).unwrap();
    let mut buffer = Buffer::default();
    for expected in [&b"one"[..], b"second"] {
        match buffer.receive(theirs.as_fd()).unwrap() {
            Received::Datagram(len, fds) => {
                assert_eq!(buffer.bytes(len), expected);
                assert!(fds.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_longest_datagram_arrives_and_a_longer_one_is_truncated() {
    let _alone = alone();
    let (ours, theirs) = pair();
    let mut buffer = Buffer::default();
    let before = open_fds();
    send_raw(&ours, &vec![7; MAX_MESSAGE], &[]);
    assert!(matches!(
        buffer.receive(theirs.as_fd()).unwrap(),
        Received::Datagram(MAX_MESSAGE, fds) if fds.is_empty()
    ));
    send_raw(&ours, &vec![7; MAX_MESSAGE + 1], &[ours.as_raw_fd(), theirs.as_raw_fd()]);
    assert!(matches!(buffer.receive(theirs.as_fd()).unwrap(), Received::Truncated));
    assert_eq!(open_fds(), before, "what came beside it is closed");
}

#[test]
fn sending_too_many_descriptors_is_refused_here() {
    let _alone = alone();
    let (ours, theirs) = pair();
    let many = [ours.as_fd(); MAX_FDS + 1];
    assert_eq!(send(ours.as_fd(), b"x", &many).unwrap_err().kind(), ErrorKind::InvalidInput);
    let nothing = Buffer::default().receive(theirs.as_fd()).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "nothing went out");
}

#[test]
fn a_peer_that_sends_too_many_is_received_whole() {
    let _alone = alone();
    let (ours, theirs) = pair();
    let mut buffer = Buffer::default();
    let before = open_fds();
    // The most that a kernel passes: what the codec refuses by number must not be cut here.
    for count in [MAX_FDS + 1, 253] {
        send_raw(&ours, b"many", &vec![ours.as_raw_fd(); count]);
        match buffer.receive(theirs.as_fd()).unwrap() {
            Received::Datagram(4, fds) => assert_eq!(fds.len(), count),
            other => panic!("{other:?}"),
        }
        assert_eq!(open_fds(), before);
    }
}

/// With our own limit of open files reached the kernel installs what fits and sets MSG_CTRUNC.
#[test]
fn cut_descriptors_are_a_truncation_and_do_not_leak() {
    let _alone = alone();
    // SAFETY: the child runs on its own copy of this thread alone. It allocates, which glibc keeps
    // safe after fork, takes no lock of the parent's, and leaves by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let ok = std::panic::catch_unwind(|| {
                let (ours, theirs) = pair();
                let mut buffer = Buffer::default();
                send_raw(&ours, b"cut", &[ours.as_raw_fd(); 20]);
                send_raw(&ours, b"none", &[ours.as_raw_fd(); 3]);
                let before = open_fds();
                let lowest = ours.as_fd().try_clone_to_owned().unwrap().as_raw_fd();
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
                // Room for five of twenty, then for none of three.
                for room in [5, 0] {
                    let limit = u64::try_from(lowest).unwrap() + room;
                    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
                    assert!(matches!(buffer.receive(theirs.as_fd()).unwrap(), Received::Truncated));
                }
                setrlimit(Resource::RLIMIT_NOFILE, hard.min(1024), hard).unwrap();
                assert_eq!(open_fds(), before);
            })
            .is_ok();
            // SAFETY: it ends the process and touches nothing.
            unsafe { libc::_exit(if ok { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
}

#[test]
fn no_datagram_would_block() {
    let _alone = alone();
    let (_ours, theirs) = pair();
    let error = Buffer::default().receive(theirs.as_fd()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_peer_that_does_not_read_would_block_and_loses_nothing() {
    let _alone = alone();
    let (ours, theirs) = pair();
    let mut sent = 0_usize;
    let error = loop {
        match send(ours.as_fd(), &sent.to_le_bytes(), &[ours.as_fd()]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let mut buffer = Buffer::default();
    for i in 0..sent {
        match buffer.receive(theirs.as_fd()).unwrap() {
            Received::Datagram(len, fds) => {
                assert_eq!((buffer.bytes(len), fds.len()), (&i.to_le_bytes()[..], 1));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_closed_peer_is_closed_and_cannot_be_sent_to() {
    let _alone = alone();
    let (ours, theirs) = pair();
    send(ours.as_fd(), b"last words", &[]).unwrap();
    drop(ours);
    let mut buffer = Buffer::default();
    assert!(matches!(buffer.receive(theirs.as_fd()).unwrap(), Received::Datagram(10, _)));
    for _ in 0..2 {
        assert!(matches!(buffer.receive(theirs.as_fd()).unwrap(), Received::Closed));
    }
    let error = send(theirs.as_fd(), b"hello?", &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "and no SIGPIPE");
}

/// The broker answers a client's mistake and hangs up with further requests unread: the kernel then
/// reports ECONNRESET before the answer that waits in the client's queue.
#[test]
fn the_last_words_of_a_peer_that_left_requests_unread_arrive() {
    let _alone = alone();
    let (broker, client) = pair();
    send(client.as_fd(), b"never read", &[]).unwrap();
    let (beside, _) = pipe().unwrap();
    send(broker.as_fd(), b"why", &[beside.as_fd()]).unwrap();
    drop(broker);
    let mut buffer = Buffer::default();
    match buffer.receive(client.as_fd()).unwrap() {
        Received::Datagram(len, fds) => {
            assert_eq!((buffer.bytes(len), fds.len()), (&b"why"[..], 1));
        }
        other => panic!("the answer is lost: {other:?}"),
    }
    assert!(matches!(buffer.receive(client.as_fd()).unwrap(), Received::Closed));
}

#[test]
fn an_empty_datagram_is_the_end() {
    let _alone = alone();
    let (ours, theirs) = pair();
    let mut buffer = Buffer::default();
    let before = open_fds();
    send_raw(&ours, b"", &[]);
    assert!(matches!(buffer.receive(theirs.as_fd()).unwrap(), Received::Closed));
    // With descriptors it can be told from an end; it is no message all the same.
    send_raw(&ours, b"", &[ours.as_raw_fd()]);
    assert!(matches!(
        buffer.receive(theirs.as_fd()).unwrap(),
        Received::Datagram(0, fds) if fds.len() == 1
    ));
    assert_eq!(open_fds(), before);
}

#[test]
fn connecting_to_a_listener_and_to_nothing() {
    let _alone = alone();
    let folder = std::env::temp_dir().join(format!("dmashare-transport-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("broker.sock");
    assert_eq!(connect_to(&path).unwrap_err().kind(), ErrorKind::NotFound);

    let listener =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(4).unwrap()).unwrap();
    let client = connect_to(&path).unwrap();
    let flags = FdFlag::from_bits_retain(fcntl(&client, FcntlArg::F_GETFD).unwrap());
    assert!(flags.contains(FdFlag::FD_CLOEXEC));
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).unwrap();
    // SAFETY: accept4 made it just now, and nobody else knows it.
    let broker: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) };
    send(client.as_fd(), b"hi", &[]).unwrap();
    assert!(matches!(Buffer::default().receive(broker.as_fd()).unwrap(), Received::Datagram(2, _)));
    drop((listener, broker));
    assert_eq!(connect_to(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    std::fs::remove_dir_all(&folder).unwrap();
}
