//! Where a time lies on the picture: linear around the event, logarithmic away from it, so that
//! 20 µs and 50 ms can both be read.

/// Up to here the scale is nearly linear.
const KNEE_US: f64 = 8.0;
/// The part of the width that what came before the event may take.
const BEFORE_AT_MOST: f64 = 0.28;

/// A scale over all times of a picture, from 0 (left) to 1 (right).
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    zero: f64,
    before: f64,
    after: f64,
}

fn bend(us: f64) -> f64 {
    (us.abs() / KNEE_US).ln_1p()
}

impl Scale {
    /// A scale that shows all of `times`. What is not a number is not looked at.
    pub(super) fn over(times: impl Iterator<Item = f64>) -> Self {
        let (mut first, mut last) = (0.0_f64, 100.0_f64);
        for time in times.filter(|time| time.is_finite()) {
            first = first.min(time);
            last = last.max(time);
        }
        let (before, after) = (bend(first), bend(last));
        let zero =
            if before == 0.0 { 0.0 } else { (before / (before + after)).min(BEFORE_AT_MOST) };
        Self { zero, before, after }
    }

    /// From 0 to 1.
    pub(super) fn place(&self, us: f64) -> f64 {
        if !us.is_finite() {
            return self.zero;
        }
        let side = if us < 0.0 {
            self.zero - bend(us) / self.before.max(f64::MIN_POSITIVE) * self.zero
        } else {
            self.zero + bend(us) / self.after * (1.0 - self.zero)
        };
        side.clamp(0.0, 1.0)
    }

    /// Powers of ten within the scale, on both sides of the event, from 10 µs on.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let mut ticks = vec![0.0];
        let mut us = 10.0;
        while bend(us) <= self.after.max(self.before) {
            if bend(us) <= self.after {
                ticks.push(us);
            }
            if self.zero > 0.0 && us >= 1000.0 && bend(us) <= self.before {
                ticks.push(-us);
            }
            us *= 10.0;
        }
        ticks.sort_by(f64::total_cmp);
        ticks
    }
}

/// `10 µs`, `1 ms`, `10 s`: for powers of ten.
pub(super) fn tick_label(us: f64) -> String {
    let sign = if us < 0.0 { "−" } else { "" };
    let us = us.abs();
    match us {
        ..0.5 => "0".to_owned(),
        ..999.0 => format!("{sign}{us:.0} µs"),
        ..999_000.0 => format!("{sign}{:.0} ms", us / 1e3),
        _ => format!("{sign}{:.0} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_short_times_are_apart() {
        let scale = Scale::over([-16_000.0, 20.0, 50_000.0].into_iter());
        let places: Vec<f64> =
            [-16_000.0, -5.0, 0.0, 20.0, 40.0, 1000.0, 50_000.0].map(|us| scale.place(us)).into();
        assert!(places.is_sorted(), "{places:?}");
        assert!(places[4] - places[3] > 0.03, "{places:?}");
        assert!(places[6] - places[5] > 0.2, "{places:?}");
        assert!(places[2] <= BEFORE_AT_MOST);
    }

    #[test]
    fn ticks_are_round() {
        let scale = Scale::over([-20_000.0, 3_000_000.0].into_iter());
        let labels: Vec<String> = scale.ticks().into_iter().map(tick_label).collect();
        let expected = "−10 ms|−1 ms|0|10 µs|100 µs|1 ms|10 ms|100 ms|1 s";
        assert_eq!(labels.join("|"), expected);
    }

    #[test]
    fn what_is_no_time_has_a_place() {
        let scale = Scale::over([f64::NAN, f64::INFINITY].into_iter());
        assert!((0.0..=1.0).contains(&scale.place(f64::NAN)));
        assert!((0.0..=1.0).contains(&scale.place(f64::MAX)));
    }
}
