//! Futures of tokio: events, fences, points and losses; several at once, dropped, beside threads, and at the
//! end of the connection.

mod common;

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use common::{
    AT, Broker, DEVICE, Listener, NOW, PATIENCE, SOON, connected, lost_event, open_fds, plane,
    readable,
};
use dmashare::{
    Cause, Connection, DeviceState, Direction, Error, ErrorCode, Event, FenceStatus, GuardKind,
    ImportedFence, ObjectId, PointState, Timeline, Token, WireError,
};
use dmashare_proto::message::{
    DeviceLost, Event as Wire, FenceImported, FenceState, PointAt, TimelineInfo,
};
use dmashare_proto::{Reply, Request};
use nix::sys::eventfd::{EfdFlags, EventFd};

const TIMELINE: ObjectId = ObjectId(40);
const FENCE: ObjectId = ObjectId(51);
const OK: PointState = PointState::Ok { at_ns: 5 };
const LOST: PointState = PointState::Failed { cause: Cause::Unplugged, at_ns: 7 };

/// Runs a future to its end, in good time.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it hangs") })
}

/// Polls once; nobody is woken for it.
fn is_pending<T>(future: Pin<&mut impl Future<Output = T>>) -> bool {
    matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

/// Runs the tasks that were woken, until the broker has been asked something.
async fn request(broker: &mut Broker) -> (u64, Request) {
    loop {
        if let Some(request) = broker.try_request() {
            return request;
        }
        tokio::task::yield_now().await;
    }
}

/// A connection with an imported timeline; what hangs up with it.
fn timeline(name: &str) -> (Connection, Broker, Arc<Timeline>, OwnedFd) {
    let (connection, mut broker) = connected();
    let (lost, hangup) = nix::unistd::pipe().unwrap();
    let syncobj = plane(name, 1, 0);
    let timeline = thread::scope(|scope| {
        let client = scope.spawn(|| connection.import_timeline(Token::from([2; 16])));
        let (id, _) = broker.request();
        let (at, direction, guard) = (AT, Direction::Acquire, GuardKind::SwSync);
        let info = TimelineInfo { timeline: TIMELINE, at, direction, guard, promised: 6 };
        broker.reply_with(id, Reply::Timeline(info), &[syncobj.as_fd(), lost.as_fd()]);
        client.join().unwrap().unwrap()
    });
    (connection, broker, Arc::new(timeline), hangup)
}

fn fence(
    connection: &Connection,
    broker: &mut Broker,
    guard: GuardKind,
) -> (ImportedFence, EventFd) {
    let source = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
    let fence = thread::scope(|scope| {
        let client = scope.spawn(|| connection.import_fence(Token::from([2; 16])));
        let (id, _) = broker.request();
        let state = FenceState::Pending;
        let reply = Reply::FenceImported(FenceImported { fence: FENCE, at: AT, guard, state });
        broker.reply_with(id, reply, &[source.as_fd()]);
        client.join().unwrap().unwrap()
    });
    (fence, source)
}

fn point_of(request: &Request) -> u64 {
    match request {
        Request::WaitPoint(PointAt { timeline: TIMELINE, point }) => *point,
        other => panic!("{other:?}"),
    }
}

fn is_lost(result: Result<(), Error>) -> bool {
    match result {
        Err(Error::Fence(error)) => error.cause == Some(Cause::Unplugged),
        other => panic!("{other:?}"),
    }
}

fn is_disconnected<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    match result {
        Err(error) => error.is_disconnected(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn events_come_and_a_dropped_future_loses_none() {
    let (connection, broker) = connected();
    run(async {
        let mut events = connection.events().unwrap();
        broker.event(Wire::DeviceGone(DEVICE));
        let first = events.next().await.unwrap();
        assert!(matches!(first[..], [Event::DeviceGone(DEVICE)]), "{first:?}");

        assert!(is_pending(pin!(events.next())));
        broker.lose(0);
        // The runtime has seen that the connection is readable; nobody has taken what is there.
        assert!(readable(&connection, SOON));
        tokio::task::yield_now().await;
        drop(events);
        let mut events = connection.events().unwrap();
        let second = events.next().await.unwrap();
        assert!(matches!(&second[..], [Event::DeviceLost(lost)] if lost.device() == DEVICE));
    });
}

#[test]
fn several_who_wait_for_events_get_each_once() {
    let (connection, broker) = connected();
    run(async {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let mut events = connection.events().unwrap();
                tokio::spawn(async move {
                    let mut told = 0;
                    loop {
                        match events.next().await {
                            Ok(events) => told += events.len(),
                            Err(error) => break (told, error.is_disconnected()),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..40 {
            broker.event(Wire::DeviceGone(DEVICE));
            tokio::task::yield_now().await;
        }
        drop(broker);
        let mut all = 0;
        for task in tasks {
            let (told, ended) = task.await.unwrap();
            assert!(ended);
            all += told;
        }
        assert_eq!(all, 40);
    });
}

#[test]
fn events_go_on_over_a_restart_of_the_broker() {
    let listener = Listener::new();
    let (connection, broker) = listener.connected();
    drop(broker);
    thread::scope(|scope| {
        let broker = scope.spawn(|| {
            let mut broker = listener.accept();
            let (id, _) = broker.hello();
            broker.welcome(id);
            broker.event(Wire::DeviceGone(DEVICE));
            broker
        });
        run(async {
            let mut events = connection.events().unwrap();
            let mut all = Vec::new();
            while all.len() < 3 {
                all.extend(events.next().await.unwrap());
            }
            assert!(matches!(
                all[..],
                [Event::Disconnected(_), Event::Reconnected(_), Event::DeviceGone(DEVICE)]
            ));
        });
        broker.join().unwrap();
    });
}

#[test]
fn a_thousand_points_are_waited_for_at_once() {
    let (_connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-thousand");
    const POINTS: u64 = 1000;
    // More than the socket holds: the tasks wait for room, and answers come meanwhile.
    thread::scope(|scope| {
        let broker = scope.spawn(move || {
            let mut late = Vec::new();
            for _ in 0..POINTS {
                let (id, request) = broker.request();
                let point = point_of(&request);
                if point.is_multiple_of(3) {
                    late.push((id, point));
                } else {
                    broker.reply(
                        id,
                        Reply::PointState(if point.is_multiple_of(2) { OK } else { LOST }),
                    );
                }
            }
            for (id, point) in late.into_iter().rev() {
                broker
                    .reply(id, Reply::PointState(if point.is_multiple_of(2) { OK } else { LOST }));
            }
            broker
        });
        run(async {
            let tasks: Vec<_> = (1..=POINTS)
                .map(|point| {
                    let timeline = Arc::clone(&timeline);
                    tokio::spawn(async move { timeline.wait_async(point).await })
                })
                .collect();
            for (point, task) in (1..).zip(tasks) {
                let result = task.await.unwrap();
                if point % 2 == 0 {
                    result.unwrap();
                } else {
                    assert!(is_lost(result));
                }
            }
        });
        broker.join().unwrap();
    });
}

#[test]
fn a_wait_waits_for_room_and_reads_meanwhile() {
    let (connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-full");
    run(async {
        // Until the socket is full; the tasks that are behind have to wait.
        let mut waits = Vec::new();
        for point in 1..=2000 {
            let mut wait = Box::pin(timeline.wait_async(point));
            assert!(is_pending(wait.as_mut()));
            waits.push(wait);
        }
        // What comes is read although nothing could be sent.
        broker.event(Wire::DeviceGone(DEVICE));
        drop(waits.pop());
        let mut asked = 0;
        let mut wait = waits.pop().unwrap();
        loop {
            tokio::select! {
                biased;
                result = &mut wait => break result.unwrap(),
                () = tokio::task::yield_now() => {}
            }
            while let Some((id, request)) = broker.try_request() {
                asked += 1;
                if point_of(&request) == 1999 {
                    broker.reply(id, Reply::PointState(OK));
                }
            }
        }
        assert!(asked < 2000, "all were sent at once: the socket was never full");
        assert!(matches!(connection.dispatch(NOW).unwrap()[..], [Event::DeviceGone(DEVICE)]));
    });
}

#[test]
fn a_wait_that_is_dropped_is_taken_up_again() {
    let (_connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-dropped");
    run(async {
        for _ in 0..20 {
            assert!(is_pending(pin!(timeline.wait_async(3))));
        }
        let (id, asked) = broker.request();
        assert_eq!(point_of(&asked), 3);
        assert!(broker.try_request().is_none(), "one question for all of them");
        // A thread takes it up, and a task takes it up from the thread.
        assert!(matches!(
            timeline.wait(3, Some(std::time::Duration::from_millis(1))),
            Err(Error::TimeUp { .. })
        ));
        broker.reply(id, Reply::PointState(OK));
        timeline.wait_async(3).await.unwrap();
        assert!(broker.try_request().is_none());
    });
}

#[test]
fn a_future_that_is_kept_and_not_polled_holds_up_nobody() {
    let (_connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-kept");
    run(async {
        let mut kept: Vec<_> = (1..=10).map(|point| Box::pin(timeline.wait_async(point))).collect();
        kept.iter_mut().for_each(|wait| assert!(is_pending(wait.as_mut())));
        let kept_ids: Vec<_> = kept.iter().map(|_| broker.request().0).collect();
        let answer = async {
            let (id, _) = request(&mut broker).await;
            kept_ids.iter().for_each(|id| broker.reply(*id, Reply::PointState(OK)));
            broker.reply(id, Reply::PointState(OK));
        };
        tokio::join!(timeline.wait_async(11), answer).0.unwrap();
        for wait in kept {
            wait.await.unwrap();
        }
    });
}

#[test]
fn who_is_dropped_takes_nothing_along() {
    let (_connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-turn");
    run(async {
        for _ in 0..50 {
            let mut first = Box::pin(timeline.wait_async(3));
            assert!(is_pending(first.as_mut()));
            let others: Vec<_> = (4..8)
                .map(|point| {
                    let timeline = Arc::clone(&timeline);
                    tokio::spawn(async move { timeline.wait_async(point).await })
                })
                .collect();
            let mut ids = Vec::new();
            while ids.len() < 4 {
                let (id, asked) = request(&mut broker).await;
                match point_of(&asked) {
                    // It stays open from the first round on.
                    3 => {}
                    _ => ids.push(id),
                }
            }
            // What it may have been woken for is not lost with it.
            broker.reply(ids[0], Reply::PointState(OK));
            if ids[0] % 2 == 0 {
                tokio::task::yield_now().await;
            }
            drop(first);
            others[3].abort();
            ids[1..].iter().for_each(|id| broker.reply(*id, Reply::PointState(OK)));
            let mut done = 0;
            for task in others {
                match task.await {
                    Ok(result) => done += usize::from(result.is_ok()),
                    Err(error) => assert!(error.is_cancelled()),
                }
            }
            assert!(done >= 3, "{done} of the waits were served");
        }
    });
}

#[test]
fn threads_and_tasks_read_for_each_other() {
    let (_connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-threads");
    for round in 0..200 {
        let (thread_point, task_point) = (2 * round + 1, 2 * round + 2);
        thread::scope(|scope| {
            let blocking = scope.spawn(|| timeline.wait(thread_point, SOON));
            let (thread_id, asked) = broker.request();
            assert_eq!(point_of(&asked), thread_point);
            let task = scope.spawn(|| run(timeline.wait_async(task_point)));
            let (task_id, asked) = broker.request();
            assert_eq!(point_of(&asked), task_point);
            // The thread reads what is the task's, or leaves it behind; by turns.
            let mut answers = [thread_id, task_id];
            if round % 2 == 0 {
                answers.reverse();
                broker.reply(answers[0], Reply::PointState(OK));
                task.join().unwrap().unwrap();
                broker.reply(answers[1], Reply::PointState(OK));
            } else {
                answers.iter().for_each(|id| broker.reply(*id, Reply::PointState(OK)));
                task.join().unwrap().unwrap();
            }
            blocking.join().unwrap().unwrap();
        });
    }
}

#[test]
fn the_end_of_the_connection_ends_every_wait() {
    let (connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-end");
    let device = timeline.device().clone();
    run(async {
        let points: Vec<_> = (1..20)
            .map(|point| {
                let timeline = Arc::clone(&timeline);
                tokio::spawn(async move { timeline.wait_async(point).await })
            })
            .collect();
        let loss = tokio::spawn({
            let (connection, device) = (connection.clone(), device.clone());
            async move { connection.lost(&device).await }
        });
        let mut events = connection.events().unwrap();
        let told = tokio::spawn(async move { events.next().await });
        for _ in 1..20 {
            request(&mut broker).await;
        }
        drop(broker);
        for point in points {
            assert!(is_disconnected(point.await.unwrap()));
        }
        assert!(is_disconnected(loss.await.unwrap()));
        assert!(is_disconnected(told.await.unwrap()));
        assert!(is_disconnected(timeline.wait_async(3).await), "and from then on");
        assert!(is_disconnected(connection.lost(&device).await));
    });
}

#[test]
fn a_refused_wait_says_so() {
    let (_connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-refused");
    run(async {
        let waiter = Arc::clone(&timeline);
        let task = tokio::spawn(async move { waiter.wait_async(9).await });
        let (id, _) = request(&mut broker).await;
        broker.reply(id, WireError::new(ErrorCode::OVER_QUOTA, "too many waits").into());
        assert_eq!(task.await.unwrap().unwrap_err().code(), Some(ErrorCode::OVER_QUOTA));
    });
}

#[test]
fn all_who_wait_for_a_loss_are_told_and_its_event_stays() {
    let (connection, broker, timeline, _hangup) = timeline("dmashare-tokio-loss");
    let device = timeline.device().clone();
    run(async {
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (connection, device) = (connection.clone(), device.clone());
                tokio::spawn(async move { connection.lost(&device).await })
            })
            .collect();
        tokio::task::yield_now().await;
        // Something else is told first, which wakes them for nothing.
        broker.event(Wire::DeviceGone(dmashare::DeviceId(99)));
        tokio::task::yield_now().await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        // One is dropped, which may be the one that reads.
        tasks[0].abort();
        broker.lose(0);
        for (at, task) in tasks.into_iter().enumerate() {
            match task.await {
                Ok(result) => result.unwrap(),
                Err(error) => assert!(at == 0 && error.is_cancelled()),
            }
        }
        assert_eq!(connection.dispatch(SOON).unwrap().len(), 2, "events are for who dispatches");
        connection.lost(&device).await.unwrap();
    });
}

#[test]
fn a_loss_that_is_rehearsed_is_told_without_the_page() {
    let (connection, broker, timeline, _hangup) = timeline("dmashare-tokio-rehearsed");
    let device = timeline.device().clone();
    run(async {
        let mut loss = Box::pin(connection.lost(&device));
        assert!(is_pending(loss.as_mut()));
        let Wire::DeviceLost(lost) = lost_event(0) else { unreachable!("it is a loss") };
        broker.event(Wire::DeviceLost(DeviceLost { cause: Cause::Rehearsed, ..lost }));
        broker.event(Wire::DeviceGone(DEVICE));
        loss.await.unwrap();
        assert!(!device.is_lost(), "the page is another client's too");
        assert_eq!(connection.dispatch(SOON).unwrap().len(), 2);
        connection.lost(&device).await.unwrap();
    });
}

#[test]
fn a_fence_ends_and_the_broker_is_asked_how() {
    let (connection, mut broker) = connected();
    run(async {
        let (waited, source) = fence(&connection, &mut broker, GuardKind::Vgem);
        let mut wait = Box::pin(waited.wait_async());
        assert!(is_pending(wait.as_mut()));
        assert!(broker.try_request().is_none(), "pending needs no question");
        source.write(1).unwrap();
        let status = {
            let answer = async {
                let (id, asked) = request(&mut broker).await;
                assert_eq!(asked, Request::QueryFence(FENCE));
                let state = FenceState::Failed { cause: Cause::Unplugged, at_ns: 7 };
                broker.reply(id, Reply::FenceState(state));
            };
            tokio::join!(wait, answer).0.unwrap()
        };
        assert!(matches!(status, FenceStatus::Failed(error) if error.is_device_lost()));
        // A wait that is dropped while it asks leaves an answer that nobody wants.
        let mut wait = Box::pin(waited.wait_async());
        while broker.try_request().is_none() {
            assert!(is_pending(wait.as_mut()));
            tokio::task::yield_now().await;
        }
        drop(wait);
        drop(waited);
        broker.expect_done(&Request::Release(FENCE));
    });
}

#[test]
fn a_source_that_never_ends_is_over_with_its_device() {
    let (connection, mut broker) = connected();
    run(async {
        let (waited, _source) = fence(&connection, &mut broker, GuardKind::Source);
        let mut wait = Box::pin(waited.wait_async());
        assert!(is_pending(wait.as_mut()));
        broker.lose(0);
        let answer = async {
            let (id, asked) = request(&mut broker).await;
            assert_eq!(asked, Request::QueryFence(FENCE));
            let state = FenceState::Failed { cause: Cause::Unplugged, at_ns: 7 };
            broker.reply(id, Reply::FenceState(state));
        };
        let status = tokio::join!(wait, answer).0.unwrap();
        assert!(matches!(status, FenceStatus::Failed(error) if error.is_device_lost()));
    });
}

#[test]
fn a_source_of_a_lost_device_is_over_without_a_connection_too() {
    let (connection, mut broker) = connected();
    let (waited, _source) = fence(&connection, &mut broker, GuardKind::Source);
    broker.set(AT, DeviceState::Lost);
    drop(broker);
    assert!(is_disconnected(connection.dispatch(SOON)));
    // The page says that it is lost, and nobody can say how it ended.
    assert!(is_disconnected(run(waited.wait_async())));
}

/// Four threads, each with a runtime of its own, wait by one connection for points. A thread that calls reads
/// the answers of all, and nothing is left for the runtimes to see: the tasks wake all the same. One in three
/// is dropped, most of them with an answer that was not taken.
#[test]
fn what_a_thread_reads_wakes_the_tasks_of_every_runtime() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 50;
    const WAITS: u64 = 12;
    let (connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-runtimes");
    let serving = thread::spawn(move || {
        let mut held = Vec::new();
        while let Some((id, request, _)) = broker.receive() {
            match request {
                Request::WaitPoint(PointAt { point, .. }) => held.push((id, point)),
                // A thread has sent all of its round; the answers come last first.
                Request::QueryPoint(PointAt { point, .. }) => {
                    let (own, others) =
                        held.into_iter().partition::<Vec<_>, _>(|(_, at)| at / 1_000_000 == point);
                    held = others;
                    for (id, _) in own.into_iter().rev() {
                        broker.reply(id, Reply::PointState(OK));
                    }
                    broker.reply(id, Reply::PointState(OK));
                }
                // At the end, when nobody is there to be answered.
                Request::Release(TIMELINE) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    thread::scope(|scope| {
        for at in 1..=THREADS {
            let timeline = &timeline;
            scope.spawn(move || {
                run(async {
                    for round in 0..ROUNDS {
                        let first = at * 1_000_000 + round * WAITS;
                        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
                        for point in first..first + WAITS {
                            let timeline = Arc::clone(timeline);
                            let wait = async move { timeline.wait_async(point).await };
                            let some =
                                if point.is_multiple_of(3) { &mut dropped } else { &mut kept };
                            some.push(tokio::spawn(wait));
                        }
                        // They are asked for when the runtime has polled each of them once.
                        tokio::task::yield_now().await;
                        timeline.query(at).unwrap();
                        dropped.iter().for_each(tokio::task::JoinHandle::abort);
                        for wait in kept {
                            wait.await.unwrap().unwrap();
                        }
                    }
                });
            });
        }
    });
    drop(timeline);
    drop(connection);
    serving.join().unwrap();
}

#[test]
fn no_descriptor_stays_behind() {
    let (connection, mut broker, timeline, _hangup) = timeline("dmashare-tokio-fds");
    broker.set(AT, DeviceState::Present);
    let device = timeline.device().clone();
    run(async {
        let (waited, _source) = fence(&connection, &mut broker, GuardKind::SwSync);
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let least = (0..50)
            .map(|_| {
                assert!(is_pending(pin!(timeline.wait_async(3))));
                assert!(is_pending(pin!(connection.lost(&device))));
                assert!(is_pending(pin!(waited.wait_async())));
                assert!(is_pending(pin!(async { connection.events().unwrap().next().await })));
                count()
            })
            .collect::<Vec<_>>();
        // Other tests of this process open and close some meanwhile, but not two hundred.
        assert!(least[49] < least[0] + 100, "{least:?}");
        assert_eq!(open_fds("dmashare-tokio-fds"), 1);
    });
}
