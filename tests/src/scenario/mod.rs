//! The scenarios: what has to work, end to end.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::{Backend, Machine, World};

pub mod figures;

mod bad;

mod activity;
mod attached;
mod broker_killed;
mod bus_client;
mod cause;
mod coldplug;
mod counted;
mod deadlines;
mod documents;
mod eject;
mod event_loops;
mod faults;
mod fence;
mod frozen;
mod holders;
mod hostile;
mod implicit;
mod journal;
mod kms;
mod kms_importer;
mod kms_in_fence;
mod kms_out_fence;
mod local;
mod many_guards;
mod masked;
mod merged;
mod metrics;
mod neutral;
mod packages;
mod pair;
mod polkit;
mod race;
mod reconnect;
mod rehearse;
mod rehearse_polkit;
mod replug;
mod restart;
mod share;
mod soak;
mod standing;
mod stop;
mod strace;
mod synthetic;
mod timeline;
mod torn_reads;
mod two_users;
mod units;
mod unplug_reader;
mod unplug_waiter;
mod vanished;
mod vulkan;
mod wayland;
mod wedged;

/// A scenario.
pub struct Scenario {
    /// Its name, without the backend.
    pub name: &'static str,
    /// The backends that it is run with.
    pub backends: &'static [Backend],
    /// How long it may take on the slowest machine.
    pub bound: Duration,
    /// Of how many cycles the bound is, where the environment may ask for more.
    pub cycles: Option<u32>,
    /// Configuration of the broker, TOML.
    pub config: &'static str,
    /// Words of kernel messages that would fail another scenario: the driver's own, whoever unplugs.
    pub tolerated: &'static [&'static str],
    /// Whether the machine is of no more use to others after it.
    pub is_last: bool,
    /// Whether it needs a boot of its own: in the virtual machine it is run where it is named, and
    /// not with all.
    pub is_alone: bool,
    /// What it does.
    pub run: fn(&mut World) -> Result<()>,
}

/// A scenario with a backend.
#[derive(Clone, Copy)]
pub struct Instance {
    /// What.
    pub scenario: &'static Scenario,
    /// With what guards.
    pub backend: Backend,
}

/// The reason for which a scenario does not apply: to be returned as its error.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl Instance {
    /// `share/sw_sync`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.scenario.name, self.backend.name())
    }

    /// How long it may take.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let Some(usual) = self.scenario.cycles else { return self.scenario.bound };
        let times = soak::cycles().div_ceil(usual).max(1);
        self.scenario.bound * times
    }

    /// Whether a name is its own, or the beginning of it.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.name().starts_with(name)
    }
}

const EVERYWHERE: &[Backend] = &[Backend::Simulated, Backend::SwSync, Backend::Vgem];
/// Twenty cycles.
const LONG: Duration = Duration::from_secs(300);
/// Deadlines that pass, a service that stops and starts.
const SLOW: Duration = Duration::from_secs(200);
/// Some ten thousand calls.
const MANY: Duration = Duration::from_secs(600);

const SIMULATED: &[Backend] = &[Backend::Simulated];
/// With and without guards.
const ALL: &[Backend] = &[Backend::Simulated, Backend::SwSync, Backend::Vgem, Backend::None];

/// Where guards have no part: simulated, and on one real kernel.
const ONCE: &[Backend] = &[Backend::Simulated, Backend::SwSync];

/// Delay locks hold ejects up for no longer than that.
const BRIEF: &str = "[eject]\ndelay_ms = 1500\n";

/// On one real kernel.
const SW_SYNC: &[Backend] = &[Backend::SwSync];

const REAL: &[Backend] = &[Backend::SwSync, Backend::Vgem];

impl Scenario {
    const fn new(name: &'static str, run: fn(&mut World) -> Result<()>) -> Self {
        let bound = Duration::from_secs(120);
        let (cycles, is_last, is_alone) = (None, false, false);
        let (backends, config, tolerated) = (EVERYWHERE, "", VIRTIO_GPU);
        Self { name, backends, bound, cycles, config, tolerated, is_last, is_alone, run }
    }

    /// On simulated devices alone.
    const fn simulated(name: &'static str, run: fn(&mut World) -> Result<()>) -> Self {
        Self { backends: SIMULATED, ..Self::new(name, run) }
    }
}

/// virtio-gpu loses a reference to a buffer when the device goes before the rest of a commit has run, or,
/// as it seems, before a command about the buffer is answered. No program can: each of its own references
/// keeps the device.
const VIRTIO_GPU: &[&str] = &["drm_mm_takedown"];

/// Devices are looked at after a deadline only, and nobody is disconnected meanwhile.
const NO_LOOKS: &str = "[broker]\nack_timeout_ms = 60000\n[devices]\nliveness_ms = 0\n";
/// Looked at without much ado.
const QUICK_LOOKS: &str = "[devices]\nliveness_ms = 50\n";

/// Loss that is not acknowledged for a while is no reason to disconnect anybody.
const PATIENT: &str = "[broker]\nack_timeout_ms = 60000\n";

const SCENARIOS: &[Scenario] = &[
    Scenario::new("coldplug", coldplug::run),
    Scenario { backends: &[Backend::SwSync], ..Scenario::new("units", units::run) },
    Scenario { backends: SW_SYNC, ..Scenario::new("journal", journal::run) },
    Scenario { backends: SW_SYNC, ..Scenario::new("documents", documents::run) },
    Scenario::new("share", share::run),
    Scenario::new("exporter-killed", share::exporter_killed),
    Scenario { bound: SLOW, ..Scenario::new("restart/killed", restart::killed) },
    Scenario { bound: SLOW, ..Scenario::new("restart/upgraded", restart::upgraded) },
    Scenario {
        backends: SW_SYNC,
        bound: SLOW,
        ..Scenario::new("packages/upgraded", packages::upgraded)
    },
    Scenario {
        backends: SW_SYNC,
        bound: SLOW,
        ..Scenario::new("packages/purged", packages::purged)
    },
    // A guard of vgem's lasts ten seconds at most, which a slow machine needs for a kill.
    Scenario {
        backends: ONCE,
        bound: MANY,
        config: restart::CONFIG,
        ..Scenario::new("restart/load", restart::under_load)
    },
    Scenario { bound: SLOW, ..Scenario::new("restart/gone", restart::meanwhile::gone) },
    Scenario {
        backends: SIMULATED,
        bound: SLOW,
        is_alone: true,
        ..Scenario::new("restart/full-keeper", restart::full_keeper)
    },
    Scenario {
        backends: ONCE,
        bound: SLOW,
        ..Scenario::new("restart/exchanged", restart::meanwhile::exchanged)
    },
    Scenario {
        backends: ALL,
        bound: SLOW,
        ..Scenario::new("restart/timelines", restart::meanwhile::timelines)
    },
    Scenario::simulated("restart/other-format", restart::meanwhile::other_format),
    Scenario::simulated("restart/nonsense", restart::meanwhile::nonsense),
    Scenario {
        backends: ONCE,
        bound: SLOW,
        config: restart::slow_reader::CONFIG,
        ..Scenario::new("restart/slow-reader", restart::slow_reader::run)
    },
    Scenario {
        backends: SW_SYNC,
        bound: SLOW,
        ..Scenario::new("watchdog/all", restart::watchdog::all)
    },
    Scenario {
        backends: SW_SYNC,
        bound: SLOW,
        ..Scenario::new("watchdog/reactor", restart::watchdog::reactor)
    },
    Scenario {
        backends: SIMULATED,
        bound: MANY,
        config: restart::each_call::CONFIG,
        ..Scenario::new("restart/each-call", restart::each_call::running)
    },
    Scenario {
        backends: SIMULATED,
        bound: MANY,
        config: restart::each_call::CONFIG,
        ..Scenario::new("restart/each-call-of-start", restart::each_call::starting)
    },
    Scenario::simulated("counted/share", counted::calls_of_a_share),
    Scenario::simulated("counted/fence", counted::calls_of_a_fence),
    Scenario::simulated("counted/allocations/share", counted::allocations_of_a_share),
    Scenario::simulated("counted/allocations/fence", counted::allocations_of_a_fence),
    Scenario::simulated("counted/instructions/share", counted::instructions_of_a_share),
    Scenario::simulated("counted/instructions/fence", counted::instructions_of_a_fence),
    Scenario::new("fence-signals", fence::signals),
    Scenario::new("fence-fails", fence::fails),
    Scenario::new("fence-times-out", fence::times_out),
    Scenario::new("unplug-waiter", unplug_waiter::run),
    Scenario::new("event-loops", event_loops::run),
    Scenario { backends: ONCE, ..Scenario::new("activity", activity::run) },
    Scenario { backends: ONCE, ..Scenario::new("metrics", metrics::run) },
    Scenario::new("eject/free", eject::free),
    Scenario::new("eject/client", eject::client),
    Scenario { backends: ONCE, ..Scenario::new("eject/keep", eject::keep) },
    Scenario {
        backends: ONCE,
        config: BRIEF,
        ..Scenario::new("eject/inhibitors", eject::inhibitors)
    },
    Scenario { backends: ONCE, ..Scenario::new("eject/cancel", eject::cancel) },
    Scenario { backends: ONCE, ..Scenario::new("eject/race", eject::race) },
    Scenario { backends: ONCE, bound: SLOW, ..Scenario::new("eject/restart", eject::restart) },
    Scenario { backends: ONCE, ..Scenario::new("eject/bad", eject::bad) },
    Scenario::simulated("eject/stuck", eject::stuck),
    Scenario { backends: SW_SYNC, ..Scenario::new("eject/sibling", eject::real::sibling) },
    Scenario { backends: SW_SYNC, ..Scenario::new("eject/stubborn", eject::stubborn::run) },
    Scenario { backends: SW_SYNC, ..Scenario::new("eject/polkit", eject::polkit::run) },
    Scenario { backends: SW_SYNC, bound: SLOW, ..Scenario::new("eject/sway", eject::real::sway) },
    Scenario {
        backends: SW_SYNC,
        bound: SLOW,
        ..Scenario::new("eject/weston", eject::real::weston)
    },
    Scenario { backends: REAL, ..Scenario::new("eject/blocked", eject::real::blocked) },
    Scenario {
        backends: SW_SYNC,
        bound: SLOW,
        ..Scenario::new("eject/restarted", eject::real::restarted)
    },
    Scenario { backends: REAL, ..Scenario::new("frozen-screen", frozen::screen) },
    Scenario { backends: REAL, ..Scenario::new("frozen-removal", frozen::removal) },
    Scenario::new("unplug-reader", unplug_reader::run),
    Scenario { backends: ONCE, bound: MANY, ..Scenario::new("torn-reads", torn_reads::run) },
    Scenario::new("unplug-race", race::run),
    Scenario { bound: LONG, ..Scenario::new("replug", replug::run) },
    Scenario {
        backends: ONCE,
        bound: LONG,
        cycles: Some(soak::CYCLES),
        ..Scenario::new("soak", soak::run)
    },
    Scenario::new("synthetic-remove", synthetic::run),
    Scenario::new("bus-client", bus_client::run),
    Scenario::new("wedged", wedged::run),
    Scenario::simulated("wedged/driver", wedged::by_driver),
    Scenario::new("wedged/just-shared", wedged::just_shared),
    Scenario::new("cause", cause::run),
    Scenario {
        backends: SIMULATED,
        config: NO_LOOKS,
        ..Scenario::new("vanished/deadline", vanished::by_deadline)
    },
    Scenario {
        backends: SIMULATED,
        config: QUICK_LOOKS,
        ..Scenario::new("vanished/stuck-look", vanished::stuck_look)
    },
    Scenario::new("rehearse-all", rehearse::all),
    Scenario::new("rehearse-one", rehearse::one),
    Scenario { backends: &[Backend::SwSync], ..Scenario::new("rehearse-who", rehearse::who) },
    Scenario {
        backends: &[Backend::SwSync],
        ..Scenario::new("rehearse-polkit", rehearse_polkit::run)
    },
    Scenario { backends: REAL, config: PATIENT, ..Scenario::new("implicit-fence", implicit::run) },
    Scenario { backends: &[Backend::SwSync], ..Scenario::new("holders", holders::run) },
    Scenario { backends: REAL, ..Scenario::new("kms-in-fence", kms_in_fence::run) },
    Scenario { backends: REAL, ..Scenario::new("kms-out-fence", kms_out_fence::run) },
    Scenario { backends: REAL, ..Scenario::new("kms-importer", kms_importer::run) },
    Scenario { backends: REAL, ..Scenario::new("merged", merged::run) },
    Scenario {
        bound: SLOW,
        config: deadlines::CONFIG,
        ..Scenario::new("overdeadline/wide", deadlines::run)
    },
    Scenario {
        bound: MANY,
        config: many_guards::CONFIG,
        ..Scenario::new("many-guards", many_guards::run)
    },
    Scenario {
        backends: ONCE,
        bound: MANY,
        config: many_guards::CONFIG,
        ..Scenario::new("stop-with-many", stop::run)
    },
    Scenario { backends: ONCE, ..Scenario::new("two-users", two_users::run) },
    Scenario { backends: REAL, bound: SLOW, ..Scenario::new("broker-killed", broker_killed::run) },
    Scenario { backends: REAL, ..Scenario::new("attached-fence", attached::run) },
    Scenario { backends: ONCE, ..Scenario::new("neutral/unplug", neutral::run) },
    Scenario {
        backends: &[Backend::SwSync],
        config: neutral::SYSTEM_HEAP,
        ..Scenario::new("neutral/system-heap", neutral::system_heap)
    },
    Scenario {
        backends: ONCE,
        config: neutral::SMALL,
        ..Scenario::new("neutral/quota", neutral::quota)
    },
    Scenario { backends: ONCE, ..Scenario::new("neutral/preserve", neutral::preserve::run) },
    Scenario { backends: ONCE, ..Scenario::new("standing", standing::run) },
    Scenario { backends: ONCE, bound: SLOW, ..Scenario::new("reconnect", reconnect::run) },
    Scenario {
        backends: &[Backend::SwSync],
        bound: SLOW,
        ..Scenario::new("wayland/weston", wayland::weston)
    },
    Scenario {
        backends: &[Backend::SwSync],
        bound: SLOW,
        ..Scenario::new("wayland/sway", wayland::sway)
    },
    Scenario {
        backends: REAL,
        bound: SLOW,
        ..Scenario::new("wayland/explicit", wayland::explicit)
    },
    Scenario {
        backends: REAL,
        bound: SLOW,
        ..Scenario::new("wayland/half-drawn", wayland::half_drawn)
    },
    Scenario { backends: REAL, bound: SLOW, ..Scenario::new("vulkan-share/hang", vulkan::hangs) },
    Scenario { backends: REAL, bound: SLOW, ..Scenario::new("vulkan-share/card", vulkan::pulled) },
    Scenario { backends: ALL, ..Scenario::new("timeline-thousand", timeline::thousand::run) },
    Scenario { backends: ALL, ..Scenario::new("timeline-order", timeline::order::in_order) },
    Scenario {
        backends: &[Backend::SwSync, Backend::Vgem, Backend::None],
        ..Scenario::new("timeline-in-kernel", timeline::order::blocked_in_the_kernel)
    },
    Scenario { backends: ALL, ..Scenario::new("timeline-maker-dies", timeline::order::maker_dies) },
    Scenario { backends: ALL, ..Scenario::new("timeline-stop", timeline::order::broker_stops) },
    Scenario {
        backends: &[Backend::SwSync, Backend::Vgem, Backend::None],
        bound: SLOW,
        ..Scenario::new("timeline-broker-killed", timeline::order::broker_killed)
    },
    Scenario { backends: ALL, ..Scenario::new("timeline-release", timeline::release::run) },
    Scenario {
        backends: ALL,
        ..Scenario::new("timeline-importer-goes", timeline::release::importer_goes)
    },
    Scenario { backends: ALL, ..Scenario::new("timeline-keeper", timeline::keeper::run) },
    Scenario { backends: ALL, ..Scenario::new("timeline-bad", timeline::bad::run) },
    Scenario {
        backends: &[Backend::SwSync],
        is_last: true,
        ..Scenario::new("hot-unplug-waiter", unplug_waiter::hot_unplug)
    },
    Scenario {
        backends: &[Backend::Simulated, Backend::SwSync],
        is_last: true,
        is_alone: true,
        ..Scenario::new("vanished/waiter", vanished::waiter)
    },
];

/// All that run on a machine, in their order.
#[must_use]
pub fn instances(machine: Machine) -> Vec<Instance> {
    let mut all = Vec::new();
    for backend in [Backend::Simulated, Backend::SwSync, Backend::Vgem, Backend::None] {
        for scenario in SCENARIOS
            .iter()
            .chain(bad::SCENARIOS)
            .chain(hostile::SCENARIOS)
            .chain(faults::SCENARIOS)
        {
            if backend.machine() == machine && scenario.backends.contains(&backend) {
                all.push(Instance { scenario, backend });
            }
        }
    }
    all.sort_by_key(|instance| instance.scenario.is_last);
    all
}
