//! The points of one timeline: what is promised, what is submitted, and how it ended. In order: a
//! point has ended when it and all below it have, as on the kernel's own timelines.

use std::collections::{BTreeMap, VecDeque};

use dmashare_proto::message::{FenceState, PointState};
use serde::{Deserialize, Serialize};

/// Ends that are kept. One covers all points since the end before it.
const KEPT: usize = 256;
/// The same, over a restart: a record of a timeline is written with each of its points.
const KEPT_OVER: usize = 16;

/// The last point that there can be: one more can be counted.
const MOST: u64 = u64::MAX - 1;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Points {
    /// The last point that will come.
    promised: u64,
    /// The last point whose source was handed over, or whose promise was ended.
    submitted: u64,
    /// Everything up to here has ended.
    ended: u64,
    /// Submitted, and not in its turn yet: how it ended, if it has.
    open: BTreeMap<u64, Option<FenceState>>,
    /// How the last ones ended, oldest first; each since the one before.
    kept: VecDeque<(u64, FenceState)>,
    /// Everything up to here ended too long ago.
    forgotten: u64,
    /// Promises that nobody fulfils, from above the first to the second point: known to have failed
    /// before it is their turn.
    doomed: Option<(u64, u64, FenceState)>,
}

impl Points {
    /// What of it is kept over a restart: of how points ended, the last few.
    pub fn kept(&self) -> Self {
        let mut kept = self.clone();
        while kept.kept.len() > KEPT_OVER
            && let Some((to, _)) = kept.kept.pop_front()
        {
            kept.forgotten = to;
        }
        kept
    }

    /// Whether it is what these functions leave behind.
    pub fn agree(&self) -> bool {
        let open: Vec<u64> = self.open.keys().copied().collect();
        let first = self.open.first_key_value();
        let kept: Vec<u64> = self.kept.iter().map(|(to, _)| *to).collect();
        self.forgotten <= self.ended
            && self.last() <= self.promised
            && self.promised <= MOST
            && open.iter().all(|&point| point > self.ended && point <= self.submitted)
            // What has ended in its turn is closed.
            && first.is_none_or(|(_, state)| state.is_none())
            && self.open.values().flatten().all(|state| *state != FenceState::Pending)
            && kept.is_sorted_by(|a, b| a < b)
            && kept.iter().all(|&to| to > self.forgotten && to <= self.ended)
            && kept.len() <= KEPT
            && self.kept.iter().all(|(_, state)| *state != FenceState::Pending)
            && self.doomed.is_none_or(|(from, to, state)| {
                from < to && to <= self.promised && state != FenceState::Pending
            })
    }

    /// The last point whose source was handed over, or that was signalled.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Points that are submitted and not over in their turn, and whether they have ended.
    pub fn open(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        self.open.iter().map(|(&point, state)| (point, state.is_some()))
    }

    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// The last point that can not be submitted any more.
    pub fn last(&self) -> u64 {
        self.submitted.max(self.ended)
    }

    /// Whether a promise is not kept yet.
    pub fn is_promising(&self) -> bool {
        self.promised > self.last()
    }

    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// Whether some failed before their turn.
    pub fn is_doomed(&self) -> bool {
        self.doomed.is_some()
    }

    /// Submitted points whose source has not ended.
    pub fn pending(&self) -> usize {
        self.open.values().filter(|state| state.is_none()).count()
    }

    /// The point after which one that is open begins: it stands for those between, too.
    pub fn before(&self, point: u64) -> Option<u64> {
        self.open.get(&point)?.is_none().then(|| {
            let below = self.open.range(..point).next_back();
            below.map_or(self.ended, |(below, _)| *below)
        })
    }

    /// Points up to this one will come. `false` if that is no news.
    pub fn promise(&mut self, point: u64) -> bool {
        let is_new = point > self.promised;
        self.promised = self.promised.max(point);
        is_new
    }

    /// A source was handed over. `false` if the point, or one above it, was submitted before.
    pub fn submit(&mut self, point: u64) -> bool {
        if point <= self.last() {
            return false;
        }
        self.submitted = point;
        self.promised = self.promised.max(point);
        self.open.insert(point, None);
        true
    }

    /// A submitted point's source has ended. What is not open has ended before.
    pub fn end(&mut self, point: u64, state: FenceState) {
        if let Some(open) = self.open.get_mut(&point)
            && open.is_none()
        {
            *open = Some(state);
            self.advance();
        }
    }

    /// What was promised and not submitted will not come; gives the last such point.
    pub fn end_promises(&mut self, state: FenceState) -> Option<u64> {
        let (from, point) = (self.last(), self.promised);
        if !self.submit(point) {
            return None;
        }
        self.doomed = Some((from, point, state));
        self.end(point, state);
        Some(point)
    }

    /// The kernel's timeline is signalled up to this point: an importer did so itself.
    pub fn signalled(&mut self, point: u64, at_ns: u64) {
        if point <= self.ended {
            return;
        }
        self.promised = self.promised.max(point);
        self.submitted = self.submitted.max(point);
        self.open = self.open.split_off(&(point + 1));
        self.close(point, FenceState::Ok { at_ns });
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(first) = self.open.first_entry()
            && let Some(state) = *first.get()
        {
            let (point, _) = first.remove_entry();
            self.close(point, state);
        }
    }

    fn close(&mut self, point: u64, state: FenceState) {
        self.ended = point;
        // A run of points that ended alike in one instant is one entry.
        if let Some(last) = self.kept.back_mut()
            && last.1 == state
        {
            last.0 = point;
            return;
        }
        if self.kept.len() == KEPT
            && let Some((to, _)) = self.kept.pop_front()
        {
            self.forgotten = to;
        }
        self.kept.push_back((point, state));
    }

    pub fn state(&self, point: u64) -> PointState {
        if point > self.promised {
            PointState::Unknown
        } else if point > self.submitted {
            PointState::Promised
        } else if let Some((from, to, state)) = self.doomed
            && point > from
            && point <= to
        {
            state.into()
        } else if point > self.ended {
            PointState::Pending
        } else if point <= self.forgotten {
            PointState::Forgotten
        } else {
            let after = self.kept.partition_point(|(to, _)| *to < point);
            self.kept.get(after).map_or(PointState::Forgotten, |(_, state)| (*state).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use dmashare_proto::message::Cause;

    use super::*;

    const OK: FenceState = FenceState::Ok { at_ns: 7 };
    const LOST: FenceState = FenceState::Failed { cause: Cause::Unplugged, at_ns: 9 };

    #[test]
    fn points_end_in_their_turn() {
        let mut points = Points::default();
        assert!(points.promise(3));
        assert!(points.submit(1) && points.submit(2) && points.submit(3));
        points.end(3, OK);
        points.end(2, LOST);
        assert_eq!((points.ended(), points.state(3)), (0, PointState::Pending));
        points.end(1, OK);
        assert_eq!(points.ended(), 3);
        assert_eq!(points.state(1), OK.into());
        assert_eq!(points.state(2), LOST.into());
        assert_eq!(points.state(3), OK.into());
        assert_eq!(points.state(4), PointState::Unknown);
    }

    #[test]
    fn a_submission_fulfils_what_is_below() {
        let mut points = Points::default();
        assert!(points.promise(10));
        assert!(!points.promise(10) && !points.promise(9));
        assert!(points.submit(5));
        assert_eq!(points.state(3), PointState::Pending);
        assert_eq!(points.state(6), PointState::Promised);
        assert!(!points.submit(5) && !points.submit(4));
        points.end(5, OK);
        assert_eq!(points.state(3), OK.into());
    }

    #[test]
    fn ended_promises_are_told_before_what_is_pending_below() {
        let mut points = Points::default();
        points.promise(10);
        points.submit(4);
        assert_eq!(points.end_promises(LOST), Some(10));
        assert_eq!(points.end_promises(LOST), None);
        // In the kernel they wait for their turn; that they failed is known at once.
        assert_eq!((points.ended(), points.state(10)), (0, LOST.into()));
        assert_eq!(points.state(4), PointState::Pending);
        points.end(4, OK);
        assert_eq!(points.state(4), OK.into());
        assert_eq!(points.state(5), LOST.into());
        assert_eq!(points.state(10), LOST.into());
        assert!(!points.submit(10) && points.submit(11));
    }

    #[test]
    fn what_an_importer_signalled_is_over() {
        let mut points = Points::default();
        points.submit(1);
        points.submit(4);
        points.signalled(2, 7);
        assert_eq!((points.ended(), points.state(1), points.state(2)), (2, OK.into(), OK.into()));
        points.end(1, LOST);
        assert_eq!(points.state(1), OK.into());
        points.end(4, OK);
        assert_eq!(points.ended(), 4);
        assert_eq!(points.state(3), OK.into());
    }

    #[test]
    fn old_ends_are_forgotten() {
        let mut points = Points::default();
        for point in 1..=300 {
            points.submit(point);
            points.end(point, FenceState::Ok { at_ns: point });
        }
        assert_eq!(points.state(44), PointState::Forgotten);
        assert_eq!(points.state(45), PointState::Ok { at_ns: 45 });
        assert_eq!(points.kept.len(), KEPT);
    }
}
