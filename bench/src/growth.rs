//! What more objects cost: the time of a share beside them, the time of an unplug for each, and the bytes of
//! each on the service's heap. All on one processor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use dmashare::{Connection, Event, ExportedBuffer, Grant, Importer, Token};
use dmashare_proto::ids;
use dmashare_proto::message::{Import, Importer as By, Reply, Request};
use dmashare_tests::hostile::Raw;
use dmashare_tests::{Backend, Buffer, Heap, Unplug, World};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::report::{Finding, Goal, Plot, Row, Scale, Section, Series, Table};

/// One client has as many as are asked for.
const CONFIG: &str = "[limits]\nobjects_per_client = 200000\nobjects_per_uid = 400000\n";
/// Of so many objects one is a buffer, and the others are imports of it: a buffer costs descriptors, and
/// of those there are fewer.
const OF: usize = 10;
/// Shares that are timed.
const SHARES: usize = 1000;
const BOUND: Duration = Duration::from_secs(60);

/// Beside so many objects.
struct Beside {
    objects: usize,
    /// Export and Import in one process, with letting go, in nanoseconds: the median.
    share_ns: f64,
    /// From the removal to the end of its telling, by the number of objects, in nanoseconds.
    unplug_each_ns: f64,
    /// By which the service's heap has grown, for each.
    bytes_each: f64,
}

/// Measures it up to so many objects.
pub fn measure(most: usize) -> Result<Section> {
    ensure!(most >= 100, "--most {most}: a row is held against the one of 100 objects");
    dmashare_tests::hostile::new_files_limit()?;
    let _one = OneProcessor::only()?;
    let steps = (1..).map(|power| 10_usize.pow(power)).take_while(|objects| *objects <= most);
    let all = steps.map(beside).collect::<Result<Vec<Beside>>>()?;
    Ok(section(&all))
}

/// This thread, and the processes that it starts, on one processor. Whether a wake-up goes to another one makes
/// a share three times as long or not, from one run to the next, and has nothing to do with its objects.
struct OneProcessor(CpuSet);

impl OneProcessor {
    fn only() -> Result<Self> {
        let this = Pid::from_raw(0);
        let all = sched_getaffinity(this)?;
        let mut one = CpuSet::new();
        for processor in 0..CpuSet::count() {
            if all.is_set(processor)? {
                one.set(processor)?;
                break;
            }
        }
        sched_setaffinity(this, &one)?;
        Ok(Self(all))
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        // It was in force before.
        if let Err(error) = sched_setaffinity(Pid::from_raw(0), &self.0) {
            eprintln!("what comes next is on one processor: {error}");
        }
    }
}

fn beside(objects: usize) -> Result<Beside> {
    let mut world = World::start(Backend::Simulated, CONFIG)?;
    let heap = Heap::count(&mut world)?;
    let (exporter, importer) = (world.connect("exporter")?, world.connect("importer")?);
    let mut many = Raw::hello(&world.socket(), "many")?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let share = || -> Result<()> {
        let (export, token) = export(&exporter, &buffer, 1)?;
        drop(importer.import(token, Importer::Cpu)?);
        drop(export);
        Ok(())
    };
    // What is made once is there.
    for _ in 0..100 {
        share()?;
    }
    let before = settled(&heap, &[&exporter, &importer])?;
    let mut kept = Vec::new();
    for _ in 0..objects / OF {
        let uses = OF - 1;
        let (export, token) = export(&exporter, &buffer, u32::try_from(uses)?)?;
        for _ in 0..uses {
            import(&mut many, token)?;
        }
        kept.push(export);
    }
    let after = settled(&heap, &[&exporter, &importer])?;
    let mut times = Vec::with_capacity(SHARES);
    for _ in 0..SHARES {
        let start = Instant::now();
        share()?;
        times.push(start.elapsed().as_nanos() as f64);
    }
    times.sort_unstable_by(f64::total_cmp);
    let start = Instant::now();
    world.unplug(Unplug::Remove)?;
    while !importer.dispatch(Some(BOUND))?.iter().any(|it| matches!(it, Event::DeviceLost(_))) {
        ensure!(start.elapsed() < BOUND, "the loss was not told");
    }
    let unplug_each_ns = start.elapsed().as_nanos() as f64 / objects as f64;
    drop(kept);
    let bytes_each = after.saturating_sub(before) as f64 / objects as f64;
    Ok(Beside { objects, share_ns: times[SHARES / 2], unplug_each_ns, bytes_each })
}

fn export(exporter: &Connection, buffer: &Buffer, uses: u32) -> Result<(ExportedBuffer, Token)> {
    let grant = Grant { uses, ..Grant::default() };
    let planes = [buffer.dma_buf.as_fd()];
    Ok(exporter.export_granted(buffer.node.as_fd(), &buffer.layout, &planes, grant)?)
}

/// An import whose descriptors are closed at once: the object is what counts here.
fn import(client: &mut Raw, token: Token) -> Result<()> {
    let token = ids::Token(token.to_bytes());
    match client.request(&Request::Import(Import { token, by: By::Cpu }), &[])? {
        (Reply::Error(error), _) => bail!("Import: {error}"),
        _ => Ok(()),
    }
}

/// The service's heap once everything that was asked before is answered.
fn settled(heap: &Heap, clients: &[&Connection]) -> Result<u64> {
    for client in clients {
        client.devices()?;
    }
    heap.bytes()
}

fn section(all: &[Beside]) -> Section {
    let (first, last) = (&all[1], &all[all.len() - 1]);
    let objects = last.objects;
    let findings = vec![
        Finding::times(
            &format!("a share beside {objects} objects"),
            &format!("beside {}", first.objects),
            last.share_ns / first.share_ns,
            // The same, as well as it can be measured.
            Goal::AtMost(1.2),
        ),
        Finding::times(
            &format!("an unplug of {objects} objects, for each"),
            &format!("of {}", objects / 10),
            last.unplug_each_ns / all[all.len() - 2].unplug_each_ns,
            Goal::AtMost(1.2),
        ),
        Finding::new(
            &format!("heap for each of {objects} objects"),
            "–",
            last.bytes_each,
            "bytes",
            Goal::AtMost(400.0),
        ),
    ];
    let row = |it: &Beside| Row {
        name: it.objects.to_string(),
        figures: vec![it.share_ns, it.unplug_each_ns, it.bytes_each],
    };
    let columns = ["a share, ns", "an unplug, ns an object", "bytes of heap an object"];
    let points =
        |of: fn(&Beside) -> f64| all.iter().map(|it| (it.objects as f64, of(it))).collect();
    let plots = vec![Plot {
        file: "growth.svg".to_owned(),
        title: "A share beside other objects".to_owned(),
        x: ("objects".to_owned(), Scale::Logarithmic),
        y: "microseconds".to_owned(),
        series: vec![Series {
            name: "a share".to_owned(),
            points: points(|it| it.share_ns / 1000.0),
        }],
    }];
    let title = format!("Growth (one object of {OF} a buffer, the others its imports; one run)");
    let columns = columns.map(str::to_owned).into();
    let tables = vec![Table { title, columns, rows: all.iter().map(row).collect() }];
    Section { tables, findings, plots, notes: Vec::new() }
}
