//! What is asked about points, and when it is answered: at once, or when a point has ended.

use dmashare_proto::limits::MAX_POINT;
use dmashare_proto::message::{Direction, FenceState, PointAt, Reply};
use dmashare_proto::{ClientId, ErrorCode, ObjectId, WireError};

use super::accounts::{Kind, cost};
use super::timelines::check_point;
use super::{Broker, Effect, Effects, Handles};

/// A request that is answered when its point is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub client: ClientId,
    /// The client's name for the timeline.
    pub handle: ObjectId,
    pub id: u64,
}

impl<H: Handles> Broker<H> {
    pub(super) fn query_point(
        &mut self,
        client: ClientId,
        id: u64,
        at: PointAt,
        out: &mut Effects<H>,
    ) {
        let state = self.timeline_named(client, at.timeline).and_then(|(timeline, _)| {
            check_point(at)?;
            Ok((timeline, self.timelines[&timeline].state(at.point)))
        });
        match state {
            Err(error) => out.push(Effect::error(client, id, error)),
            Ok((_, state)) if state.is_over() => {
                out.push(Effect::reply(client, id, Reply::PointState(state)));
            }
            // It may have been signalled without the broker, or by the reactor just now.
            Ok((timeline, _)) => {
                out.push(Effect::ProbePoint { timeline, point: at.point, client, id });
            }
        }
        self.after(out);
    }

    /// All that the reactor had ended when it was asked is known here, and this is how far the
    /// kernel's timeline is signalled, where an importer can do that.
    pub fn point_probed(
        &mut self,
        now_ns: u64,
        object: ObjectId,
        point: u64,
        signalled: Option<u64>,
        (client, id): (ClientId, u64),
        out: &mut Effects<H>,
    ) {
        if let Some(signalled) = signalled {
            self.line_signalled(now_ns, object, signalled);
        }
        let reply = match self.timelines.get(&object) {
            Some(timeline) => Reply::PointState(timeline.state(point)),
            None => Reply::Error(
                WireError::new(ErrorCode::UNKNOWN_OBJECT, "the timeline was released meanwhile")
                    .about(object.0),
            ),
        };
        out.push(Effect::reply(client, id, reply));
        self.after(out);
    }

    /// A `Release` timeline is signalled up to this point, by whom ever.
    pub fn point_signalled(
        &mut self,
        now_ns: u64,
        object: ObjectId,
        point: u64,
        out: &mut Effects<H>,
    ) {
        self.line_signalled(now_ns, object, point);
        self.after(out);
    }

    /// The kernel cannot tell when a point of a `Release` timeline is signalled: who waits for it is
    /// told so, and not left to wait for what an importer signals by itself.
    pub fn watch_failed(
        &mut self,
        object: ObjectId,
        point: u64,
        error: &WireError,
        out: &mut Effects<H>,
    ) {
        if let Some(timeline) = self.timelines.get_mut(&object) {
            timeline.watched.remove(&point);
            for wait in timeline.waits.remove(&point).unwrap_or_default() {
                if let Some(client) = self.clients.get_mut(&wait.client) {
                    client.waits -= 1;
                    let error = error.clone().about(wait.handle.0);
                    out.push(Effect::error(wait.client, wait.id, error));
                }
            }
        }
        self.after(out);
    }

    fn line_signalled(&mut self, now_ns: u64, object: ObjectId, point: u64) {
        let Some(timeline) = self.timelines.get_mut(&object) else { return };
        // The kernel's number says nothing of errors: what the broker itself ends is told by it.
        if timeline.direction == Direction::Release && timeline.lost.is_none() {
            timeline.points.signalled(point.min(MAX_POINT), now_ns);
            timeline.watched = timeline.watched.split_off(&(point.saturating_add(1)));
            self.moved.insert(object);
        }
    }

    pub(super) fn wait_point(
        &mut self,
        client: ClientId,
        id: u64,
        at: PointAt,
        out: &mut Effects<H>,
    ) {
        if let Err(error) = self.add_wait(client, id, at, out) {
            out.push(Effect::error(client, id, error));
        }
        self.after(out);
    }

    fn add_wait(
        &mut self,
        client: ClientId,
        id: u64,
        at: PointAt,
        out: &mut Effects<H>,
    ) -> Result<(), WireError> {
        let (object, _) = self.timeline_named(client, at.timeline)?;
        check_point(at)?;
        let Some(timeline) = self.timelines.get(&object) else { return Ok(()) };
        let state = timeline.state(at.point);
        if state.is_over() {
            out.push(Effect::reply(client, id, Reply::PointState(state)));
            return Ok(());
        }
        let to_watch =
            timeline.direction == Direction::Release && !timeline.watched.contains_key(&at.point);
        let watch = to_watch
            .then(|| self.charge(client, Kind::Descriptors, cost::WATCHED_POINT))
            .transpose()?;
        self.one_more_wait(client)?;
        let Some(timeline) = self.timelines.get_mut(&object) else { return Ok(()) };
        let wait = Wait { client, handle: at.timeline, id };
        timeline.waits.entry(at.point).or_default().push(wait);
        if let Some(charge) = watch {
            timeline.watched.insert(at.point, charge);
            out.push(Effect::WatchPoint { timeline: object, point: at.point });
        }
        Ok(())
    }

    /// A point's fence has ended in the tables.
    pub(super) fn point_ended(
        &mut self,
        object: ObjectId,
        point: u64,
        submitter: u32,
        state: FenceState,
    ) {
        let Some(timeline) = self.timelines.get_mut(&object) else { return };
        let after = timeline.points.before(point);
        timeline.points.end(point, state);
        self.moved.insert(object);
        if let Some(after) = after {
            self.note_points(object, (after, point), Some(submitter), state);
        }
    }

    /// Answers the waits of timelines that have moved, and drops those that nobody has any more.
    pub(super) fn settle_timelines(&mut self, out: &mut Effects<H>) {
        for object in std::mem::take(&mut self.moved) {
            self.dirty_timeline_clients(object);
            let Some(timeline) = self.timelines.get_mut(&object) else { continue };
            // Those whose turn has come, and those that are known to have failed before it.
            let any = timeline.lost.is_some() || timeline.points.is_doomed();
            let up_to = if any { u64::MAX } else { timeline.points.ended() };
            let waiting = timeline.waits.range(..=up_to).map(|(&point, _)| point);
            let over: Vec<_> = waiting
                .map(|point| (point, timeline.state(point)))
                .filter(|(_, state)| state.is_over())
                .collect();
            for (point, state) in over {
                let waits = timeline.waits.remove(&point).unwrap_or_default();
                let reply = Reply::PointState(state);
                for wait in waits {
                    if let Some(client) = self.clients.get_mut(&wait.client) {
                        client.waits -= 1;
                        out.push(Effect::reply(wait.client, wait.id, reply.clone()));
                    }
                }
            }
            if timeline.is_unused() {
                let device = timeline.at.device;
                self.timelines.remove(&object);
                self.tokens.drop_for(object);
                self.touch(device, |device| device.timelines.remove(&object));
                out.push(Effect::DropTimeline(object));
            }
        }
    }
}
