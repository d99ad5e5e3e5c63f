//! Fences: what the kernel shows, and what the broker is asked for.

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use common::{AT, Broker, DEVICE, NOW, SOON, connected};
use dmashare::{
    Access, Cause, Connection, DeviceState, Error, ErrorCode, FenceStatus, GuardKind,
    ImportedFence, ObjectId, Token, WireError,
};
use dmashare_proto::message::{self, AttachFence, FenceImported, FenceState};
use dmashare_proto::{Reply, Request};
use nix::sys::eventfd::{EfdFlags, EventFd};

const FENCE: ObjectId = ObjectId(51);
const OK: FenceState = FenceState::Ok { at_ns: 5 };

/// Imports a fence; `fd` is there while it is pending.
fn imported(
    connection: &Connection,
    broker: &mut Broker,
    guard: GuardKind,
    state: FenceState,
    fd: Option<&EventFd>,
) -> ImportedFence {
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.import_fence(Token::from([2; 16])));
        let (id, request) = broker.request();
        assert!(matches!(request, Request::ImportFence(_)), "{request:?}");
        let reply = Reply::FenceImported(FenceImported { fence: FENCE, at: AT, guard, state });
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        broker.reply_with(id, reply, &fds);
        client.join().unwrap().unwrap()
    })
}

fn pending(
    connection: &Connection,
    broker: &mut Broker,
    guard: GuardKind,
) -> (ImportedFence, EventFd) {
    let source = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    (imported(connection, broker, guard, FenceState::Pending, Some(&source)), source)
}

/// Waits, and answers the one question that comes of it.
fn asked(fence: &ImportedFence, broker: &mut Broker, answer: Reply) -> Result<FenceStatus, Error> {
    thread::scope(|scope| {
        let client = scope.spawn(|| fence.wait(SOON));
        let (id, request) = broker.request();
        assert_eq!(request, Request::QueryFence(FENCE));
        broker.reply(id, answer);
        client.join().unwrap()
    })
}

fn failed(cause: Cause) -> FenceState {
    FenceState::Failed { cause, at_ns: 7 }
}

#[test]
fn the_broker_says_how_a_simulated_fence_ended() {
    let (connection, mut broker) = connected();
    for guard in [GuardKind::Simulated, GuardKind::Vgem, GuardKind::Source] {
        let (fence, source) = pending(&connection, &mut broker, guard);
        assert_eq!(fence.status().unwrap(), FenceStatus::Pending);
        assert!(broker.try_request().is_none(), "pending needs no question");
        source.write(1).unwrap();
        let status = asked(&fence, &mut broker, Reply::FenceState(OK)).unwrap();
        assert_eq!(status, FenceStatus::Ok { at: Duration::from_nanos(5) });
        drop(fence);
        broker.expect_done(&Request::Release(FENCE));
    }
}

#[test]
fn a_waiter_wakes_with_the_cause() {
    let (connection, mut broker) = connected();
    let causes = [
        (Cause::Unplugged, libc::ENODEV),
        (Cause::TimedOut, libc::ETIMEDOUT),
        (Cause::Wedged, libc::EIO),
        (Cause::Exporter(libc::ECANCELED), libc::ECANCELED),
    ];
    for (cause, errno) in causes {
        let (fence, source) = pending(&connection, &mut broker, GuardKind::Simulated);
        let status = thread::scope(|scope| {
            let waiter = scope.spawn(|| fence.wait(None).unwrap());
            source.write(1).unwrap();
            let (id, _) = broker.request();
            broker.reply(id, Reply::FenceState(failed(cause)));
            waiter.join().unwrap()
        });
        let FenceStatus::Failed(error) = status else { panic!("{status:?}") };
        assert_eq!((error.fence, error.device, error.errno()), (FENCE, DEVICE, errno));
        assert_eq!((error.cause, error.at), (Some(cause), Some(Duration::from_nanos(7))));
        assert!(error.to_string().contains("fence 51"), "{error}");
        assert_eq!(std::io::Error::from(error).raw_os_error(), Some(errno));
        drop(fence);
        broker.expect_done(&Request::Release(FENCE));
    }
}

#[test]
fn one_that_ended_before_has_no_fd_and_asks_nobody() {
    let (connection, mut broker) = connected();
    let fence = imported(&connection, &mut broker, GuardKind::SwSync, OK, None);
    assert!(fence.fd().is_none() && fence.dup_fd().unwrap().is_none());
    assert!(matches!(fence.wait(None).unwrap(), FenceStatus::Ok { .. }));
    let state = failed(Cause::Exporter(5));
    let fence = imported(&connection, &mut broker, GuardKind::SwSync, state, None);
    assert!(matches!(fence.status().unwrap(), FenceStatus::Failed(error) if error.errno() == 5));
    assert!(fence.into_fd().is_none());
}

#[test]
fn the_time_is_kept() {
    let (connection, mut broker) = connected();
    let (fence, _source) = pending(&connection, &mut broker, GuardKind::Vgem);
    let time = Duration::from_millis(20);
    let before = Instant::now();
    assert_eq!(fence.wait(Some(time)).unwrap(), FenceStatus::Pending);
    assert!(before.elapsed() >= time);
}

#[test]
fn a_guard_that_ended_before_its_fence_timed_out() {
    let (connection, mut broker) = connected();
    let (fence, source) = pending(&connection, &mut broker, GuardKind::Vgem);
    source.write(1).unwrap();
    let answer = Reply::FenceState(FenceState::Pending);
    let FenceStatus::Failed(error) = asked(&fence, &mut broker, answer).unwrap() else { panic!() };
    assert_eq!((error.errno(), error.cause), (libc::ETIMEDOUT, None));
}

#[test]
fn a_fence_that_was_lost_with_its_device_failed() {
    let (connection, mut broker) = connected();
    let (fence, source) = pending(&connection, &mut broker, GuardKind::Vgem);
    source.write(1).unwrap();
    let answer = WireError::new(ErrorCode::DEVICE_LOST, "device 3 is lost").into();
    let FenceStatus::Failed(error) = asked(&fence, &mut broker, answer).unwrap() else { panic!() };
    assert_eq!(error.errno(), libc::ENODEV);
}

#[test]
fn a_passed_source_of_a_lost_device_is_asked_about_while_it_pends() {
    let (connection, mut broker) = connected();
    let (fence, _source) = pending(&connection, &mut broker, GuardKind::Source);
    assert_eq!(fence.wait(NOW).unwrap(), FenceStatus::Pending);
    broker.set(AT, DeviceState::Lost);
    let status = thread::scope(|scope| {
        let client = scope.spawn(|| fence.status().unwrap());
        let (id, _) = broker.request();
        broker.reply(id, Reply::FenceState(failed(Cause::Unplugged)));
        client.join().unwrap()
    });
    assert!(matches!(status, FenceStatus::Failed(error) if error.errno() == libc::ENODEV));
}

#[test]
fn one_is_put_into_a_buffer() {
    let (connection, mut broker) = connected();
    let (fence, _source) = pending(&connection, &mut broker, GuardKind::SwSync);
    let buffer = common::import(&connection, &mut broker, 21, "dmashare-attach");
    let accesses = [
        (Access::Read, message::Access::Read),
        (Access::Write, message::Access::Write),
        (Access::ReadWrite, message::Access::Write),
    ];
    for (access, wire) in accesses {
        thread::scope(|scope| {
            let client = scope.spawn(|| connection.attach(&fence, &buffer, access));
            let attach = AttachFence { fence: FENCE, buffer: buffer.id(), access: wire };
            broker.expect_done(&Request::AttachFence(attach));
            client.join().unwrap().unwrap();
        });
    }
}

#[test]
fn without_its_broker_only_the_kernel_can_tell() {
    let (connection, mut broker) = connected();
    let (fence, source) = pending(&connection, &mut broker, GuardKind::Vgem);
    drop(broker);
    assert_eq!(fence.status().unwrap(), FenceStatus::Pending);
    source.write(1).unwrap();
    assert!(fence.wait(SOON).unwrap_err().is_disconnected());
}

#[test]
fn its_fd_can_be_taken() {
    let (connection, mut broker) = connected();
    let (fence, source) = pending(&connection, &mut broker, GuardKind::SwSync);
    let dup: OwnedFd = fence.dup_fd().unwrap().unwrap();
    assert!(fence.fd().is_some());
    let taken = fence.into_fd().unwrap();
    assert_eq!(broker.request().1, Request::Release(FENCE));
    source.write(1).unwrap();
    for fd in [dup, taken] {
        assert!(dmashare_uapi::sync_file::wait(fd.as_fd(), SOON).unwrap());
    }
}

#[test]
fn an_fd_where_none_belongs_ends_the_connection() {
    for (state, count) in [(OK, 1), (FenceState::Pending, 0), (FenceState::Pending, 2)] {
        let (connection, mut broker) = connected();
        let fd = EventFd::new().unwrap();
        thread::scope(|scope| {
            let client = scope.spawn(|| connection.import_fence(Token::from([2; 16])));
            let (id, _) = broker.request();
            let guard = GuardKind::Simulated;
            let reply = Reply::FenceImported(FenceImported { fence: FENCE, at: AT, guard, state });
            broker.reply_with(id, reply, &vec![fd.as_fd(); count]);
            assert!(matches!(client.join().unwrap(), Err(Error::Protocol(_))));
        });
        assert!(connection.is_closed());
    }
}
