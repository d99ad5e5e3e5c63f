//! An unplug of a card that much was shared of: from the kernel's event to the last guard that ends, and
//! to the last client that is told, beside a bare loop over as many guards, and a bare broadcast to as many
//! clients.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dmashare::{
    Connection, FenceOptions, Grant, ImportedBuffer, ImportedFence, Importer, SharedFence,
};
use dmashare_proto::report::Step;
use dmashare_tests::{BOUND, Buffer, Source, Unplug, World, clock::now_ns};
use dmashare_uapi::sync_file;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::report::{Finding, Goal, Section};
use crate::turns::Times;

const AN_HOUR: Duration = Duration::from_secs(3600);
/// As long as what a client is told.
const MESSAGE: [u8; 64] = [0; 64];

/// One user has as many as are asked for.
pub const CONFIG: &str = "\
    [fence]\nmax_deadline_ms = 3600000\n\
    [limits]\nobjects_per_client = 60000\nobjects_per_uid = 200000\npending_fences_per_uid = 30000\n";

/// How much there is.
#[derive(Clone, Copy)]
pub struct Load {
    /// Clients that are told.
    pub clients: usize,
    /// Pending guards, all of them together.
    pub guards: usize,
    /// Imports, all of them together.
    pub imports: usize,
}

/// One turn of one side, in nanoseconds.
struct Took {
    /// To the end of the last guard.
    ended: f64,
    /// To the last client's word.
    told: f64,
    /// The service's own times, of [`STEPS`].
    steps: Vec<f64>,
}

/// What it notes in its report, after the uevent.
const STEPS: [Step; 4] =
    [Step::GateClosed, Step::GuardsSignalled, Step::ClientsTold, Step::FdsDropped];

/// Measures it.
pub fn measure(world: &World, rounds: usize, load: Load) -> Result<Section> {
    dmashare_tests::hostile::new_files_limit()?;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(by_hand(world, load)?);
        ours.push(by_broker(world, load)?);
        world.replug()?;
    }
    let column =
        |all: &[Took], which: fn(&Took) -> f64| all.iter().map(which).collect::<Vec<f64>>();
    let ended = |it: &Took| it.ended;
    let told = |it: &Took| it.told;
    let Load { clients, guards, imports } = load;
    let guard_times = Times::new(
        format!(
            "An unplug with {guards} guards, {imports} imports, {clients} clients: to the last guard"
        ),
        vec![
            ("a bare loop that ends them", column(&bare, ended)),
            ("dmashared", column(&ours, ended)),
        ],
    );
    let told_times = Times::new(
        format!("The same: to the last of {clients} clients that is told"),
        vec![
            ("the loop, and then a bare broadcast", column(&bare, told)),
            ("dmashared", column(&ours, told)),
        ],
    );
    let findings = vec![
        Finding::times(
            &format!("unplug: uevent to the last of {guards} guards"),
            "a bare loop over as many",
            guard_times.ratio(1, 0),
            Goal::AtMost(1.3),
        ),
        Finding::times(
            &format!("unplug: uevent to the last of {clients} clients told"),
            "that loop and a bare broadcast",
            told_times.ratio(1, 0),
            Goal::AtMost(2.0),
        ),
    ];
    let steps = STEPS.iter().enumerate().map(|(place, step)| {
        let of = |took: &Took| took.steps.get(place).copied();
        (step.name(), ours.iter().filter_map(of).collect())
    });
    let steps =
        Times::new("The same: the service's own report, from the uevent on", steps.collect());
    Ok(Section {
        tables: vec![guard_times.table(), told_times.table(), steps.table()],
        findings,
        ..Section::default()
    })
}

/// Ends as many guards in a loop, and writes to as many sockets.
fn by_hand(world: &World, load: Load) -> Result<Took> {
    let simulated = world.is_simulated();
    let mut guards =
        (0..load.guards).map(|_| Source::endless(simulated)).collect::<Result<Vec<_>>>()?;
    let fences = guards
        .iter()
        .map(|guard| Ok(guard.fd().try_clone_to_owned()?))
        .collect::<Result<Vec<_>>>()?;
    let pairs = (0..load.clients).map(|_| UnixStream::pair()).collect::<Result<Vec<_>, _>>()?;
    let last = fences.last().context("no guard")?.as_fd();
    let ends: Vec<BorrowedFd<'_>> = pairs.iter().map(|(_, there)| there.as_fd()).collect();
    let watch = Watch { last, all: fences.iter().map(AsFd::as_fd).collect(), told: ends };
    watch.over(|| {
        let start = now_ns();
        for guard in &mut guards {
            // With an error, as an unplug ends them: closed (sw_sync), or written to.
            guard.fail()?;
        }
        for (here, _) in &pairs {
            (&mut &*here).write_all(&MESSAGE)?;
        }
        Ok(start)
    })
}

/// Shared and imported.
type Both = (SharedFence, ImportedFence);

fn by_broker(world: &World, load: Load) -> Result<Took> {
    let card = world.egpu()?;
    let (source, buffer) = (Source::endless(world.is_simulated())?, Buffer::make(&card, 16, 16)?);
    let exporter = world.connect("exporter")?;
    let device = world.arrived(&exporter, &card)?;
    let node = buffer.node.as_fd();
    let planes = [buffer.dma_buf.as_fd()];
    let options = FenceOptions { deadline: Some(AN_HOUR), ..FenceOptions::default() };
    let clients =
        (0..load.clients).map(|_| world.connect("client")).collect::<Result<Vec<Connection>>>()?;
    let mut fences = Vec::<Both>::new();
    let mut imports = Vec::<ImportedBuffer>::new();
    let often = Grant { uses: u32::try_from(load.imports)?.max(1), ..Grant::default() };
    let export = exporter.export(node, &buffer.layout, &planes)?;
    let token = exporter.grant(&export, often)?;
    for place in 0..load.guards.max(load.imports) {
        let client = &clients[place % clients.len()];
        if place < load.guards {
            let (shared, token) =
                exporter.share_fence_granted(node, source.fd(), options, Grant::default())?;
            fences.push((shared, client.import_fence(token)?));
        }
        if place < load.imports {
            imports.push(client.import(token, Importer::Cpu)?);
        }
    }
    let guards = fences
        .iter()
        .map(|(_, fence)| fence.fd().context("a pending fence has a guard"))
        .collect::<Result<Vec<_>>>()?;
    let watch = Watch {
        last: *guards.last().context("no guard")?,
        all: guards,
        told: clients.iter().map(AsFd::as_fd).collect(),
    };
    let mut took = watch.over(|| {
        world.unplug(Unplug::Remove)?;
        Ok(0)
    })?;
    // The instants so far: the kernel's event is what they are counted from.
    let report = world.report_with(device, Step::FdsDropped)?;
    let uevent = report.at(Step::Uevent).context("no uevent in the report")? as f64;
    took.ended -= uevent;
    took.told -= uevent;
    took.steps = STEPS.iter().filter_map(|step| Some(report.at(*step)? as f64 - uevent)).collect();
    ensure!(took.ended > 0.0, "a guard ended before the uevent");
    Ok(took)
}

/// Who looks on.
struct Watch<'a> {
    /// The guard that is ended last, it is thought.
    last: BorrowedFd<'a>,
    /// All of them.
    all: Vec<BorrowedFd<'a>>,
    /// What becomes readable when a client is told.
    told: Vec<BorrowedFd<'a>>,
}

impl Watch<'_> {
    /// Runs `what`, which gives the instant that it began at, and looks on.
    fn over(&self, what: impl FnOnce() -> Result<u64>) -> Result<Took> {
        std::thread::scope(|scope| {
            let guards = scope.spawn(|| self.until_ended());
            let clients = scope.spawn(|| self.until_told());
            let start = what()?;
            let ended = guards.join().expect("the watching thread")?;
            let told = clients.join().expect("the watching thread")?;
            let since = |at: u64| at as f64 - start as f64;
            Ok(Took { ended: since(ended), told: since(told), steps: Vec::new() })
        })
    }

    /// The last guard's end. They are asked for one by one only once that one has ended which was made
    /// last: who polls all of them at the same time is woken by each.
    fn until_ended(&self) -> Result<u64> {
        ensure!(sync_file::wait(self.last, Some(BOUND))?, "the last guard did not end");
        let at = now_ns();
        let mut late = false;
        for guard in &self.all {
            if !is_ready(*guard)? {
                late = true;
                ensure!(sync_file::wait(*guard, Some(BOUND))?, "a guard did not end");
            }
        }
        Ok(if late { now_ns() } else { at })
    }

    fn until_told(&self) -> Result<u64> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (place, fd) in self.told.iter().enumerate() {
            epoll.add(
                fd,
                EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, place as u64),
            )?;
        }
        let (mut left, until) = (self.told.len(), Instant::now() + BOUND);
        let mut events = [EpollEvent::empty(); 128];
        while left > 0 {
            ensure!(Instant::now() < until, "{left} clients were not told");
            left -= epoll.wait(&mut events, EpollTimeout::from(1000_u16))?;
        }
        Ok(now_ns())
    }
}

fn is_ready(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO)? > 0)
}
