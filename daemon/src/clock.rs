//! The two clocks. The core knows neither; times come to it with its events.

use nix::time::{ClockId, clock_gettime};

fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000
            + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// CLOCK_MONOTONIC, nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CLOCK_REALTIME, seconds.
#[must_use]
pub fn wall_clock_s() -> u64 {
    read(ClockId::CLOCK_REALTIME) / 1_000_000_000
}
