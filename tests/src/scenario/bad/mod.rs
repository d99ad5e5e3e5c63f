//! Bad input: a clear error, nothing lost, nobody else disturbed. In each of these a well-behaved
//! pair goes on exchanging buffers and fences, the counts on D-Bus stay true, and in the end the
//! broker's descriptors are as many as before.

use std::time::Duration;

use anyhow::Result;

use super::{PATIENT, REAL, SIMULATED, Scenario};
use crate::{Backend, World};

mod accounts;
mod config;
mod deaths;
mod device_lost;
mod fds;
mod floods;
mod fuse;
mod handshake;
mod idle;
mod ids;
mod layouts;
mod messages;
mod missing;
mod other_device;
mod overdue;
mod panics;
mod python;
mod quotas;
mod readers;
mod tokens;

type Run = fn(&mut World) -> Result<()>;

/// What has nothing to do with guards is run with one backend of each machine.
const ONCE: &[Backend] = &[Backend::Simulated, Backend::SwSync];
/// The same where only a real kernel will do.
const ONCE_REAL: &[Backend] = &[Backend::SwSync];

const fn once(name: &'static str, run: Run) -> Scenario {
    Scenario { backends: ONCE, ..Scenario::new(name, run) }
}

const fn with(name: &'static str, config: &'static str, run: Run) -> Scenario {
    Scenario { backends: ONCE, config, ..Scenario::new(name, run) }
}

/// All of them.
pub(super) const SCENARIOS: &[Scenario] = &[
    once("bad-fds/kinds", fds::run),
    once("bad-fds/fuse", fuse::run),
    Scenario { backends: REAL, ..Scenario::new("bad-fds/other-device", other_device::run) },
    once("bad-layout", layouts::run),
    once("bad-tokens/all", tokens::run),
    Scenario::new("bad-tokens/lost-device", tokens::run_lost),
    once("bad-ids", ids::run),
    once("bad-messages", messages::run),
    once("bad-handshake", handshake::run),
    once("bad-client/silent", readers::run_silent),
    with("bad-client/never-reads", readers::QUEUE, readers::run_never_reads),
    Scenario::new("bad-client/dies", deaths::run),
    Scenario { backends: SIMULATED, ..Scenario::new("bad-client/panics", panics::run) },
    with("bad-client/flood", floods::LIMIT, floods::run),
    with("bad-client/quota", quotas::LIMITS, quotas::run),
    with("bad-client/accounts", accounts::LIMITS, accounts::run),
    with("bad-client/in-flight", accounts::IN_FLIGHT, accounts::run_in_flight),
    Scenario { config: PATIENT, ..Scenario::new("bad-moment/device-lost", device_lost::run) },
    once("bad-config", config::run),
    once("missing/no-bus", missing::run_no_bus),
    Scenario { backends: SIMULATED, ..Scenario::new("missing/no-device", missing::run_no_device) },
    once("missing/no-udev", missing::run_no_udev),
    Scenario {
        backends: ONCE_REAL,
        bound: Duration::from_secs(300),
        ..Scenario::new("missing/udev-comes-later", missing::run_udev_later)
    },
    with("overdue/report", overdue::REPORT, overdue::run_report),
    with("overdue/disconnect", overdue::DISCONNECT, overdue::run_disconnect),
    with("overdue/kill", overdue::KILL, overdue::run_kill),
    once("python", python::run),
    Scenario { bound: Duration::from_secs(240), ..Scenario::new("idle/no-wake-up", idle::run) },
];
