//! Clients that try to bring the broker down, or to make it useless to others: while they do, a pair
//! keeps its rhythm, and afterwards the broker is what it was.

use std::time::Duration;

use super::{ONCE, Scenario};
use crate::World;

mod descriptors;
mod files;
mod floods;
mod guesses;
mod silent;

/// In the virtual machine each is run where it is named, and not with all: they take minutes there.
const fn attack(name: &'static str, run: fn(&mut World) -> anyhow::Result<()>) -> Scenario {
    let bound = Duration::from_secs(600);
    Scenario { backends: ONCE, bound, is_alone: true, ..Scenario::new(name, run) }
}

/// All of them.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { config: descriptors::FEWER, ..attack("hostile/own-limit", descriptors::own_limit) },
    attack("hostile/in-flight", descriptors::in_flight),
    attack("hostile/socket-cycles", descriptors::socket_cycles),
    attack("hostile/tiny-messages", floods::tiny),
    attack("hostile/many-senders", floods::many_senders),
    attack("hostile/largest-messages", floods::largest),
    attack("hostile/half-messages", floods::halves),
    attack("hostile/connects", floods::connects),
    attack("hostile/never-reads", silent::never_reads),
    Scenario { config: silent::BRIEF, ..attack("hostile/stopped", silent::stopped) },
    attack("hostile/tokens", guesses::tokens),
    attack("hostile/ids", guesses::ids),
    attack("hostile/fuse", files::fuse),
    attack("hostile/slow-exporter", files::slow_exporter),
];
