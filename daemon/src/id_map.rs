//! Tables by ids that the broker has given out.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by ids. Not for keys that somebody else can choose.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Ids are numbers that are given out one after the other: nobody can choose such as collide, which is what
/// the standard hasher guards against, for many times as long.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing: neighbours go far from each other, in the high bits.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(number));
        }
    }

    fn finish(&self) -> u64 {
        // The table takes its places from the low bits.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::{IdHasher, IdMap};
    use std::collections::HashSet;
    use std::hash::Hasher;

    #[test]
    fn ids_in_a_row_go_apart() {
        let hash = |id: u64| {
            let mut hasher = IdHasher::default();
            hasher.write_u64(id);
            hasher.finish()
        };
        // A table of as many places takes the low bits, and seven of the highest to tell them apart.
        let places: HashSet<u64> = (1..=1024).map(|id| hash(id) & 1023).collect();
        assert!(places.len() > 500, "{} of 1024 places", places.len());
        let tags: HashSet<u64> = (1..=1024).map(|id| hash(id) >> 57).collect();
        assert_eq!(tags.len(), 128);
    }

    #[test]
    fn it_is_a_table() {
        let mut map = IdMap::default();
        for id in 0..10_000_u64 {
            map.insert(id * 3, id);
        }
        assert!((0..10_000).all(|id| map.remove(&(id * 3)) == Some(id)));
        assert!(map.is_empty());
    }
}
