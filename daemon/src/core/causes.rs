//! Why things ended, kept for a while after they are gone: a waiter that wakes late, or learns of an
//! error by the kernel's poor word for it, can still ask.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use dmashare_proto::ObjectId;
use dmashare_proto::message::{Cause, Direction, FenceState};
use serde::{Deserialize, Serialize};

use super::{Broker, Handles};

/// Entries that are kept of all users together.
const KEPT: usize = 4096;

/// An object (a fence, an import, a timeline), and 0 or the timeline's point.
pub(super) type Key = (ObjectId, u64);

/// Why something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why.
    pub cause: Cause,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    uid: u32,
    /// It stands for the points above this one, up to its own.
    after: u64,
    ended: Ended,
}

/// The newest of them, by what has ended. Every entry is of one user: each handle on a fence has an
/// id of its own. When it is full, the user who has most loses the oldest, so nobody can push out
/// what is another's by having fences fail.
#[derive(Debug)]
pub(super) struct Causes {
    most: usize,
    ended: BTreeMap<Key, Entry>,
    /// Oldest first.
    of: HashMap<u32, VecDeque<Key>>,
    /// What has come and gone since it was last kept.
    touched: BTreeSet<Key>,
    noted: bool,
}

impl Default for Causes {
    fn default() -> Self {
        Self {
            most: KEPT,
            ended: BTreeMap::new(),
            of: HashMap::new(),
            touched: BTreeSet::new(),
            noted: false,
        }
    }
}

impl Causes {
    fn note(&mut self, key: Key, uid: u32, ended: Ended) {
        self.note_run(key.1, key, uid, ended);
    }

    fn note_run(&mut self, after: u64, key: Key, uid: u32, ended: Ended) {
        if self.ended.contains_key(&key) {
            return;
        }
        if self.ended.len() == self.most {
            self.drop_one();
        }
        self.put(key, Entry { uid, after, ended });
        self.touch(key);
    }

    fn put(&mut self, key: Key, entry: Entry) {
        self.of.entry(entry.uid).or_default().push_back(key);
        self.ended.insert(key, entry);
    }

    fn touch(&mut self, key: Key) {
        if self.noted {
            self.touched.insert(key);
        }
    }

    /// From here on changes are noted; all that is there is new.
    pub fn keep(&mut self) {
        self.noted = true;
        self.touched = self.ended.keys().copied().collect();
    }

    /// Whether something is noted.
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// What has come (or is `None` again).
    pub fn take_touched(&mut self) -> impl Iterator<Item = (Key, Option<Entry>)> + '_ {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|key| (key, self.ended.get(&key).copied()))
    }

    /// Puts back what was kept.
    pub fn put_back(&mut self, mut kept: Vec<(Key, Entry)>) {
        kept.sort_by_key(|(key, entry)| (entry.ended.at_ns, *key));
        for (key, entry) in kept {
            self.put(key, entry);
        }
    }

    fn drop_one(&mut self) {
        let Some((&uid, keys)) = self.of.iter_mut().max_by_key(|(_, keys)| keys.len()) else {
            return;
        };
        if let Some(key) = keys.pop_front() {
            self.ended.remove(&key);
            if self.noted {
                self.touched.insert(key);
            }
        }
        if keys.is_empty() {
            self.of.remove(&uid);
        }
    }

    /// Root may ask for everything, others for what was theirs.
    fn get(&self, uid: u32, key: Key) -> Option<Ended> {
        let (object, point) = key;
        let (found, entry) = self.ended.range(key..=(object, u64::MAX)).next()?;
        let is_it = found.1 == point || entry.after < point;
        (is_it && (uid == 0 || uid == entry.uid)).then_some(entry.ended)
    }

    /// Whether there are no more than may be kept.
    pub fn is_bounded(&self) -> bool {
        self.ended.len() <= self.most
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.ended.len()
    }
}

impl<H: Handles> Broker<H> {
    /// Notes why an object of a user's (or a point of it; 0 for the object as a whole) ended. The
    /// first cause stays.
    pub(super) fn note_cause(
        &mut self,
        object: ObjectId,
        point: u64,
        uid: u32,
        cause: Cause,
        at_ns: u64,
    ) {
        self.causes.note((object, point), uid, Ended { cause, at_ns });
    }

    /// Notes why points of a timeline, above the first and up to the second, ended: for its maker and
    /// for everyone who imported it. `submitter` is who handed the source over.
    pub(super) fn note_points(
        &mut self,
        timeline: ObjectId,
        (after, point): (u64, u64),
        submitter: Option<u32>,
        state: FenceState,
    ) {
        let FenceState::Failed { cause, at_ns } = state else { return };
        let Some(known) = self.timelines.get(&timeline) else { return };
        // Also by the id of one that let go of it, where that submits.
        let maker = match known.direction {
            _ if known.maker.is_some() => known.maker.map(|maker| self.uid_of(maker)),
            Direction::Acquire => submitter,
            Direction::Release => None,
        };
        let importers = known.importers.iter().map(|&(client, it)| (it, self.uid_of(client)));
        let owners: Vec<_> = importers.chain(maker.map(|uid| (timeline, uid))).collect();
        for (handle, uid) in owners {
            self.causes.note_run(after, (handle, point), uid, Ended { cause, at_ns });
        }
    }

    /// The object that an id is a handle on, or the object itself.
    #[must_use]
    pub fn behind(&self, object: ObjectId) -> ObjectId {
        let imports = self.fence_imports.get(&object).or(self.timeline_imports.get(&object));
        imports.copied().unwrap_or(object)
    }

    /// Why an object of a user's (root: of anyone's) ended, also after it is gone. `None` if it has
    /// not failed, failed too long ago, or is another's.
    #[must_use]
    pub fn cause_of(&self, uid: u32, object: ObjectId, point: u64) -> Option<Ended> {
        self.causes.get(uid, (object, point))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(at_ns: u64) -> Ended {
        Ended { cause: Cause::TimedOut, at_ns }
    }

    fn key(object: u64) -> Key {
        (ObjectId(object), 0)
    }

    #[test]
    fn the_first_cause_stays_and_is_its_owners() {
        let mut causes = Causes::default();
        causes.note(key(7), 1000, ended(1));
        causes.note(key(7), 1000, ended(2));
        causes.note((ObjectId(7), 3), 1000, ended(3));
        assert_eq!(causes.get(1000, key(7)), Some(ended(1)));
        assert_eq!(causes.get(0, key(7)), Some(ended(1)), "root");
        assert_eq!(causes.get(1001, key(7)), None);
        assert_eq!(causes.get(1000, (ObjectId(7), 3)), Some(ended(3)), "a point of it");
        assert_eq!(causes.get(1000, key(8)), None);
    }

    #[test]
    fn an_end_stands_for_the_points_since_the_one_before() {
        let mut causes = Causes::default();
        let point = |point| (ObjectId(7), point);
        causes.note_run(3, point(5), 1000, ended(1));
        causes.note_run(8, point(9), 1000, ended(2));
        let told = |at| causes.get(1000, point(at)).map(|ended| ended.at_ns);
        let expected = [None, None, None, None, Some(1), Some(1), None, None, None, Some(2), None];
        assert_eq!((0..=10).map(told).collect::<Vec<_>>(), expected);
        assert_eq!(causes.get(1000, (ObjectId(6), 0)), None, "the next object's");
    }

    #[test]
    fn who_has_most_loses_the_oldest() {
        let mut causes = Causes { most: 8, ..Causes::default() };
        for object in [1, 2] {
            causes.note(key(object), 1000, ended(object));
        }
        for object in 10..1000 {
            causes.note(key(object), 1001, ended(object));
            assert!(causes.len() <= 8);
            assert_eq!(causes.of.values().map(VecDeque::len).sum::<usize>(), causes.len());
        }
        assert!(causes.get(1000, key(1)).is_some() && causes.get(1000, key(2)).is_some());
        assert!(causes.get(1001, key(993)).is_none() && causes.get(1001, key(994)).is_some());
        // Alone, the one before has room for all.
        for object in 2000..2010 {
            causes.note(key(object), 1000, ended(object));
        }
        assert!(causes.get(1000, key(1)).is_none() && causes.get(1000, key(2009)).is_some());
        assert!(causes.get(1001, key(999)).is_some(), "half is left to the other");
    }

    #[test]
    fn a_crowd_of_users_leaves_nothing_behind() {
        let mut causes = Causes { most: 8, ..Causes::default() };
        for uid in 0..1000 {
            causes.note(key(u64::from(uid)), uid, ended(1));
        }
        assert_eq!((causes.len(), causes.of.len()), (8, 8));
    }
}
