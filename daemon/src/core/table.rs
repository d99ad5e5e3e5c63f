//! Objects by id, with a note of those that have changed since they were last kept: whoever can change
//! one has noted it, so nothing changes unseen.

use crate::id_map::IdMap;
use std::collections::hash_map::{Iter, Values};
use std::hash::Hash;
use std::ops::Index;

/// What there is to be kept of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// It is new, or has got other descriptors.
    New,
    /// It may have changed.
    Changed,
}

/// Notes for which there is room even if there are none.
const MOST_NOTES: usize = 64;

/// A table of objects.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    of: IdMap<K, V>,
    /// Of an object that is not there (any more), that it is to be dropped.
    touched: IdMap<K, Touch>,
    /// Somebody takes the notes.
    noted: bool,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { of: IdMap::default(), touched: IdMap::default(), noted: false }
    }
}

impl<K: Copy + Eq + Hash, V> Table<K, V> {
    /// From here on changes are noted; all that is there is as it is said.
    pub fn note(&mut self, all: Touch) {
        self.noted = true;
        self.touched = self.of.keys().map(|&key| (key, all)).collect();
    }

    /// Whether something is noted.
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Takes the notes: of each object that there is one of, with what it is now.
    pub fn take_touched(&mut self, mut each: impl FnMut(K, Touch, Option<&V>)) {
        for (key, touch) in self.touched.drain() {
            each(key, touch, self.of.get(&key));
        }
        // Going through it takes as long as it is large, and one event may have made it very large.
        self.touched.shrink_to(MOST_NOTES);
    }

    fn touch(&mut self, key: K, touch: Touch) {
        if self.noted {
            let known = self.touched.entry(key).or_insert(touch);
            if touch == Touch::New {
                *known = touch;
            }
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.of.get(key)
    }

    #[cfg(test)]
    pub fn contains_key(&self, key: &K) -> bool {
        self.of.contains_key(key)
    }

    /// To change one.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.of.contains_key(key) {
            return None;
        }
        self.touch(*key, Touch::Changed);
        self.of.get_mut(key)
    }

    /// To change what nobody keeps: what follows from other objects.
    pub fn get_derived(&mut self, key: &K) -> Option<&mut V> {
        self.of.get_mut(key)
    }

    /// It has got other descriptors.
    pub fn renew(&mut self, key: K) {
        self.touch(key, Touch::New);
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.touch(key, Touch::New);
        self.of.insert(key, value)
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let gone = self.of.remove(key)?;
        self.touch(*key, Touch::Changed);
        Some(gone)
    }

    pub fn iter(&self) -> Iter<'_, K, V> {
        self.of.iter()
    }

    pub fn values(&self) -> Values<'_, K, V> {
        self.of.values()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.of.len()
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

impl<K: Copy + Eq + Hash, V> Index<&K> for Table<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        &self.of[key]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The notes, in order.
    fn notes(table: &mut Table<u64, char>) -> Vec<(u64, Touch, Option<char>)> {
        let mut all = Vec::new();
        table.take_touched(|key, touch, value| all.push((key, touch, value.copied())));
        all.sort_unstable_by_key(|note| note.0);
        all
    }

    #[test]
    fn what_can_have_changed_is_noted() {
        let mut table = Table::default();
        table.insert(1, 'a');
        assert!(!table.is_touched(), "nobody takes notes");
        table.note(Touch::New);
        assert_eq!(notes(&mut table), [(1, Touch::New, Some('a'))]);
        table.insert(2, 'b');
        *table.get_mut(&2).unwrap() = 'c';
        *table.get_mut(&1).unwrap() = 'd';
        assert_eq!(table.get_mut(&3), None);
        assert_eq!(table.remove(&3), None);
        let expected = [(1, Touch::Changed, Some('d')), (2, Touch::New, Some('c'))];
        assert_eq!(notes(&mut table), expected);
        *table.get_derived(&1).unwrap() = 'e';
        assert!(!table.is_touched());
        table.remove(&1);
        assert_eq!(notes(&mut table), [(1, Touch::Changed, None)]);
    }
}
