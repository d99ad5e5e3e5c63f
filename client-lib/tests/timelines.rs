//! Timelines: what the broker is asked for, and waits that are answered late, by a loss, or never.

mod common;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use common::{AT, Broker, DEVICE, NOW, SOON, connected, connected_as, open_fds, plane};
use dmashare::{
    Cause, Connection, DeviceState, Direction, Error, ErrorCode, Grant, GuardKind, ObjectId,
    PointState, Policy, Timeline, Token, WireError,
};
use dmashare_proto::message::{CreateTimeline, Event as Wire, PointAt, SubmitPoint, TimelineInfo};
use dmashare_proto::{Reply, Request, ids};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const TIMELINE: ObjectId = ObjectId(40);
const OK: PointState = PointState::Ok { at_ns: 5 };
const LOST: PointState = PointState::Failed { cause: Cause::Unplugged, at_ns: 7 };
const SHORT: Option<Duration> = Some(Duration::from_millis(10));

fn info(direction: Direction) -> TimelineInfo {
    let guard = GuardKind::SwSync;
    TimelineInfo { timeline: TIMELINE, at: AT, direction, guard, promised: 6 }
}

fn at(point: u64) -> PointAt {
    PointAt { timeline: TIMELINE, point }
}

/// What stands for the syncobj, and the pipe that hangs up when its other end is dropped.
struct Files {
    syncobj: OwnedFd,
    lost: OwnedFd,
    hangup: OwnedFd,
}

fn files(name: &str) -> Files {
    let (lost, hangup) = nix::unistd::pipe().unwrap();
    Files { syncobj: plane(name, 1, 0), lost, hangup }
}

/// Imports a timeline; the syncobj is a memfd of this name, which only the library holds afterwards.
fn imported(connection: &Connection, broker: &mut Broker, name: &str) -> (Timeline, OwnedFd) {
    let files = files(name);
    let timeline = thread::scope(|scope| {
        let client = scope.spawn(|| connection.import_timeline(Token::from([2; 16])));
        let (id, request) = broker.request();
        assert_eq!(request, Request::ImportTimeline(ids::Token([2; 16])));
        let fds = [files.syncobj.as_fd(), files.lost.as_fd()];
        broker.reply_with(id, Reply::Timeline(info(Direction::Acquire)), &fds);
        client.join().unwrap().unwrap()
    });
    (timeline, files.hangup)
}

/// Does one thing, which asks the broker one thing.
fn asked<T: Send>(
    broker: &mut Broker,
    call: impl FnOnce() -> T + Send,
    expected: &Request,
    answer: Reply,
) -> T {
    thread::scope(|scope| {
        let client = scope.spawn(call);
        let (id, request) = broker.request();
        assert_eq!(request, *expected);
        broker.reply(id, answer);
        client.join().unwrap()
    })
}

fn is_time_up(result: Result<(), Error>) -> bool {
    match result {
        Err(error @ Error::TimeUp { timeline: TIMELINE, .. }) => error.errno() == libc::ETIME,
        other => panic!("{other:?}"),
    }
}

fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap();
    fds[0].revents().unwrap().contains(PollFlags::POLLHUP)
}

#[test]
fn one_is_made_promised_submitted_and_granted() {
    let (connection, mut broker) = connected();
    let files = files("dmashare-timeline-made");
    let node = plane("dmashare-timeline-node", 1, 0);
    let timeline = thread::scope(|scope| {
        let client = scope
            .spawn(|| connection.create_timeline(node.as_fd(), Policy::Auto, Direction::Release));
        let (id, request, fds) = broker.receive().unwrap();
        let options = CreateTimeline { policy: Policy::Auto, direction: Direction::Release };
        assert_eq!((request, fds.len()), (Request::CreateTimeline(options), 1));
        let fds = [files.syncobj.as_fd(), files.lost.as_fd()];
        broker.reply_with(id, Reply::Timeline(info(Direction::Release)), &fds);
        client.join().unwrap().unwrap()
    });
    assert_eq!((timeline.id(), timeline.device().id()), (TIMELINE, DEVICE));
    assert_eq!((timeline.direction(), timeline.guard()), (Direction::Release, GuardKind::SwSync));
    assert_eq!((timeline.promised(), timeline.is_lost()), (6, false));

    let done = Reply::Done(());
    let promise = Request::PromisePoint(at(9));
    asked(&mut broker, || timeline.promise(9), &promise, done.clone()).unwrap();
    let submit = Request::SubmitPoint(SubmitPoint { to: at(7), deadline_ms: 0 });
    asked(&mut broker, || timeline.submit_done(7), &submit, done).unwrap();
    let granted = Reply::Granted(ids::Token([3; 16]));
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.grant(&timeline, Grant::default()));
        let (id, request) = broker.request();
        assert!(matches!(request, Request::Grant(grant) if grant.object == TIMELINE));
        broker.reply(id, granted);
        assert_eq!(client.join().unwrap().unwrap(), Token::from([3; 16]));
    });
    let deadline = Some(Duration::from_micros(1));
    thread::scope(|scope| {
        let client = scope.spawn(|| timeline.submit(8, node.as_fd(), node.as_fd(), deadline));
        let (id, request, fds) = broker.receive().unwrap();
        // Not 0: that would be the broker's default.
        let submit = Request::SubmitPoint(SubmitPoint { to: at(8), deadline_ms: 1 });
        assert_eq!((request, fds.len()), (submit, 2));
        let refused = WireError::new(ErrorCode::WRONG_OBJECT, "release points are the importer's");
        broker.reply(id, refused.into());
        assert_eq!(client.join().unwrap().unwrap_err().code(), Some(ErrorCode::WRONG_OBJECT));
    });
    let released = thread::scope(|scope| {
        let client = scope.spawn(|| timeline.release());
        broker.expect_done(&Request::Release(TIMELINE));
        client.join().unwrap()
    });
    released.unwrap();
}

#[test]
fn a_query_asks() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-query");
    for state in [PointState::Unknown, PointState::Promised, PointState::Pending, OK, LOST] {
        let request = Request::QueryPoint(at(3));
        let answer = Reply::PointState(state);
        assert_eq!(asked(&mut broker, || timeline.query(3), &request, answer).unwrap(), state);
        // A wait without any time is a question, too, and leaves nothing behind.
        let answer = Reply::PointState(state);
        let waited = asked(&mut broker, || timeline.wait(3, NOW), &request, answer);
        match state {
            PointState::Ok { .. } => waited.unwrap(),
            PointState::Failed { .. } => assert!(waited.unwrap_err().is_device_lost()),
            _ => assert!(is_time_up(waited)),
        }
    }
}

#[test]
fn a_wait_is_answered_late() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-late");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| timeline.wait(3, None));
        let (wait, request) = broker.request();
        assert_eq!(request, Request::WaitPoint(at(3)));
        // Others are answered meanwhile.
        let query = Request::QueryPoint(at(3));
        let pending = Reply::PointState(PointState::Pending);
        asked(&mut broker, || timeline.query(3), &query, pending).unwrap();
        broker.reply(wait, Reply::PointState(OK));
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn a_wait_tells_why_it_failed() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-why");
    let causes = [
        (Cause::Unplugged, libc::ENODEV, "its device 3, or its source's, is lost (unplugged)"),
        (Cause::TimedOut, libc::ETIMEDOUT, "did not end by its deadline"),
        (Cause::Wedged, libc::EIO, "is wedged"),
        (Cause::Exporter(libc::ECANCELED), libc::ECANCELED, "the driver of device 3"),
        (Cause::Exporter(libc::EOWNERDEAD), libc::EOWNERDEAD, "who was to submit it has left"),
    ];
    let wait = Request::WaitPoint(at(3));
    for (cause, errno, text) in causes {
        let answer = Reply::PointState(PointState::Failed { cause, at_ns: 7 });
        let error = asked(&mut broker, || timeline.wait(3, SOON), &wait, answer).unwrap_err();
        assert_eq!(error.is_device_lost(), cause == Cause::Unplugged);
        assert_eq!(error.errno(), errno);
        let Error::Fence(error) = error else { panic!("{error:?}") };
        assert_eq!((error.fence, error.point, error.device), (TIMELINE, Some(3), DEVICE));
        assert_eq!((error.cause, error.at), (Some(cause), Some(Duration::from_nanos(7))));
        let said = error.to_string();
        assert!(said.starts_with("point 3 of timeline 40 ") && said.contains(text), "{said}");
    }
    let answer = Reply::PointState(PointState::Forgotten);
    let error = asked(&mut broker, || timeline.wait(3, SOON), &wait, answer).unwrap_err();
    assert!(matches!(&error, Error::Fence(error) if error.cause.is_none()), "{error:?}");
    assert_eq!(error.errno(), libc::ENODATA);
    let answer = WireError::new(ErrorCode::OVER_QUOTA, "too many waits").into();
    let error = asked(&mut broker, || timeline.wait(3, SOON), &wait, answer).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OVER_QUOTA));
}

#[test]
fn a_loss_ends_a_wait() {
    let (connection, mut broker) = connected();
    let (timeline, hangup) = imported(&connection, &mut broker, "dmashare-timeline-loss");
    assert!(!hung_up(timeline.lost_fd()));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| timeline.wait(3, None));
        let (wait, _) = broker.request();
        broker.set(AT, DeviceState::Lost);
        drop(hangup);
        broker.reply(wait, Reply::PointState(LOST));
        broker.event(common::lost_event(0));
        let Err(Error::Fence(error)) = waiter.join().unwrap() else { panic!() };
        assert_eq!(error.cause, Some(Cause::Unplugged));
    });
    assert!(timeline.is_lost() && hung_up(timeline.lost_fd()));
    let submit = Request::SubmitPoint(SubmitPoint { to: at(7), deadline_ms: 0 });
    let answer = WireError::new(ErrorCode::DEVICE_LOST, "device 3 is lost").into();
    let error = asked(&mut broker, || timeline.submit_done(7), &submit, answer).unwrap_err();
    assert!(error.is_device_lost());
    // It can be asked about until it is released, and that it is lost is no failure then.
    let query = Request::QueryPoint(at(9));
    asked(&mut broker, || timeline.query(9), &query, Reply::PointState(LOST)).unwrap();
    let released = WireError::new(ErrorCode::UNKNOWN_OBJECT, "no object 40").into();
    asked(&mut broker, || timeline.release(), &Request::Release(TIMELINE), released).unwrap();
}

#[test]
fn a_broker_that_dies_ends_a_wait() {
    let (connection, mut broker) = connected();
    let (timeline, hangup) = imported(&connection, &mut broker, "dmashare-timeline-dies");
    thread::scope(|scope| {
        let waiter = scope.spawn(|| timeline.wait(3, None));
        broker.request();
        drop((broker, hangup));
        assert!(waiter.join().unwrap().unwrap_err().is_disconnected());
    });
    assert!(hung_up(timeline.lost_fd()));
    assert!(timeline.wait(3, None).unwrap_err().is_disconnected());
}

#[test]
fn the_time_is_kept_and_a_late_answer_confuses_nobody() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-time");
    let before = Instant::now();
    assert!(is_time_up(timeline.wait(3, SHORT)));
    assert!(before.elapsed() >= SHORT.unwrap());
    let (wait, request) = broker.request();
    assert_eq!(request, Request::WaitPoint(at(3)));
    thread::scope(|scope| {
        let client = scope.spawn(|| connection.devices());
        let (id, _) = broker.request();
        broker.reply(wait, Reply::PointState(LOST));
        broker.reply(id, Reply::Devices(Vec::new()));
        assert!(client.join().unwrap().unwrap().is_empty());
    });
    // The question was answered, to nobody, so it is asked anew.
    let wait = Request::WaitPoint(at(3));
    let answer = Reply::PointState(OK);
    asked(&mut broker, || timeline.wait(3, SOON), &wait, answer).unwrap();
}

#[test]
fn a_question_that_is_open_is_taken_up_again() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-again");
    for _ in 0..20 {
        assert!(is_time_up(timeline.wait(3, SHORT)));
    }
    let (wait, _) = broker.request();
    assert!(broker.try_request().is_none(), "one question for all of them");
    // Two threads have two, and keep to them.
    thread::scope(|scope| {
        let clients =
            [(); 2].map(|()| scope.spawn(|| (0..20).all(|_| is_time_up(timeline.wait(3, SHORT)))));
        assert!(clients.into_iter().all(|client| client.join().unwrap()));
    });
    let second = broker.try_request();
    assert!(broker.try_request().is_none(), "at most one for each thread");
    for id in [wait].into_iter().chain(second.map(|(id, _)| id)) {
        broker.reply(id, Reply::PointState(OK));
    }
    timeline.wait(3, SOON).unwrap();
    assert!(broker.try_request().is_none(), "the answer was there");
}

#[test]
fn open_questions_hold_up_nothing() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-open");
    let tick = Some(Duration::from_micros(1));
    let open: Vec<_> = (1..=100)
        .map(|point| {
            assert!(is_time_up(timeline.wait(point, tick)));
            broker.request().0
        })
        .collect();
    // More than may be in flight without a waiter, and still it is given back at once.
    drop(timeline);
    broker.expect_done(&Request::Release(TIMELINE));
    for id in open {
        broker.reply(id, WireError::new(ErrorCode::UNKNOWN_OBJECT, "no timeline 40").into());
    }
    broker.event(Wire::DeviceGone(DEVICE));
    assert_eq!(connection.dispatch(SOON).unwrap().len(), 1);
}

#[test]
fn its_fds_are_closed_before_it_is_given_back() {
    let name = "dmashare-timeline-fds";
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, name);
    assert_eq!(open_fds(name), 1);
    let dup = timeline.syncobj().try_clone_to_owned().unwrap();
    assert_eq!(open_fds(name), 2);
    drop(dup);
    thread::scope(|scope| {
        let client = scope.spawn(|| timeline.release());
        let (id, request) = broker.request();
        assert_eq!((request, open_fds(name)), (Request::Release(TIMELINE), 0));
        broker.reply(id, Reply::Done(()));
        client.join().unwrap().unwrap();
    });
    let (timeline, _hangup) = imported(&connection, &mut broker, name);
    drop(timeline);
    assert_eq!(open_fds(name), 0);
    broker.expect_done(&Request::Release(TIMELINE));
}

#[test]
fn another_number_of_fds_ends_the_connection() {
    let name = "dmashare-timeline-count";
    let fd = plane(name, 1, 0);
    for count in [0, 1, 3] {
        let (connection, mut broker) = connected();
        thread::scope(|scope| {
            let client = scope.spawn(|| connection.import_timeline(Token::from([2; 16])));
            let (id, _) = broker.request();
            let reply = Reply::Timeline(info(Direction::Acquire));
            broker.reply_with(id, reply, &vec![fd.as_fd(); count]);
            assert!(matches!(client.join().unwrap(), Err(Error::Protocol(_))), "{count}");
        });
        assert!(connection.is_closed());
    }
    assert_eq!(open_fds(name), 1);
}

#[test]
fn one_that_comes_too_late_is_given_back() {
    let name = "dmashare-timeline-unwanted";
    let patience = Some(Duration::from_secs(1));
    let (hasty, mut late) = connected_as(Connection::builder().patience(patience));
    let error = hasty.import_timeline(Token::from([2; 16])).unwrap_err();
    assert!(matches!(error, Error::NoAnswer { request: "ImportTimeline" }), "{error:?}");
    let (id, _) = late.request();
    let files = files(name);
    let fds = [files.syncobj.as_fd(), files.lost.as_fd()];
    late.reply_with(id, Reply::Timeline(info(Direction::Acquire)), &fds);
    assert!(hasty.dispatch(NOW).unwrap().is_empty());
    late.expect_done(&Request::Release(TIMELINE));
    assert_eq!(open_fds(name), 1);
}

#[test]
fn a_wait_that_is_answered_before_its_point_is_over_is_nonsense() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-nonsense");
    let wait = Request::WaitPoint(at(3));
    let answer = Reply::PointState(PointState::Pending);
    let error = asked(&mut broker, || timeline.wait(3, SOON), &wait, answer).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    assert!(connection.is_closed());
}

#[test]
fn what_is_no_syncobj_has_no_eventfd() {
    let (connection, mut broker) = connected();
    let (timeline, _hangup) = imported(&connection, &mut broker, "dmashare-timeline-eventfd");
    let no_drm = plane("dmashare-timeline-no-drm", 1, 0);
    let error = timeline.eventfd(no_drm.as_fd(), 3).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}
