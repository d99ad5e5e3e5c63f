//! Requests of several threads on one connection, and answers that come late, wrong, or never.

mod common;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use common::{AT, Broker, NOW, SOON, connected, connected_as, layout, plane};
use dmashare::{
    Connection, DeviceState, Error, ErrorCode, Event, ExportedBuffer, FenceOptions, Grant,
    GuardKind, Importer, ObjectId, Token, WireError,
};
use dmashare_proto::message::{DeviceInfo, Exported, FenceShared};
use dmashare_proto::{Reply, Request, ids};

fn info() -> DeviceInfo {
    DeviceInfo {
        at: AT,
        state: DeviceState::Present,
        driver: "amdgpu".to_owned(),
        pci: "0000:06:00.0".to_owned(),
        nodes: vec!["/dev/dri/card1".to_owned()],
        removable: true,
    }
}

fn exported(buffer: u64) -> Reply {
    Reply::Exported(Exported { buffer: ObjectId(buffer), at: AT, token: None })
}

fn export(connection: &Connection, broker: &mut Broker, buffer: u64) -> ExportedBuffer {
    let fd = plane("dmashare-export", 4096, 0);
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.export(fd.as_fd(), &layout(1), &[fd.as_fd()]));
        let (id, request, fds) = broker.receive().unwrap();
        assert!(matches!(request, Request::Export(_)), "{request:?}");
        assert_eq!(fds.len(), 2);
        broker.reply(id, exported(buffer));
        client.join().unwrap().unwrap()
    })
}

#[test]
fn devices() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices().unwrap());
        let (id, request) = broker.request();
        assert_eq!(request, Request::ListDevices(()));
        broker.reply(id, Reply::Devices(vec![info()]));
        let list = client.join().unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].device.id(), &*list[0].driver), (AT.device, "amdgpu"));
        assert!(list[0].removable && !list[0].device.is_lost());
        broker.set(AT, DeviceState::Draining);
        assert!(!list[0].device.is_lost());
        assert_eq!(list[0].device.state(), DeviceState::Draining);
    });
}

#[test]
fn answers_in_another_order_reach_their_threads() {
    const THREADS: u32 = 16;
    let (connection, mut broker) = connected();
    let buffer = export(&connection, &mut broker, 1);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..THREADS)
            .map(|uses| {
                let (connection, buffer) = (&connection, &buffer);
                scope.spawn(move || {
                    let token = connection.grant(buffer, Grant { uses, ..Grant::default() });
                    assert_eq!(token.unwrap().to_bytes(), [uses as u8; 16]);
                })
            })
            .collect();
        let mut asked: HashMap<u32, u64> = HashMap::new();
        while asked.len() < THREADS as usize {
            match broker.request() {
                (id, Request::Grant(grant)) => asked.insert(grant.terms.uses, id),
                other => panic!("{other:?}"),
            };
        }
        for uses in (0..THREADS).rev() {
            broker.reply(asked[&uses], Reply::Granted(ids::Token([uses as u8; 16])));
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
}

#[test]
fn a_token_comes_with_a_buffer_or_a_fence() {
    let (connection, mut broker) = connected();
    let fd = plane("dmashare-granted", 4096, 0);
    let wanted = Grant { uses: 3, ..Grant::default() };
    let token = ids::Token([7; 16]);
    let options = FenceOptions::default();
    thread::scope(|scope| {
        let export = || connection.export_granted(fd.as_fd(), &layout(1), &[fd.as_fd()], wanted);
        let client = scope.spawn(export);
        let (id, request, _) = broker.receive().unwrap();
        let Request::Export(export) = request else { panic!("{request:?}") };
        assert_eq!(export.grant.map(|terms| (terms.uses, terms.ttl_ms)), Some((3, 60_000)));
        let at = AT;
        broker.reply(id, Reply::Exported(Exported { buffer: ObjectId(5), at, token: Some(token) }));
        let (buffer, got) = client.join().unwrap().unwrap();
        assert_eq!((buffer.id(), got.to_bytes()), (ObjectId(5), token.0));
        drop(buffer);
        broker.expect_done(&Request::Release(ObjectId(5)));
    });
    thread::scope(|scope| {
        let share = || connection.share_fence_granted(fd.as_fd(), fd.as_fd(), options, wanted);
        let client = scope.spawn(share);
        let (id, request, _) = broker.receive().unwrap();
        let Request::ShareFence(share) = request else { panic!("{request:?}") };
        assert_eq!(share.grant.map(|terms| terms.uses), Some(3));
        // None comes: no broker answers like that.
        let (guard, token) = (GuardKind::Simulated, None);
        broker.reply(
            id,
            Reply::FenceShared(FenceShared { fence: ObjectId(8), at: AT, guard, token }),
        );
        let error = client.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    });
    assert!(connection.is_closed());
}

#[test]
fn a_reader_that_leaves_hands_over() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        // It reads for both, until its time is up without a message.
        let reader = scope.spawn(|| connection.dispatch(Some(Duration::from_millis(200))).unwrap());
        let client = scope.spawn(|| connection.devices().unwrap());
        let (id, _) = broker.request();
        assert!(reader.join().unwrap().is_empty());
        broker.reply(id, Reply::Devices(Vec::new()));
        assert!(client.join().unwrap().is_empty());
    });
}

#[test]
fn an_event_in_front_of_an_answer_is_kept() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices().unwrap());
        let (id, _) = broker.request();
        broker.event(dmashare_proto::Event::DeviceAdded(info()));
        broker.reply(id, Reply::Devices(Vec::new()));
        assert!(client.join().unwrap().is_empty());
    });
    let events = connection.dispatch(NOW).unwrap();
    let [Event::DeviceAdded(added)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(added.pci, "0000:06:00.0");
}

#[test]
fn a_refusal_is_told_and_harms_nothing() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.import(Token::from_bytes([0; 16]), Importer::Cpu));
        let (id, _) = broker.request();
        broker.reply(id, WireError::new(ErrorCode::BAD_TOKEN, "no such token").into());
        let error = client.join().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::BAD_TOKEN));
    });
    drop(export(&connection, &mut broker, 2));
    broker.expect_done(&Request::Release(ObjectId(2)));
}

#[test]
fn a_fence_is_shared_with_its_options() {
    let (connection, mut broker) = connected();
    let fd = plane("dmashare-fence", 1, 0);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let options =
                FenceOptions { deadline: Some(Duration::from_micros(1)), ..Default::default() };
            connection.share_fence(fd.as_fd(), fd.as_fd(), options).unwrap()
        });
        let (id, request, fds) = broker.receive().unwrap();
        let Request::ShareFence(share) = request else { panic!("{request:?}") };
        // Not 0: that would be the broker's default.
        assert_eq!((share.deadline_ms, fds.len()), (1, 2));
        let guard = GuardKind::SwSync;
        broker.reply(
            id,
            Reply::FenceShared(FenceShared { fence: ObjectId(8), at: AT, guard, token: None }),
        );
        let fence = client.join().unwrap();
        assert_eq!((fence.id(), fence.guard()), (ObjectId(8), guard));
        let released = scope.spawn(|| fence.release());
        broker.expect_done(&Request::Release(ObjectId(8)));
        released.join().unwrap().unwrap();
    });
}

#[test]
fn what_a_loss_took_is_released_all_the_same() {
    let (connection, mut broker) = connected();
    for state in [DeviceState::Present, DeviceState::Lost] {
        let buffer = export(&connection, &mut broker, 3);
        broker.set(AT, state);
        thread::scope(|scope| {
            let released = scope.spawn(|| buffer.release());
            let (id, _) = broker.request();
            broker.reply(id, WireError::new(ErrorCode::UNKNOWN_OBJECT, "no object 3").into());
            let lost = state == DeviceState::Lost;
            assert_eq!(released.join().unwrap().is_ok(), lost);
        });
    }
}

#[test]
fn a_thousand_drops_do_not_flood_the_broker() {
    let (connection, mut broker) = connected();
    let buffers: Vec<_> = (0..1000).map(|id| export(&connection, &mut broker, id)).collect();
    // All of it without anybody reading on either side.
    drop(buffers);
    let mut released = 0;
    while released < 1000 {
        let mut batch = Vec::new();
        while let Some(request) = broker.try_request() {
            batch.push(request);
        }
        assert!(!batch.is_empty() && batch.len() <= 64, "{} at once", batch.len());
        for (id, request) in batch {
            assert_eq!(request, Request::Release(ObjectId(released)));
            released += 1;
            broker.reply(id, Reply::Done(()));
        }
        assert!(common::readable(&connection, SOON));
        assert!(connection.dispatch(NOW).unwrap().is_empty());
    }
    assert!(!common::readable(&connection, NOW));
}

#[test]
fn what_a_late_answer_gives_is_given_back() {
    // Enough for the handshake, which is to be answered.
    let patience = Some(Duration::from_secs(1));
    let (connection, mut broker) = connected();
    let (hasty, mut late) = connected_as(Connection::builder().patience(patience));
    let fd = plane("dmashare-late", 8192, 0);
    let error = hasty.export(fd.as_fd(), &layout(1), &[fd.as_fd()]).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { request: "Export" }), "{error:?}");
    let error = hasty.import(Token::from_bytes([1; 16]), Importer::Cpu).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { request: "Import" }), "{error:?}");
    let (export, _) = late.request();
    let (import, _) = late.request();
    late.reply(export, exported(70));
    late.reply_with(import, common::imported(71, &[8192], false), &[fd.as_fd()]);
    assert!(hasty.dispatch(NOW).unwrap().is_empty());
    late.expect_done(&Request::Release(ObjectId(70)));
    late.expect_done(&Request::Release(ObjectId(71)));
    assert_eq!(common::open_fds("dmashare-late"), 1);
    // The other connection has nothing to do with it.
    drop(self::export(&connection, &mut broker, 1));
}

/// What several waiting threads are told, and that the connection stays readable.
fn all_waiters(end: impl FnOnce(Broker, u64)) -> Vec<Error> {
    let (connection, mut broker) = connected();
    let errors = thread::scope(|scope| {
        let mut clients: Vec<_> =
            (0..4).map(|_| scope.spawn(|| connection.devices().unwrap_err())).collect();
        let mut id = 0;
        for _ in 0..4 {
            id = broker.request().0;
        }
        clients.push(scope.spawn(|| connection.dispatch(None).unwrap_err()));
        end(broker, id);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(connection.is_closed());
    for _ in 0..2 {
        assert!(common::readable(&connection, NOW), "loops must notice");
        assert!(connection.dispatch(NOW).unwrap_err().is_disconnected());
        assert!(connection.devices().unwrap_err().is_disconnected());
    }
    errors
}

#[test]
fn a_broker_that_dies_wakes_all() {
    for error in all_waiters(|broker, _| drop(broker)) {
        assert!(matches!(error, Error::Disconnected(None)), "{error:?}");
    }
}

#[test]
fn its_last_words_are_passed_on() {
    let errors = all_waiters(|broker, _| {
        broker.reply(0, WireError::new(ErrorCode::TOO_LARGE, "a message was too long").into());
    });
    for error in errors {
        let Error::Disconnected(Some(reason)) = &error else { panic!("{error:?}") };
        assert_eq!(reason.code, ErrorCode::TOO_LARGE);
        assert!(error.to_string().contains("a message was too long"), "{error}");
    }
}

#[test]
fn a_request_after_the_end_hears_why() {
    let (connection, broker) = connected();
    broker.reply(0, WireError::new(ErrorCode::INTERNAL, "fds were cut short").into());
    drop(broker);
    let error = connection.devices().unwrap_err();
    assert!(matches!(&error, Error::Disconnected(Some(_))), "{error:?}");
}

#[test]
fn nonsense_wakes_all() {
    let fd = plane("dmashare-nonsense", 8192, 0);
    type Say<'a> = &'a dyn Fn(&Broker, u64);
    let nonsense: [(&str, Say<'_>); 9] = [
        ("short", &|broker, _| broker.raw(&[1, 2, 3], &[])),
        ("unknown kind", &|broker, id| broker.raw(&raw(0x8fff, 0, id, &[]), &[])),
        ("cut short", &|broker, id| broker.raw(&raw(0x8002, 0, id, &[9]), &[])),
        ("left over", &|broker, id| broker.raw(&raw(0x8006, 0, id, &[0]), &[])),
        ("fd count", &|broker, id| broker.raw(&raw(0x8006, 1, id, &[]), &[])),
        ("an fd too many", &|broker, id| {
            broker.reply_with(id, Reply::Devices(Vec::new()), &[fd.as_fd()]);
        }),
        ("nobody asked", &|broker, id| broker.reply(id + 1000, Reply::Done(()))),
        ("an import that nobody asked for", &|broker, id| {
            let reply = common::imported(5, &[8192], false);
            broker.reply_with(id + 1000, reply, &[fd.as_fd()]);
        }),
        ("fewer planes than sizes", &|broker, id| {
            broker.reply_with(id, common::imported(5, &[8192, 8192], false), &[fd.as_fd()]);
        }),
    ];
    for (what, say) in nonsense {
        for error in all_waiters(|broker, id| say(&broker, id)) {
            assert!(matches!(error, Error::Protocol(_)), "{what}: {error:?}");
        }
        assert_eq!(common::open_fds("dmashare-nonsense"), 1, "{what}");
    }
}

#[test]
fn an_answer_to_something_else_is_nonsense() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices().unwrap_err());
        let (id, _) = broker.request();
        broker.reply(id, Reply::Done(()));
        let error = client.join().unwrap();
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    });
    assert!(connection.is_closed());
    broker.expect_end();
}

fn raw(kind: u16, fds: u16, id: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(fds.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(id.to_le_bytes());
    bytes.extend(body);
    bytes
}
