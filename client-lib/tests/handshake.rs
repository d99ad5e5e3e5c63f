//! The first two messages, and all the ways in which they go wrong.

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::{AT, Broker, NOW, connected, pair};
use dmashare::{Connection, Error, ErrorCode, GuardKind, WireError};
use dmashare_proto::message::Welcome;
use dmashare_proto::state_page::{MAGIC, SIZE};
use dmashare_proto::{Event, Reply};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What a client makes of what the broker does after `Hello`.
fn greeted(then: impl FnOnce(&mut Broker, u64)) -> Result<Connection, Error> {
    let (socket, mut broker) = pair();
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let patience = Some(Duration::from_secs(20));
            Connection::builder().name("test").patience(patience).from_fd(socket)
        });
        let (id, hello) = broker.hello();
        assert_eq!(hello.name, "test");
        then(&mut broker, id);
        drop(broker);
        client.join().unwrap()
    })
}

fn welcome(version: u16) -> Reply {
    let backend = GuardKind::SwSync;
    Reply::Welcome(Welcome { version, features: 0, instance: [1; 16], backend })
}

#[test]
fn a_welcome() {
    let (connection, broker) = connected();
    assert_eq!(connection.instance(), [7; 16]);
    assert_eq!(connection.guard_backend(), GuardKind::Simulated);
    assert!(connection.dispatch(NOW).unwrap().is_empty());
    drop(broker);
}

#[test]
fn no_version_in_common() {
    let error = greeted(|broker, id| {
        broker.reply(id, WireError::new(ErrorCode::VERSION, "this broker speaks 2 to 3").into());
    })
    .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::VERSION));
    assert_eq!(error.errno(), libc::EPROTONOSUPPORT);
    assert!(error.to_string().contains("this broker speaks 2 to 3"), "{error}");
}

#[test]
fn a_refusal_before_hello_was_read() {
    let error = greeted(|broker, _| {
        broker.reply(0, WireError::new(ErrorCode::OVER_QUOTA, "256 connections").into());
    })
    .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OVER_QUOTA));
}

#[test]
fn a_version_that_was_not_offered() {
    let error = greeted(|broker, id| {
        broker.reply_with(id, welcome(2), &[broker.page.as_fd()]);
    })
    .unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}

#[test]
fn a_welcome_without_its_page() {
    let error = greeted(|broker, id| broker.reply(id, welcome(1))).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}

#[test]
fn a_page_that_others_can_write() {
    let page = common::plane("dmashare-unsealed", SIZE, 0);
    let error =
        greeted(|broker, id| broker.reply_with(id, welcome(1), &[page.as_fd()])).unwrap_err();
    assert_eq!(error.errno(), libc::EINVAL, "{error:?}");
}

#[test]
fn a_page_that_is_none() {
    let error = greeted(|broker, id| {
        let word = broker.page.atomic_u64(0);
        word.store(!MAGIC, std::sync::atomic::Ordering::Relaxed);
        broker.welcome(id);
    })
    .unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}

#[test]
fn something_else_first() {
    let error = greeted(|broker, _| broker.event(Event::DeviceGone(AT.device))).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    let error = greeted(|broker, id| broker.reply(id, Reply::Done(()))).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    let error = greeted(|broker, _| broker.raw(&[1, 2, 3], &[])).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}

#[test]
fn a_broker_that_leaves() {
    let error = greeted(|_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Disconnected(None)), "{error:?}");
}

#[test]
fn a_broker_that_says_nothing() {
    let (socket, broker) = pair();
    let patience = Some(Duration::from_millis(10));
    let error = Connection::builder().patience(patience).from_fd(socket).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { request: "Hello" }), "{error:?}");
    drop(broker);
}

#[test]
fn nobody_listens() {
    let error = Connection::connect_to("/nonexistent/broker.sock").unwrap_err();
    assert_eq!(error.errno(), libc::ENOENT);
}

#[test]
fn no_seqpacket_socket() {
    let (stream, _peer) = UnixStream::pair().unwrap();
    let error = Connection::from_fd(stream.into()).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    let memfd: OwnedFd = memfd_create("dmashare-no-socket", MFdFlags::MFD_CLOEXEC).unwrap();
    assert_eq!(Connection::from_fd(memfd).unwrap_err().errno(), libc::ENOTSOCK);
}

#[test]
fn a_name_that_would_disturb_a_table() {
    let (socket, _broker) = pair();
    let error = Connection::builder().name("two\nlines").from_fd(socket).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
}
