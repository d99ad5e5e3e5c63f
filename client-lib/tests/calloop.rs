//! Event sources of calloop.

mod common;

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use calloop::EventLoop;
use common::{AT, Broker, DEVICE, Listener, NOW, PATIENCE, connected};
use dmashare::{
    Cause, Connection, ConnectionSource, Error, Event, FenceSource, FenceStatus, GuardKind,
    ImportedFence, ObjectId, Token,
};
use dmashare_proto::message::{Event as Wire, FenceImported, FenceState};
use dmashare_proto::{Reply, Request};
use nix::sys::eventfd::{EfdFlags, EventFd};

const FENCE: ObjectId = ObjectId(51);

/// What the callbacks were given.
#[derive(Default)]
struct Seen {
    events: Vec<Result<Event, Error>>,
    statuses: Vec<Result<FenceStatus, Error>>,
}

/// Goes round until so much was seen; no longer than a test may take.
fn until(event_loop: &mut EventLoop<'_, Seen>, seen: &mut Seen, enough: impl Fn(&Seen) -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !enough(seen) {
        let left = end.saturating_duration_since(std::time::Instant::now());
        assert!(!left.is_zero(), "{:?} {:?}", seen.events, seen.statuses);
        event_loop.dispatch(left, seen).unwrap();
    }
}

/// Puts a connection in; what is seen of it is kept.
fn insert(event_loop: &EventLoop<'_, Seen>, connection: &Connection) {
    let source = ConnectionSource::new(connection.clone());
    let handle = event_loop.handle();
    handle.insert_source(source, |event, (), seen: &mut Seen| seen.events.push(event)).unwrap();
}

fn fence(
    connection: &Connection,
    broker: &mut Broker,
    state: FenceState,
) -> (ImportedFence, EventFd) {
    let source = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    let fence = thread::scope(|scope| {
        let client = scope.spawn(|| connection.import_fence(Token::from([2; 16])));
        let (id, _) = broker.request();
        let guard = GuardKind::Simulated;
        let reply = Reply::FenceImported(FenceImported { fence: FENCE, at: AT, guard, state });
        let fds: Vec<_> =
            (state == FenceState::Pending).then(|| source.as_fd()).into_iter().collect();
        broker.reply_with(id, reply, &fds);
        client.join().unwrap().unwrap()
    });
    (fence, source)
}

#[test]
fn each_event_is_told_and_the_end_last() {
    let (connection, broker) = connected();
    let mut event_loop = EventLoop::try_new().unwrap();
    let mut seen = Seen::default();
    insert(&event_loop, &connection);
    event_loop.dispatch(NOW, &mut seen).unwrap();
    assert!(seen.events.is_empty());

    broker.event(Wire::DeviceGone(DEVICE));
    broker.lose(0);
    until(&mut event_loop, &mut seen, |seen| seen.events.len() == 2);
    assert!(matches!(
        &seen.events[..],
        [Ok(Event::DeviceGone(DEVICE)), Ok(Event::DeviceLost(lost))] if lost.device() == DEVICE
    ));

    drop(broker);
    until(&mut event_loop, &mut seen, |seen| seen.events.len() == 3);
    assert!(matches!(&seen.events[2], Err(error) if error.is_disconnected()));
    // It is removed: nothing keeps the loop awake, and nothing is told again.
    for _ in 0..3 {
        event_loop.dispatch(Duration::from_millis(1), &mut seen).unwrap();
    }
    assert_eq!(seen.events.len(), 3);
}

#[test]
fn what_another_thread_reads_is_told_too() {
    let (connection, mut broker) = connected();
    let mut event_loop = EventLoop::try_new().unwrap();
    let mut seen = Seen::default();
    insert(&event_loop, &connection);
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices());
        let (id, _) = broker.request();
        // The call reads the event, since that comes before its answer.
        broker.event(Wire::DeviceGone(DEVICE));
        broker.reply(id, Reply::Devices(Vec::new()));
        client.join().unwrap().unwrap();
    });
    until(&mut event_loop, &mut seen, |seen| seen.events.len() == 1);
    assert!(matches!(seen.events[..], [Ok(Event::DeviceGone(DEVICE))]));
}

#[test]
fn it_goes_on_over_a_restart_of_the_broker() {
    let listener = Listener::new();
    let (connection, broker) = listener.connected();
    let mut event_loop = EventLoop::try_new().unwrap();
    let mut seen = Seen::default();
    insert(&event_loop, &connection);
    drop(broker);
    thread::scope(|scope| {
        let next = scope.spawn(|| {
            let mut broker = listener.accept();
            let (id, _) = broker.hello();
            broker.welcome(id);
            broker.event(Wire::DeviceGone(DEVICE));
            broker
        });
        until(&mut event_loop, &mut seen, |seen| seen.events.len() == 3);
        next.join().unwrap();
    });
    assert!(matches!(
        seen.events[..],
        [Ok(Event::Disconnected(_)), Ok(Event::Reconnected(_)), Ok(Event::DeviceGone(DEVICE))]
    ));
}

#[test]
fn a_fence_is_told_once_with_its_cause() {
    let (connection, mut broker) = connected();
    let mut event_loop = EventLoop::try_new().unwrap();
    let mut seen = Seen::default();
    let (waited, source) = fence(&connection, &mut broker, FenceState::Pending);
    let told = |status, (): &mut (), seen: &mut Seen| seen.statuses.push(status);
    event_loop.handle().insert_source(FenceSource::new(waited).unwrap(), told).unwrap();
    event_loop.dispatch(NOW, &mut seen).unwrap();
    assert!(seen.statuses.is_empty());
    source.write(1).unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let (id, request) = broker.request();
            assert_eq!(request, Request::QueryFence(FENCE));
            let state = FenceState::Failed { cause: Cause::Unplugged, at_ns: 7 };
            broker.reply(id, Reply::FenceState(state));
            // It is dropped with its source.
            broker.expect_done(&Request::Release(FENCE));
        });
        until(&mut event_loop, &mut seen, |seen| !seen.statuses.is_empty());
        asked.join().unwrap();
    });
    event_loop.dispatch(Duration::from_millis(1), &mut seen).unwrap();
    assert!(matches!(
        seen.statuses[..],
        [Ok(FenceStatus::Failed(error))] if error.is_device_lost()
    ));
}

#[test]
fn a_fence_that_had_ended_is_told_as_well() {
    let (connection, mut broker) = connected();
    let mut event_loop = EventLoop::try_new().unwrap();
    let mut seen = Seen::default();
    let (waited, _source) = fence(&connection, &mut broker, FenceState::Ok { at_ns: 5 });
    let told = |status, (): &mut (), seen: &mut Seen| seen.statuses.push(status);
    event_loop.handle().insert_source(FenceSource::new(waited).unwrap(), told).unwrap();
    until(&mut event_loop, &mut seen, |seen| !seen.statuses.is_empty());
    assert!(matches!(seen.statuses[..], [Ok(FenceStatus::Ok { .. })]));
}
