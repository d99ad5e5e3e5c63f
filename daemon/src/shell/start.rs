//! The start of the service, in an order in which nothing is missed, and its stop.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use dmashare_proto::message::GuardKind;
use dmashare_proto::token_pool::TokenPool;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::{
    Shared, Shell, allocations, arrivals, eject, former, id_file, inhibit, journal, keeping,
    listener, overdue, poll, rehearse, tasks, watchdog,
};
use crate::bus::{self, BusAddress, BusFacts};
use crate::config::Config;
use crate::core::{Broker, IdSource, Limits};
use crate::counters::Counters;
use crate::devices::DeviceSource;
use crate::devices::udev_source::UdevSource;
use crate::guard::{self, GuardBackend, Probe};
use crate::heap::Heaps;
use crate::helpers::Helpers;
use crate::id_map::IdMap;
use crate::kernel::Machine;
use crate::reactor::{Lookout, Reactor, Uevents};
use crate::state_page::StatePage;

/// What the command line adds to the configuration.
pub struct Options {
    /// The bus to be on.
    pub bus: BusAddress,
    /// A folder of simulated devices, in place of the machine's own.
    pub simulate: Option<PathBuf>,
}

struct World {
    machine: Machine,
    uevents: Option<Uevents>,
    source: Box<dyn DeviceSource>,
    backend: Option<Box<dyn GuardBackend>>,
    probe: Probe,
    heaps: Heaps,
}

/// The machine itself. Whatever is missing of it, the service starts and says so.
fn real_world(config: &Config) -> World {
    let uevents = match dmashare_uapi::uevent::KernelUevents::open() {
        Ok(socket) => Some(Uevents::Kernel(socket)),
        Err(error) => {
            tracing::error!(name: "no-uevents", %error, "the kernel's uevents cannot be had: no removal will be seen");
            None
        }
    };
    let (backend, probe) = guard::choose(config.fence.backend, &config.fence.sw_sync_path);
    World {
        machine: Machine::Real,
        uevents,
        source: Box::new(UdevSource::new(config.devices.clone())),
        backend,
        probe,
        heaps: Heaps::open(config.heap),
    }
}

#[cfg(feature = "simulate")]
fn simulated_world(config: &Config, dir: &std::path::Path) -> Result<World> {
    use crate::devices::simulated::SimulatedSource;
    use crate::heap;

    let uevents = Uevents::simulated(dir).context("the socket of simulated uevents")?;
    let source = SimulatedSource::new(dir, config.devices.clone())
        .context("the folder of simulated devices")?;
    Ok(World {
        machine: Machine::Simulated(dir.to_owned()),
        uevents: Some(uevents),
        source: Box::new(source),
        backend: Some(Box::new(guard::Simulated)),
        probe: Probe { backend: "simulated", tried: Vec::new() },
        heaps: Heaps::of(Box::new(heap::Simulated)),
    })
}

#[cfg(not(feature = "simulate"))]
fn simulated_world(_: &Config, _: &std::path::Path) -> Result<World> {
    anyhow::bail!("this build cannot simulate devices (cargo feature `simulate`)")
}

/// Runs the service until it is told to stop.
///
/// # Errors
/// What it cannot do without is missing: its socket, its state folder, a thread.
pub async fn run(config: Config, options: Options) -> Result<()> {
    let descriptors = super::descriptors::budget(&config.limits);
    let counters = Arc::<Counters>::default();
    let world = match &options.simulate {
        Some(dir) => simulated_world(&config, dir)?,
        None => real_world(&config),
    };
    let World { machine, uevents, mut source, backend, probe, heaps } = world;
    for missing in heaps.missing() {
        tracing::info!("a heap for neutral buffers cannot be used: {missing}");
    }
    for tried in &probe.tried {
        tracing::info!(backend = tried.backend, ok = tried.ok, why = tried.why, "guard fences");
    }
    if backend.is_none() {
        tracing::warn!(name: "no-guards", "no guard fences can be made; `dmasharectl doctor` tells what is missing");
    }
    let state_dir = &config.broker.state_dir;
    std::fs::create_dir_all(state_dir)
        .with_context(|| format!("the state folder {}", state_dir.display()))?;
    let id_file = id_file::IdFile::new(state_dir);
    let first_id = id_file.read().context("the first free id")?;
    let inherited = listener::inherited().context("the descriptors from systemd")?;
    let (keeper, mut former) = keeping::keeper(inherited.keeper, &config.eject.helpers);
    let (socket, is_ours) = match inherited.socket {
        Some(socket) => (socket, false),
        None => (
            listener::bound(&config.broker.socket)
                .with_context(|| format!("the socket {}", config.broker.socket.display()))?,
            true,
        ),
    };

    let kind = backend.as_ref().map_or(GuardKind::None, |backend| backend.kind());
    let limits = limits(&config, descriptors, backend.as_deref());
    let restored = former.as_mut().and_then(|former| {
        let ids = IdSource::new(first_id);
        former
            .restore(limits.clone(), ids, kind)
            .map_err(|why| {
                tracing::error!(name: "former-lost", why, "what a former life has left cannot be read; all of it ends");
            })
            .ok()
    });
    let (mut broker, state_page) = match restored {
        Some(restored) => restored,
        None => {
            if former.take().is_some()
                && let Some(keeper) = &keeper
            {
                keeper.forget().context("the keeper")?;
            }
            new_broker(limits, first_id, kind)?
        }
    };
    if let Some(up_to) = broker.first_reservation() {
        id_file.reserve(up_to).context("reserving ids")?;
    }

    // The reactor listens for removals before the devices are looked up, so none is missed.
    let (notices_to, notices) = mpsc::unbounded_channel();
    let backend: Option<Arc<dyn GuardBackend>> = backend.map(Arc::from);
    let lookout = Lookout { uevents, liveness: config.liveness };
    let reactor = Reactor::start(
        machine.clone(),
        lookout,
        Arc::clone(&state_page),
        backend.clone(),
        notices_to,
        keeper.clone(),
    )
    .context("the fence reactor")?;
    let (bus_to, bus_updates) = mpsc::unbounded_channel();
    let (connects_to, connects) = mpsc::unbounded_channel();
    let (questions_to, questions) = mpsc::unbounded_channel();
    let (rehearsals_to, rehearsals) = mpsc::unbounded_channel();
    let (inhibits_to, inhibits) = mpsc::unbounded_channel();
    let (ejects_to, eject_requests) = mpsc::unbounded_channel();
    let (activity_to, watchers) = mpsc::unbounded_channel();
    let (usage_to, usage_questions) = mpsc::unbounded_channel();
    let (late_to, late) = mpsc::unbounded_channel();
    let (allocations_to, allocations) = mpsc::unbounded_channel();
    let helpers =
        Helpers { sockets: config.eject.helpers.clone(), simulate: options.simulate.clone() };
    let note = eject::note(state_dir);
    eject::take_back(helpers.clone(), &note).await;
    let ejects = eject::Ejects::new(helpers, config.eject.delay, config.drivers.clone(), note);
    let (bus_dirty, deadline_changed) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
    let shell: Shared = Rc::new(RefCell::new(Shell {
        broker,
        machine,
        backend,
        reactor,
        state_page,
        connections: IdMap::default(),
        lanes: super::discard::Lanes::default(),
        unused: super::unused::Unused::default(),
        timelines: super::timelines::Timelines::default(),
        tokens: TokenPool::default(),
        bus: bus_to,
        id_file,
        overdue: config.broker.overdue,
        queue_messages: config.limits.queue_messages as usize,
        bus_dirty: Rc::clone(&bus_dirty),
        deadline_changed: Rc::clone(&deadline_changed),
        late: late_to,
        allocations: allocations_to,
        ejects,
        counters: Arc::clone(&counters),
        journal: journal::Journal::new(keeper),
        socket: config.broker.socket.clone(),
    }));
    #[cfg(feature = "fuzzing")]
    super::fuzzing::opened(&shell);
    shell.borrow_mut().begin_to_keep();
    if let Some(former) = former {
        former::go_on(&shell, former);
    }
    match source.coldplug() {
        Ok(devices) => {
            for desc in devices {
                shell.borrow_mut().arrived(desc);
            }
        }
        Err(error) => tracing::error!(%error, "devices that are there cannot be looked up"),
    }
    if let Some(trouble) = source.trouble() {
        tracing::warn!("devices may not be found: {trouble}");
    }
    // What is there from the start is on the bus before the name is.
    shell.borrow_mut().flush_to_bus();
    let facts = BusFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backend: kind.name().to_owned(),
        heap: heaps.name().to_owned(),
        probe_json: serde_json::to_string(&probe)?,
        counters,
    };
    let asks = bus::Asks::new(
        connects_to,
        questions_to,
        rehearsals_to,
        inhibits_to,
        ejects_to,
        activity_to,
        usage_to,
    );
    let bus = bus::start(options.bus, bus_updates, asks, facts);

    // All that can fail is before it is said to be ready.
    let socket = poll::register(Arc::new(socket)).context("the socket")?;
    let found = arrivals::register(&*source).context("what tells of devices")?;
    let mut stop = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no service manager was told");
    }
    tracing::info!(name: "ready",
        socket = %config.broker.socket.display(),
        backend = kind.name(),
        "dmashared is ready"
    );
    let mut interrupted = false;
    tokio::select! {
        result = listener::serve(Rc::clone(&shell), socket) => result.context("the socket failed")?,
        () = tasks::take_notices(Rc::clone(&shell), notices) => {
            anyhow::bail!("the fence reactor has ended; no fence can be guarded without it");
        }
        () = arrivals::follow(Rc::clone(&shell), source, found) => anyhow::bail!("devices cannot be followed"),
        () = tasks::flush_to_bus(Rc::clone(&shell), bus_dirty) => {}
        () = tasks::watch_deadlines(Rc::clone(&shell), deadline_changed) => {}
        () = tasks::take_connects(Rc::clone(&shell), connects) => {}
        () = tasks::take_cause_questions(Rc::clone(&shell), questions) => {}
        () = rehearse::run(Rc::clone(&shell), rehearsals) => {}
        () = inhibit::take(Rc::clone(&shell), inhibits) => {}
        () = eject::take(Rc::clone(&shell), eject_requests) => {}
        () = tasks::tell_activity(Rc::clone(&shell), watchers) => {}
        () = tasks::tell_usage(Rc::clone(&shell), usage_questions) => {}
        () = overdue::meet(Rc::clone(&shell), late) => {}
        () = watchdog::feed(Rc::clone(&shell)) => {}
        () = allocations::make(Rc::clone(&shell), Arc::new(heaps), allocations) => {}
        _ = stop.0.recv() => tracing::info!("told to stop"),
        _ = stop.1.recv() => {
            tracing::info!("interrupted");
            interrupted = true;
        }
    }
    // Who interrupts it at a terminal wants it gone.
    let is_the_last =
        interrupted || !shell.borrow().journal.keeps() || keeping::is_the_last().await;
    finish(shell, bus, is_ours, is_the_last).await
}

fn new_broker(
    limits: Limits,
    first_id: u64,
    kind: GuardKind,
) -> Result<(Broker<super::Os>, Arc<StatePage>)> {
    let state_page = Arc::new(StatePage::create().context("the state page")?);
    let page_fd = std::os::fd::AsFd::as_fd(&*state_page).try_clone_to_owned()?;
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)
        .map_err(|error| anyhow::anyhow!("the kernel's random source: {error}"))?;
    let ids = IdSource::new(first_id);
    Ok((Broker::new(limits, ids, instance, kind, Arc::new(page_fd)), state_page))
}

/// Ends every guard with an error, so that nobody waits for a service that is not there.
async fn finish(shell: Shared, bus: bus::Bus, is_ours: bool, is_the_last: bool) -> Result<()> {
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]) {
        tracing::debug!(%error, "no service manager was told");
    }
    // Where another life may come, all that is kept goes on without this one, clients' connections too.
    if !is_the_last {
        let next_id = shell.borrow().broker.next_id();
        shell.borrow().reserve_ids(next_id);
        tracing::info!(name: "stopped", "stopped; what there is waits for another start, and ends if none comes");
        // Nothing is dropped by it, and so nothing ended.
        std::process::exit(0);
    }
    let socket = shell.borrow().socket.clone();
    for outbox in shell.borrow().connections.values() {
        outbox.break_off();
    }
    // The connections' tasks hold the shell; they end on their next turn.
    while Rc::strong_count(&shell) > 1 {
        tokio::task::yield_now().await;
    }
    let Ok(shell) = Rc::try_unwrap(shell) else { anyhow::bail!("the shell is still in use") };
    // The rest of the block need not be lost: ids stay short for people.
    let inner = shell.into_inner();
    inner.reserve_ids(inner.broker.next_id());
    let Shell { reactor, bus: updates, .. } = inner;
    reactor.stop();
    drop(updates);
    bus.finished().await;
    if is_ours && let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "the socket's file was gone before us");
    }
    tracing::info!(name: "stopped", "stopped; every pending guard was ended with an error");
    Ok(())
}

fn limits(config: &Config, descriptors: u64, backend: Option<&dyn GuardBackend>) -> Limits {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let longest = backend.and_then(GuardBackend::longest).map_or(u64::MAX, nanos);
    let max_deadline = nanos(config.fence.max_deadline);
    let max_deadline_by = if longest < max_deadline {
        let kernels = dmashare_uapi::vgem::FENCE_LIFETIME.as_secs();
        format!("the kernel ends every vgem fence by itself after {kernels} s")
    } else {
        "fence.max_deadline_ms".to_owned()
    };
    Limits {
        quotas: super::descriptors::quotas(&config.limits, descriptors),
        waits_per_client: config.limits.waits_per_client as usize,
        deadline_ns: nanos(config.fence.deadline).min(longest),
        max_deadline_ns: max_deadline.min(longest),
        max_deadline_by,
        ack_timeout_ns: nanos(config.broker.ack_timeout),
    }
}
