//! The one pollable fd, and `dispatch` from loops and threads.

mod common;

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use common::{DEVICE, NOW, SOON, connected, readable};
use dmashare::{DeviceId, Error, Event};
use dmashare_proto::message::DeviceWedged;
use dmashare_proto::{Event as Wire, Reply};

fn gone(events: &[Event]) -> Vec<DeviceId> {
    let id = |event: &Event| match event {
        Event::DeviceGone(device) => *device,
        other => panic!("{other:?}"),
    };
    events.iter().map(id).collect()
}

#[test]
fn readable_while_there_is_something() {
    let (connection, broker) = connected();
    assert!(!readable(&connection, NOW));
    broker.event(Wire::DeviceGone(DeviceId(1)));
    broker.event(Wire::DeviceGone(DeviceId(2)));
    assert!(readable(&connection, SOON));
    assert_eq!(gone(&connection.dispatch(NOW).unwrap()), [DeviceId(1), DeviceId(2)]);
    assert!(!readable(&connection, NOW));
    assert!(connection.dispatch(NOW).unwrap().is_empty());
}

#[test]
fn a_wedged_device_is_told_each_time() {
    let (connection, broker) = connected();
    let told = |recovery: &str, task: &str| DeviceWedged {
        device: DEVICE,
        at_ns: 7,
        recovery: recovery.to_owned(),
        task: task.to_owned(),
        fences: 2,
    };
    broker.event(Wire::DeviceWedged(told("rebind,bus-reset", "game")));
    broker.event(Wire::DeviceWedged(told("", "")));
    let events = connection.dispatch(SOON).unwrap();
    let [Event::DeviceWedged(first), Event::DeviceWedged(second)] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((first.device, first.at, first.fences), (DEVICE, Duration::from_nanos(7), 2));
    assert_eq!(
        (&first.recovery[..], first.task.as_deref()),
        (&["rebind".to_owned(), "bus-reset".to_owned()][..], Some("game"))
    );
    assert!(second.recovery.is_empty() && second.task.is_none());
}

#[test]
fn readable_when_another_thread_read_the_event() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices().unwrap());
        let (id, _) = broker.request();
        broker.event(Wire::DeviceGone(DEVICE));
        broker.reply(id, Reply::Devices(Vec::new()));
        client.join().unwrap();
    });
    // The socket is empty; the event is in the library.
    for _ in 0..2 {
        assert!(readable(&connection, NOW));
    }
    assert_eq!(gone(&connection.dispatch(None).unwrap()), [DEVICE]);
    assert!(!readable(&connection, NOW));
}

#[test]
fn a_loop_in_wait_wakes_when_another_thread_reads() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices().unwrap());
        let (id, _) = broker.request();
        let looping = scope.spawn(|| {
            assert!(readable(&connection, SOON));
            connection.dispatch(SOON).unwrap()
        });
        broker.event(Wire::DeviceGone(DEVICE));
        assert_eq!(gone(&looping.join().unwrap()), [DEVICE]);
        broker.reply(id, Reply::Devices(Vec::new()));
        client.join().unwrap();
    });
}

#[test]
fn an_event_goes_to_one_thread_and_answers_pass_by() {
    let (connection, mut broker) = connected();
    thread::scope(|scope| {
        let loops: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    loop {
                        match connection.dispatch(None) {
                            Ok(events) => seen.extend(gone(&events)),
                            Err(_) => break seen,
                        }
                    }
                })
            })
            .collect();
        // One of them reads; requests of other threads are answered all the same.
        for i in 0..100 {
            let client = scope.spawn(|| connection.devices().unwrap());
            let (id, _) = broker.request();
            broker.event(Wire::DeviceGone(DeviceId(i)));
            broker.reply(id, Reply::Devices(Vec::new()));
            client.join().unwrap();
        }
        drop(broker);
        let mut seen: Vec<_> = loops.into_iter().flat_map(|seen| seen.join().unwrap()).collect();
        seen.sort();
        assert_eq!(seen, (0..100).map(DeviceId).collect::<Vec<_>>());
    });
}

#[test]
fn the_time_is_kept() {
    let (connection, mut broker) = connected();
    let time = Duration::from_millis(20);
    let before = Instant::now();
    assert!(connection.dispatch(Some(time)).unwrap().is_empty());
    assert!(before.elapsed() >= time);
    // Also by a thread that is not the reader.
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices().unwrap());
        let (id, _) = broker.request();
        let before = Instant::now();
        assert!(connection.dispatch(Some(time)).unwrap().is_empty());
        assert!(before.elapsed() >= time);
        broker.reply(id, Reply::Devices(Vec::new()));
        client.join().unwrap();
    });
}

#[test]
fn what_came_before_the_end_is_given_first() {
    let (connection, broker) = connected();
    broker.event(Wire::DeviceGone(DEVICE));
    drop(broker);
    assert_eq!(gone(&connection.dispatch(None).unwrap()), [DEVICE]);
    assert!(readable(&connection, NOW));
    assert!(matches!(connection.dispatch(None).unwrap_err(), Error::Disconnected(None)));
}

#[test]
fn an_event_with_an_fd_ends_the_connection() {
    let (connection, broker) = connected();
    let fd = common::plane("dmashare-event-fd", 1, 0);
    let bytes = dmashare_proto::codec::encode(&Wire::DeviceGone(DEVICE), 0, 1).unwrap();
    broker.raw(&bytes, &[fd.as_fd()]);
    assert!(matches!(connection.dispatch(SOON).unwrap_err(), Error::Protocol(_)));
    assert_eq!(common::open_fds("dmashare-event-fd"), 1);
}
