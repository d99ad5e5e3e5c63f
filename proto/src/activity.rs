//! What goes on with devices, for who watches: `Broker1.GetActivity` gives one for each, as JSON.

use serde::{Deserialize, Serialize};

/// Ages of pending fences are told in these classes: younger than so many milliseconds, and the rest.
pub const AGES_MS: [u64; 4] = [10, 100, 1_000, 10_000];

/// A device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Its id.
    pub device: u64,
    /// Buffers that were exported of it so far.
    pub buffers: u64,
    /// Imports of them so far.
    pub imports: u64,
    /// Fences of it that were handed over pending so far, those of points among them.
    pub fences: u64,
    /// Fences that are pending now, by age: see [`AGES_MS`].
    pub ages: [u32; AGES_MS.len() + 1],
    /// For how long the oldest of them has been, in nanoseconds; 0 where none is.
    pub oldest_ns: u64,
}

impl Activity {
    /// Counts a pending fence of an age.
    pub fn pends(&mut self, age_ns: u64) {
        let class = AGES_MS.iter().position(|&ms| age_ns < ms * 1_000_000);
        self.ages[class.unwrap_or(AGES_MS.len())] += 1;
        self.oldest_ns = self.oldest_ns.max(age_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_classed() {
        let mut activity = Activity::default();
        for age_ns in [0, 9_999_999, 10_000_000, 999_999_999, 1_000_000_000, u64::MAX] {
            activity.pends(age_ns);
        }
        assert_eq!((activity.ages, activity.oldest_ns), ([2, 1, 1, 1, 1], u64::MAX));
    }
}
