//! Objects by id, with a note of those that have changed since they were last kept: whoever can change
//! one has noted it, so nothing changes unseen.

use std::collections::HashMap;
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

/// A table of objects.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    of: HashMap<K, V>,
    /// Of an object that is not there (any more), that it is to be dropped.
    touched: HashMap<K, Touch>,
    /// Somebody takes the notes.
    noted: bool,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { of: HashMap::new(), touched: HashMap::new(), noted: false }
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

    /// The notes.
    pub fn take_touched(&mut self) -> HashMap<K, Touch> {
        std::mem::take(&mut self.touched)
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

    #[test]
    fn what_can_have_changed_is_noted() {
        let mut table = Table::default();
        table.insert(1, 'a');
        assert!(!table.is_touched(), "nobody takes notes");
        table.note(Touch::New);
        assert_eq!(table.take_touched(), HashMap::from([(1, Touch::New)]));
        table.insert(2, 'b');
        *table.get_mut(&2).unwrap() = 'c';
        *table.get_mut(&1).unwrap() = 'd';
        assert_eq!(table.get_mut(&3), None);
        assert_eq!(table.remove(&3), None);
        let expected = HashMap::from([(1, Touch::Changed), (2, Touch::New)]);
        assert_eq!(table.take_touched(), expected);
        *table.get_derived(&1).unwrap() = 'e';
        assert!(!table.is_touched());
        table.remove(&1);
        assert_eq!(table.take_touched(), HashMap::from([(1, Touch::Changed)]));
    }
}
