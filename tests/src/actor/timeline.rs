//! What actors do with timelines.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dmashare::{Cause, Connection, Direction, Error, Policy, Timeline, Token};
use dmashare_uapi::syncobj::Syncobj;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use super::objects::{Object, Objects};
use super::{Done, Key};
use crate::Card;
use crate::clock::now_ns;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum TimelineTask {
    /// Make one. → [`Done::Object`]
    Create {
        /// The device whose loss ends it.
        card: Card,
        /// Who submits.
        direction: Direction,
        /// How points reach importers.
        policy: Policy,
    },
    /// → [`Done::Object`]
    Import {
        /// The right.
        token: String,
    },
    /// Promise all points up to one. → [`Done::Nothing`]
    Promise {
        /// Which.
        key: Key,
        /// Up to here.
        point: u64,
    },
    /// Submit a point with the sync_file beside this task as its source, or as done without one.
    /// → [`Done::Nothing`]
    Submit {
        /// Which.
        key: Key,
        /// The point.
        point: u64,
        /// Whose the source is said to be.
        card: Card,
        /// The deadline, in milliseconds; 0 is the broker's default.
        deadline_ms: u64,
    },
    /// → [`Done::Point`]
    Query {
        /// Which.
        key: Key,
        /// The point.
        point: u64,
    },
    /// Wait for points, one after the other, by the library. → [`Done::Points`]
    Wait {
        /// Which.
        key: Key,
        /// The first and the last.
        points: (u64, u64),
        /// For how long, each.
        bound_ms: u64,
    },
    /// Wait for points by eventfds in an event loop, without the library, and for the timeline's
    /// *lost*. → [`Done::Looped`]
    Loop {
        /// Which.
        key: Key,
        /// From 1 to this one; none on a simulated machine.
        points: u64,
        /// The device to wait through.
        card: Card,
        /// For how long.
        bound_ms: u64,
    },
}

/// How a point ended, by the library; or a row of them that ended alike, whose last it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointEnd {
    /// Which.
    pub point: u64,
    /// 0 for ok, or the library's errno.
    pub errno: i32,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// When the wait was over, CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
}

/// What an event loop saw, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looped {
    /// How many points woke.
    pub woke: u64,
    /// A point that woke before its turn, and how far the timeline was signalled.
    pub early: Option<(u64, u64)>,
    /// Whether the timeline was said to be lost.
    pub lost: bool,
}

pub(super) fn perform(
    connection: &Connection,
    objects: &Objects,
    task: TimelineTask,
    fds: &[OwnedFd],
    at_it: impl Fn(),
) -> Result<Done> {
    let keep = |timeline: Timeline| {
        let (id, device) = (timeline.id(), timeline.device().id());
        let key = objects.keep(Object::Timeline(timeline));
        Done::Object { key, id, device }
    };
    match task {
        TimelineTask::Create { card, direction, policy } => {
            let node = card.open()?;
            Ok(keep(connection.create_timeline(node.as_fd(), policy, direction)?))
        }
        TimelineTask::Import { token } => {
            let token: Token = token.parse().context("a token")?;
            Ok(keep(connection.import_timeline(token)?))
        }
        TimelineTask::Promise { key, point } => {
            objects.get(key)?.timeline()?.promise(point)?;
            Ok(Done::Nothing)
        }
        TimelineTask::Submit { key, point, card, deadline_ms } => {
            let object = objects.get(key)?;
            let timeline = object.timeline()?;
            match fds.first() {
                None => timeline.submit_done(point)?,
                Some(source) => {
                    let deadline = (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms));
                    timeline.submit(point, card.open()?.as_fd(), source.as_fd(), deadline)?;
                }
            }
            Ok(Done::Nothing)
        }
        TimelineTask::Query { key, point } => {
            Ok(Done::Point(objects.get(key)?.timeline()?.query(point)?))
        }
        TimelineTask::Wait { key, points, bound_ms } => {
            at_it();
            let object = objects.get(key)?;
            let timeline = object.timeline()?;
            let mut ends: Vec<PointEnd> = Vec::new();
            for point in points.0..=points.1 {
                let end = PointEnd::wait(timeline, point, Duration::from_millis(bound_ms))?;
                match ends.last_mut() {
                    Some(last) if (last.errno, last.cause) == (end.errno, end.cause) => *last = end,
                    _ => ends.push(end),
                }
            }
            Ok(Done::Points(ends))
        }
        TimelineTask::Loop { key, points, card, bound_ms } => {
            let object = objects.get(key)?;
            let bound = Duration::from_millis(bound_ms);
            Ok(Done::Looped(event_loop(object.timeline()?, points, &card, bound, at_it)?))
        }
    }
}

impl PointEnd {
    /// Waits for a point by the library.
    ///
    /// # Errors
    /// It is not over in time; the broker refused.
    pub fn wait(timeline: &Timeline, point: u64, bound: Duration) -> Result<Self> {
        let result = timeline.wait(point, Some(bound));
        let at_ns = now_ns();
        match result {
            Ok(()) => Ok(Self { point, errno: 0, cause: None, at_ns }),
            Err(Error::Fence(error)) => {
                Ok(Self { point, errno: error.errno, cause: error.cause, at_ns })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it failed with this cause.
    #[must_use]
    pub fn failed_by(&self, cause: Cause) -> bool {
        self.cause == Some(cause) && self.errno == cause.errno()
    }
}

fn event_loop(
    timeline: &Timeline,
    points: u64,
    card: &Card,
    bound: Duration,
    at_it: impl Fn(),
) -> Result<Looped> {
    const LOST: u64 = u64::MAX;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    // Hang-ups are always told.
    epoll.add(timeline.lost_fd(), EpollEvent::new(EpollFlags::empty(), LOST))?;
    let node = card.open_render()?;
    let mut eventfds = BTreeMap::new();
    for point in 1..=points {
        let eventfd = timeline.eventfd(node.as_fd(), point)?;
        epoll.add(&eventfd, EpollEvent::new(EpollFlags::EPOLLIN, point))?;
        eventfds.insert(point, eventfd);
    }
    let line = match points {
        0 => None,
        _ => Some(Syncobj::from_fd(node.as_fd(), timeline.syncobj())?),
    };
    at_it();
    let mut looped = Looped::default();
    let end = Instant::now() + bound;
    let mut events = [EpollEvent::empty(); 64];
    while !looped.lost || !eventfds.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        let left = EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX);
        let count = epoll.wait(&mut events, left)?;
        if count == 0 {
            bail!("{} points did not wake in {bound:?}; {looped:?}", eventfds.len());
        }
        for event in &events[..count] {
            if event.data() == LOST {
                looped.lost = true;
                epoll.delete(timeline.lost_fd())?;
            } else if let (Some(eventfd), Some(line)) = (eventfds.remove(&event.data()), &line) {
                let reached = line.query()?;
                looped.woke += 1;
                if reached < event.data() {
                    looped.early = Some((event.data(), reached));
                }
                epoll.delete(&eventfd)?;
            }
        }
    }
    Ok(looped)
}

impl Object {
    fn timeline(&self) -> Result<&Timeline> {
        match self {
            Self::Timeline(timeline) => Ok(timeline),
            _ => bail!("no timeline"),
        }
    }
}
