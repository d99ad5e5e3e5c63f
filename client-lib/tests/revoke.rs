//! What a loss takes back, and what the owner is told.

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use common::{
    AT, DEVICE, NOW, SOON, connected, import, imported, is_lost, lost_event, mappings, open_fds,
    plane,
};
use dmashare::{
    Access, Cause, Connection, DeviceState, Error, Event, Importer, Lost, MappedBuffer, ObjectId,
    Protection, Token,
};
use dmashare_proto::{Reply, Request};

/// The loss that is the next event.
fn lost(connection: &Connection) -> Lost {
    let mut events = connection.dispatch(SOON).unwrap();
    match (events.pop(), events.is_empty()) {
        (Some(Event::DeviceLost(lost)), true) => lost,
        other => panic!("{other:?}"),
    }
}

fn bytes(mapped: &MappedBuffer) -> Vec<u8> {
    let mut bytes = vec![1; mapped.len()];
    mapped.copy_to_slice(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn everything_is_taken_back_at_once() {
    let name = "dmashare-everything";
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 21, name);
    assert_eq!((open_fds(name), mappings(name)), (1, 0));
    assert_eq!((buffer.buffer(), buffer.sizes()), (ObjectId(17), &[8192][..]));
    let whole = buffer.map(0, Protection::Read).unwrap();
    let part = buffer.map_range(0, 4096, 4096, Protection::ReadWrite).unwrap();
    assert_eq!(mappings(name), 2);
    let bracket = part.begin(Access::Write).unwrap();
    part.copy_from_slice(1, &[0xbb]).unwrap();
    bracket.end().unwrap();
    assert_eq!((bytes(&whole)[4096], bytes(&whole)[4097]), (0xaa, 0xbb));

    let spans = whole.begin(Access::Read).unwrap();
    let dropped = whole.begin(Access::Read).unwrap();
    broker.lose(1);
    let lost = lost(&connection);
    assert_eq!((open_fds(name), mappings(name)), (0, 0));
    assert!(whole.is_revoked() && part.is_revoked() && buffer.is_lost());
    assert!(bytes(&whole).iter().chain(&bytes(&part)).all(|byte| *byte == 0));
    assert!(is_lost(spans.end()));
    drop(dropped);
    assert!(is_lost(whole.begin(Access::Read)));
    assert!(is_lost(buffer.map(0, Protection::Read)));
    assert!(is_lost(buffer.dup_plane_fd(0)));
    assert!(is_lost(buffer.with_plane_fd(0, |_| ())));
    let error = part.begin(Access::Read).unwrap_err();
    assert_eq!(error.to_string(), "device 3 is lost (unplugged); drop what you have of it");
    assert_eq!(error.errno(), libc::ENODEV);
    // Still a mapping, so nothing to crash on.
    part.copy_from_slice(0, &[1]).unwrap();

    assert_eq!((lost.device(), lost.cause()), (DEVICE, Cause::Unplugged));
    assert_eq!(lost.imports().collect::<Vec<_>>(), [ObjectId(21)]);
    assert!(lost.failed().is_empty() && lost.is_awaited());
    drop((buffer, whole));
    assert!(broker.try_request().is_none());
    drop(part);
    let (_, release) = broker.request();
    assert_eq!(release, Request::Release(ObjectId(21)));
    drop(lost);
    broker.expect_done(&Request::Acknowledge(DEVICE));
    drop(connection);
    broker.expect_end();
}

#[test]
fn acknowledged_once_by_hand() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 22, "dmashare-by-hand");
    broker.lose(1);
    let lost = lost(&connection);
    thread::scope(|scope| {
        let told = scope.spawn(|| lost.acknowledge());
        broker.expect_done(&Request::Acknowledge(DEVICE));
        told.join().unwrap().unwrap();
    });
    drop(connection);
    drop(buffer);
    assert_eq!(broker.request().1, Request::Release(ObjectId(22)));
    broker.expect_end();
}

#[test]
fn who_had_nothing_acknowledges_nothing() {
    let (connection, mut broker) = connected();
    broker.lose(0);
    let lost = lost(&connection);
    assert!(!lost.is_awaited());
    assert_eq!(lost.imports().len(), 0);
    lost.acknowledge().unwrap();
    drop(connection);
    broker.expect_end();
}

#[test]
fn a_loss_that_nobody_dispatched_ends_with_the_connection() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 23, "dmashare-undispatched");
    broker.lose(1);
    drop(connection);
    drop(buffer);
    assert_eq!(broker.request().1, Request::Release(ObjectId(23)));
    broker.expect_end();
}

#[test]
fn any_thread_that_waits_takes_back() {
    let name = "dmashare-any-thread";
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 24, name);
    let mapped = buffer.map(0, Protection::Read).unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices().unwrap());
        let (id, _) = broker.request();
        broker.lose(1);
        broker.reply(id, Reply::Devices(Vec::new()));
        client.join().unwrap();
    });
    // Nobody has called dispatch.
    assert!(mapped.is_revoked());
    assert_eq!((open_fds(name), mappings(name)), (0, 0));
    assert!(common::readable(&connection, NOW));
    assert_eq!(lost(&connection).imports().len(), 1);
}

#[test]
fn the_page_alone_is_enough_for_who_meets_it() {
    let name = "dmashare-page-alone";
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 25, name);
    let mapped = buffer.map(0, Protection::Read).unwrap();
    broker.set(AT, DeviceState::Lost);
    let error = mapped.begin(Access::Read).unwrap_err();
    assert!(matches!(&error, Error::DeviceLost(lost) if lost.cause.is_none()), "{error:?}");
    assert!(mapped.is_revoked());
    assert_eq!((open_fds(name), mappings(name)), (0, 0));
    // The event still names the import, and is to be acknowledged.
    broker.event(lost_event(1));
    let lost = lost(&connection);
    assert_eq!(lost.imports().collect::<Vec<_>>(), [ObjectId(25)]);
    drop(lost);
    broker.expect_done(&Request::Acknowledge(DEVICE));
}

#[test]
fn an_import_that_the_loss_overtakes() {
    let name = "dmashare-overtaken";
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.import(Token::from([1; 16]), Importer::Cpu));
        let (id, _) = broker.request();
        // The reader gets both in one go, before the thread that asked sees its answer.
        broker.set(AT, DeviceState::Lost);
        let fd = plane(name, 8192, 1);
        broker.reply_with(id, imported(26, &[8192], false), &[fd.as_fd()]);
        broker.event(lost_event(1));
        drop(fd);
        assert!(is_lost(client.join().unwrap()));
    });
    let lost = lost(&connection);
    assert_eq!(open_fds(name), 0);
    drop(lost);
    let mut requests = [broker.request().1, broker.request().1];
    requests.sort_by_key(Request::kind);
    assert_eq!(requests, [Request::Release(ObjectId(26)), Request::Acknowledge(DEVICE)]);
}

#[test]
fn an_import_after_the_loss_does_not_live() {
    let name = "dmashare-after-the-loss";
    let (connection, mut broker) = connected();
    // A slot that still says Present would be the broker's mistake too.
    broker.event(lost_event(0));
    drop(lost(&connection));
    let buffer = import(&connection, &mut broker, 27, name);
    assert_eq!(open_fds(name), 0);
    assert!(is_lost(buffer.map(0, Protection::Read)));
}

#[test]
fn imports_of_another_device_are_left_alone() {
    let name = "dmashare-other-device";
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 28, name);
    let mapped = buffer.map(0, Protection::Read).unwrap();
    let Reply::Imported(other) = imported(29, &[8192], false) else { unreachable!() };
    let mut event = lost_event(0);
    if let dmashare_proto::Event::DeviceLost(lost) = &mut event {
        lost.device = dmashare::DeviceId(other.at.unwrap().device.0 + 1);
    }
    broker.event(event);
    assert_eq!(lost(&connection).imports().len(), 0);
    mapped.begin(Access::Read).unwrap().end().unwrap();
    assert_eq!((open_fds(name), mappings(name)), (1, 1));
}

#[test]
fn who_is_cut_off_keeps_nothing_of_a_lost_device() {
    let name = "dmashare-cut-off";
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 30, name);
    let mapped = buffer.map(0, Protection::Read).unwrap();
    broker.set(AT, DeviceState::Lost);
    drop(broker);
    assert!(connection.dispatch(SOON).unwrap_err().is_disconnected());
    assert!(mapped.is_revoked());
    assert_eq!((open_fds(name), mappings(name)), (0, 0));
}

#[test]
fn a_broker_that_dies_takes_nothing_with_it() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 31, "dmashare-broker-dies");
    let mapped = buffer.map(0, Protection::Read).unwrap();
    drop(broker);
    assert!(connection.dispatch(SOON).unwrap_err().is_disconnected());
    let bracket = mapped.begin(Access::Read).unwrap();
    assert!(bytes(&mapped).iter().all(|byte| *byte == 0xaa));
    bracket.end().unwrap();
    assert!(buffer.release().is_err());
}

#[test]
fn released_only_without_mappings() {
    let name = "dmashare-released";
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 32, name);
    thread::scope(|scope| {
        let released = scope.spawn(|| buffer.release());
        let (id, request) = broker.request();
        assert_eq!(request, Request::Release(ObjectId(32)));
        // Closed before the broker is told.
        assert_eq!(open_fds(name), 0);
        broker.reply(id, Reply::Done(()));
        released.join().unwrap().unwrap();
    });
    let buffer = import(&connection, &mut broker, 33, name);
    let mapped = buffer.map(0, Protection::Read).unwrap();
    let error = buffer.release().unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    assert!(broker.try_request().is_none());
    mapped.begin(Access::Read).unwrap().end().unwrap();
    drop(mapped);
    assert_eq!(broker.request().1, Request::Release(ObjectId(33)));
    assert_eq!((open_fds(name), mappings(name)), (0, 0));
}

#[test]
fn what_cannot_be_mapped() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 34, "dmashare-cannot-map");
    let bad = [
        (1, 0, 4096),
        (0, 0, 0),
        (0, 1, 100),
        (0, 8192, 1),
        (0, 4096, 4097),
        (0, !0xfff, 4096),
        (0, 0, usize::MAX),
    ];
    for (plane, offset, len) in bad {
        let error = buffer.map_range(plane, offset, len, Protection::Read).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{plane} {offset} {len}: {error:?}");
    }
    let mapped = buffer.map_range(0, 4096, 100, Protection::Read).unwrap();
    assert_eq!(mapped.len(), 100);
    let wrong = |result: Result<(), Error>| matches!(result, Err(Error::InvalidArgument(_)));
    assert!(wrong(mapped.copy_to_slice(99, &mut [0; 2])));
    assert!(wrong(mapped.copy_to_slice(usize::MAX, &mut [0; 2])));
    assert!(wrong(mapped.copy_from_slice(0, &[1])), "it is for reading only");
}

#[test]
fn a_sync_that_fails_is_told_unless_the_device_is_lost() {
    let (connection, mut broker) = connected();
    let buffer = thread::scope(|scope| {
        let client = scope.spawn(|| connection.import(Token::from([1; 16]), Importer::Cpu));
        let (id, _) = broker.request();
        let fd = plane("dmashare-sync", 8192, 1);
        broker.reply_with(id, imported(35, &[8192], true), &[fd.as_fd()]);
        client.join().unwrap().unwrap()
    });
    assert!(buffer.needs_cpu_sync());
    let mapped = buffer.map(0, Protection::Read).unwrap();
    // A memfd knows no DMA_BUF_IOCTL_SYNC.
    let error = mapped.begin(Access::Read).unwrap_err();
    assert_eq!(error.errno(), libc::ENOTTY, "{error:?}");
    broker.lose(1);
    assert!(is_lost(mapped.begin(Access::Read)));
}

#[test]
fn a_waiter_on_the_page_wakes() {
    let (connection, mut broker) = connected();
    let buffer = import(&connection, &mut broker, 36, "dmashare-wait-lost");
    let device = buffer.device().unwrap().clone();
    assert!(!device.wait_lost(NOW).unwrap());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| device.wait_lost(None).unwrap());
        broker.set(AT, DeviceState::Draining);
        broker.set(AT, DeviceState::Lost);
        assert!(waiter.join().unwrap());
    });
    // The slot is another device's; for this one nothing has changed.
    broker.page.atomic_u32(128).store(6 << 2, Ordering::Release);
    assert!(device.is_lost());
    assert_eq!(device.state(), DeviceState::Gone);
}

/// As scenario 6: reads in a loop, brackets from many threads, mappings that come and go, while the
/// device is lost. No fault; nothing that `end` called good is anything but the buffer's contents.
#[test]
fn readers_in_a_loop_never_fault_and_never_trust_zeros() {
    let name = "dmashare-loop";
    for round in 0..20 {
        let (connection, mut broker) = connected();
        let buffer = import(&connection, &mut broker, 40 + round, name);
        let mapped = buffer.map(0, Protection::Read).unwrap();
        let (reads, maps, stop) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let error = loop {
                        let bracket = match mapped.begin(Access::Read) {
                            Ok(bracket) => bracket,
                            Err(error) => break error,
                        };
                        let bytes = bytes(&mapped);
                        match bracket.end() {
                            Ok(()) => assert!(bytes.iter().all(|byte| *byte == 0xaa)),
                            Err(error) => break error,
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    };
                    assert!(is_lost::<()>(Err(error)));
                    // Zeros from here on, and no signal.
                    while !stop.load(Ordering::Acquire) {
                        assert!(bytes(&mapped).iter().all(|byte| *byte == 0));
                        assert!(is_lost(mapped.begin(Access::Read)));
                    }
                });
            }
            scope.spawn(|| {
                loop {
                    match buffer.map(0, Protection::Read) {
                        Ok(mapped) => drop(mapped),
                        error => break assert!(is_lost(error)),
                    }
                    maps.fetch_add(1, Ordering::Relaxed);
                }
            });
            while reads.load(Ordering::Relaxed) < 20 || maps.load(Ordering::Relaxed) < 20 {
                thread::yield_now();
            }
            broker.lose(1);
            let lost = lost(&connection);
            assert_eq!(lost.imports().len(), 1);
            stop.store(true, Ordering::Release);
        });
        assert_eq!((open_fds(name), mappings(name)), (0, 0));
    }
}
