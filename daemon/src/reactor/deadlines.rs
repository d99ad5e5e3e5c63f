//! When pending fences pass their deadlines. Exact: a fence that has ended leaves nothing behind
//! that would wake an idle service.

use std::collections::BTreeSet;

use dmashare_proto::ObjectId;
use nix::sys::epoll::EpollTimeout;

/// Deadlines, earliest first.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(u64, ObjectId)>);

impl Deadlines {
    pub fn add(&mut self, at_ns: u64, fence: ObjectId) {
        self.0.insert((at_ns, fence));
    }

    pub fn remove(&mut self, at_ns: u64, fence: ObjectId) {
        self.0.remove(&(at_ns, fence));
    }

    /// A fence whose deadline has passed.
    pub fn take_due(&mut self, now_ns: u64) -> Option<ObjectId> {
        let &first = self.0.first().filter(|(at, _)| *at <= now_ns)?;
        self.0.remove(&first);
        Some(first.1)
    }

    /// How long epoll may sleep: to the first deadline, or to `other_ns` where that is sooner, rounded
    /// up so that it is due on waking.
    pub fn timeout(&self, now_ns: u64, other_ns: Option<u64>) -> EpollTimeout {
        let first = self.0.first().map(|(at, _)| *at);
        let Some(at) = first.into_iter().chain(other_ns).min() else { return EpollTimeout::NONE };
        let millis = at.saturating_sub(now_ns).div_ceil(1_000_000);
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_pending_sleeps_for_ever() {
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.timeout(0, None), EpollTimeout::NONE);
        deadlines.add(5_000_001, ObjectId(1));
        assert_eq!(deadlines.timeout(0, None).as_millis(), Some(6));
        assert_eq!(deadlines.timeout(0, Some(9_000_000)).as_millis(), Some(6));
        assert_eq!(deadlines.timeout(0, Some(2_000_000)).as_millis(), Some(2));
        assert_eq!(deadlines.take_due(5_000_000), None);
        assert_eq!(deadlines.take_due(5_000_001), Some(ObjectId(1)));
        assert_eq!(deadlines.timeout(0, None), EpollTimeout::NONE);
    }

    #[test]
    fn an_ended_fence_wakes_nobody() {
        let mut deadlines = Deadlines::default();
        deadlines.add(7, ObjectId(1));
        deadlines.remove(7, ObjectId(1));
        assert_eq!(deadlines.timeout(0, None), EpollTimeout::NONE);
    }
}
