//! CLOCK_MONOTONIC, the clock of the broker's reports and of the kernel's fences.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds on CLOCK_MONOTONIC, the same in all processes.
#[must_use]
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

/// A time span for people: `184 µs`, `22.1 ms`, `10.0 s`.
#[must_use]
pub fn human(ns: u64) -> String {
    let us = ns as f64 / 1e3;
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}
