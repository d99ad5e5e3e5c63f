//! `Connect()`: a socket for whoever calls, with the caller's credentials.

use std::os::fd::AsRawFd;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, send, sockopt};
use nix::unistd::{getpid, getuid};
use zbus::zvariant;

use super::*;

#[tokio::test]
async fn the_caller_gets_a_socket_and_the_shell_its_other_end() {
    let Some(mut stage) = Stage::set().await else { return };
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    let theirs: zvariant::OwnedFd = within(broker.call("Connect", &())).await.unwrap();
    let request = within(stage.face.connects.recv()).await.unwrap();
    assert_eq!((request.uid, request.pid), (getuid().as_raw(), getpid().as_raw()));
    assert_eq!(getsockopt(&theirs, sockopt::SockType).unwrap(), SockType::SeqPacket);
    for fd in [Some(&request.socket), request.pidfd.as_ref()].into_iter().flatten() {
        let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
    let mode = |fd: &dyn AsRawFd| {
        // SAFETY: the caller holds the descriptor for the call.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap())
    };
    assert!(mode(&request.socket).contains(OFlag::O_NONBLOCK));
    assert!(!mode(&theirs).contains(OFlag::O_NONBLOCK));

    let mut buffer = [0; 8];
    for (from, to) in [
        (request.socket.as_raw_fd(), theirs.as_raw_fd()),
        (theirs.as_raw_fd(), request.socket.as_raw_fd()),
    ] {
        send(from, b"one", MsgFlags::empty()).unwrap();
        send(from, b"two", MsgFlags::empty()).unwrap();
        let len = recv(to, &mut buffer, MsgFlags::empty()).unwrap();
        assert_eq!(&buffer[..len], b"one", "datagrams stay apart");
        recv(to, &mut buffer, MsgFlags::empty()).unwrap();
    }
    drop(request);
    assert_eq!(recv(theirs.as_raw_fd(), &mut buffer, MsgFlags::empty()), Ok(0));
}

#[tokio::test]
async fn a_broker_that_stops_takes_nobody() {
    let Some(mut stage) = Stage::set().await else { return };
    stage.face.connects.close();
    let broker = zbus::Proxy::new(&stage.client, NAME, ROOT, NAME).await.unwrap();
    match within(broker.call::<_, _, zvariant::OwnedFd>("Connect", &())).await {
        Err(zbus::Error::MethodError(name, why, _)) => {
            assert_eq!(name.as_str(), "org.dmashare.Error.Stopping");
            assert_eq!(why.as_deref(), Some("the broker is stopping"));
        }
        other => panic!("{other:?}"),
    }
}
