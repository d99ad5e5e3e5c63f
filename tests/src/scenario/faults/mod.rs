//! System calls of the broker's that fail: each one that it makes and that can, by strace's injection,
//! while a client does all that one does. Whoever it hits has an error that says why, or does not
//! notice; nobody else does, nothing is left behind, and the broker goes on.

use std::time::Duration;

use super::{SIMULATED, Scenario};

mod calls;
mod running;
mod start;

use calls::FAULTS;

const fn fault<const N: usize>() -> Scenario {
    Scenario {
        backends: SIMULATED,
        bound: Duration::from_secs(600),
        config: running::CONFIG,
        ..Scenario::new(FAULTS[N].scenario, running::run::<N>)
    }
}

macro_rules! faults {
    ($($n:literal)*) => {
        &[$(fault::<$n>(),)* Scenario {
            backends: SIMULATED,
            bound: Duration::from_secs(600),
            ..Scenario::new("faults/start", start::run)
        }]
    };
}

/// All of them.
pub(super) const SCENARIOS: &[Scenario] = faults!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17);

const _: () = assert!(SCENARIOS.len() == FAULTS.len() + 1, "each fault is a scenario");
