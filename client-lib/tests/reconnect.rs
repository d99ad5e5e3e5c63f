//! A connection that ends, and is made anew.

mod common;

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use common::{AT, Broker, DEVICE, Listener, NOW, SOON, import, lost_event, mappings, open_fds};
use dmashare::{Access, Connection, Error, Event, Importer, Protection, Reconnected, Token};
use dmashare_proto::message::DeviceInfo;
use dmashare_proto::state_page::DeviceState;
use dmashare_proto::{ErrorCode, Reply, Request, WireError};

/// Dispatches until there are this many events.
fn events(connection: &Connection, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let more = connection.dispatch(SOON).unwrap();
        assert!(!more.is_empty(), "no more than {events:?}");
        events.extend(more);
    }
    events
}

fn reconnected(event: &Event) -> &Reconnected {
    match event {
        Event::Reconnected(reconnected) => reconnected,
        other => panic!("{other:?}"),
    }
}

/// Takes the client in once more.
fn welcome(listener: &Listener) -> Broker {
    let mut broker = listener.accept();
    let (id, hello) = broker.hello();
    assert!(!hello.name.is_empty());
    broker.welcome(id);
    broker
}

#[test]
fn it_comes_back_by_itself_and_what_was_is_gone() {
    let listener = Listener::new();
    let (connection, mut broker) = listener.connected();
    let buffer = import(&connection, &mut broker, 18, "dmashare-reconnect");
    let mapped = buffer.map(0, Protection::Read).unwrap();
    let device = buffer.device().unwrap().clone();
    let waiter = thread::spawn({
        let device = device.clone();
        move || device.wait_lost(SOON).unwrap()
    });
    drop(broker);
    let ended = events(&connection, 1);
    assert!(matches!(ended[..], [Event::Disconnected(Error::Disconnected(None))]), "{ended:?}");
    // Nothing is known about the device until somebody is there to tell.
    mapped.begin(Access::Read).unwrap().end().unwrap();

    let mut broker = thread::scope(|scope| {
        let broker = scope.spawn(|| welcome(&listener));
        let back = events(&connection, 1);
        let back = reconnected(&back[0]);
        assert!(back.same_instance, "the test's brokers are one");
        assert_eq!(back.imports, [buffer.id()]);
        broker.join().unwrap()
    });
    assert!(waiter.join().unwrap(), "who sleeps on the old page is woken");
    assert!(device.is_lost() && device.state() == dmashare::DeviceState::Gone);
    assert!(mapped.is_revoked() && mapped.begin(Access::Read).is_err());
    assert_eq!((mappings("dmashare-reconnect"), open_fds("dmashare-reconnect")), (0, 0));

    // The connection is another, with the same handle and fd.
    let again = import(&connection, &mut broker, 19, "dmashare-again");
    assert!(!again.is_lost());
    broker.event(lost_event(1));
    broker.set(AT, DeviceState::Lost);
    assert!(matches!(events(&connection, 1)[..], [Event::DeviceLost(_)]));
    drop(mapped);
    drop(buffer);
}

#[test]
fn a_call_waits_for_it() {
    let listener = Listener::new();
    let (connection, broker) = listener.connected();
    drop(broker);
    thread::scope(|scope| {
        let call = scope.spawn(|| connection.devices());
        let mut broker = welcome(&listener);
        let (id, request) = broker.request();
        assert_eq!(request, Request::ListDevices(()));
        let (driver, pci, nodes) = ("x".to_owned(), String::new(), Vec::new());
        let (state, removable) = (DeviceState::Present, true);
        let info = DeviceInfo { at: AT, state, driver, pci, nodes, removable };
        broker.reply(id, Reply::Devices(vec![info]));
        assert_eq!(call.join().unwrap().unwrap()[0].device.id(), DEVICE);
        // What happened meanwhile is told all the same, and is there to be seen by a loop.
        assert!(dmashare_uapi::sync_file::wait(connection.as_fd(), NOW).unwrap());
        let told = events(&connection, 2);
        assert!(matches!(told[..], [Event::Disconnected(_), Event::Reconnected(_)]), "{told:?}");
        assert!(connection.dispatch(NOW).unwrap().is_empty());
        assert!(!dmashare_uapi::sync_file::wait(connection.as_fd(), NOW).unwrap());
    });
}

#[test]
fn it_is_tried_until_somebody_is_there() {
    let listener = Listener::new();
    let (connection, broker) = listener.connected();
    let place = listener.close();
    drop(broker);
    assert!(matches!(events(&connection, 1)[..], [Event::Disconnected(_)]));
    assert!(connection.is_closed());
    // Some attempts find nobody; the fd is what a loop waits for.
    for _ in 0..3 {
        assert!(dmashare_uapi::sync_file::wait(connection.as_fd(), SOON).unwrap());
        assert!(connection.dispatch(NOW).unwrap().is_empty());
    }
    let listener = Listener::again(place);
    thread::scope(|scope| {
        let broker = scope.spawn(|| welcome(&listener));
        reconnected(&events(&connection, 1)[0]);
        drop(broker.join().unwrap());
    });
}

#[test]
fn a_refusal_is_no_end_and_a_dispatch_never_waits_for_a_greeting() {
    let listener = Listener::new();
    let (connection, broker) = listener.connected();
    drop(broker);
    let mut silent = thread::scope(|scope| {
        let accepted = scope.spawn(|| listener.accept());
        assert!(matches!(events(&connection, 1)[..], [Event::Disconnected(_)]));
        // Takes the step that says hello, once the pause is over.
        while !accepted.is_finished() {
            assert!(connection.dispatch(Some(Duration::from_millis(10))).unwrap().is_empty());
        }
        accepted.join().unwrap()
    });
    let (id, _) = silent.hello();
    assert!(connection.dispatch(NOW).unwrap().is_empty(), "the welcome has not come");
    let full = WireError::new(ErrorCode::OVER_QUOTA, "too many");
    silent.reply(id, Reply::Error(full));
    drop(silent);
    thread::scope(|scope| {
        let broker = scope.spawn(|| welcome(&listener));
        reconnected(&events(&connection, 1)[0]);
        drop(broker.join().unwrap());
    });
}

#[test]
fn what_was_told_before_the_end_is_told_before_it() {
    let listener = Listener::new();
    let (connection, broker) = listener.connected();
    broker.set(AT, DeviceState::Lost);
    broker.event(lost_event(0));
    drop(broker);
    thread::scope(|scope| {
        let broker = scope.spawn(|| welcome(&listener));
        // A call finds the end, and makes the connection anew.
        let refused = scope.spawn(|| connection.import(Token::from_bytes([1; 16]), Importer::Cpu));
        let mut broker = broker.join().unwrap();
        let (id, _) = broker.request();
        broker.reply(id, Reply::Error(WireError::new(ErrorCode::BAD_TOKEN, "no")));
        let refused = refused.join().unwrap().unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::BAD_TOKEN));
        let told = events(&connection, 3);
        assert!(
            matches!(
                told[..],
                [Event::DeviceLost(_), Event::Disconnected(_), Event::Reconnected(_)]
            ),
            "{told:?}"
        );
    });
}

#[test]
fn a_given_fd_cannot_be_made_anew() {
    let (socket, _broker) = common::pair();
    let error = Connection::builder().reconnect(true).from_fd(socket).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
}
