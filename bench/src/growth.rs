//! What more objects cost: the time of a share beside them, the time of an unplug for each, and the bytes of
//! each in the service.

use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dmashare::{Connection, Event, Grant, Importer};
use dmashare_tests::{Backend, Buffer, Unplug, World};
use serde::Serialize;

/// One client has as many as are asked for.
const CONFIG: &str = "[limits]\nobjects_per_client = 20000\nobjects_per_uid = 40000\n";
/// Shares that are timed.
const SHARES: usize = 500;
const BOUND: Duration = Duration::from_secs(60);

/// Beside so many objects.
#[derive(Serialize)]
struct Row {
    /// Half of them buffers, the other half imports of these.
    objects: usize,
    /// Export and Import in one process, with letting go, in nanoseconds: the median.
    share_ns: u128,
    /// From the removal to the end of its telling, by the number of objects, in nanoseconds.
    unplug_each_ns: u128,
    /// By which the service's resident memory has grown.
    bytes_each: u64,
}

/// All rows.
#[derive(Serialize)]
pub struct Growth(Vec<Row>);

/// Measures it up to so many objects.
pub fn measure(most: usize) -> Result<Growth> {
    dmashare_tests::hostile::new_files_limit()?;
    let steps = (1..).map(|power| 10_usize.pow(power)).take_while(|objects| *objects <= most);
    steps.map(beside).collect::<Result<Vec<Row>>>().map(Growth)
}

fn beside(objects: usize) -> Result<Row> {
    let world = World::start(Backend::Simulated, CONFIG)?;
    let (exporter, importer) = (world.connect("exporter")?, world.connect("importer")?);
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let share = || -> Result<_> {
        let (node, grant) = (buffer.node.as_fd(), Grant::default());
        let planes = [buffer.dma_buf.as_fd()];
        let (export, token) = exporter.export_granted(node, &buffer.layout, &planes, grant)?;
        Ok((importer.import(token, Importer::Cpu)?, export))
    };
    // What is made once is there.
    for _ in 0..100 {
        drop(share()?);
    }
    let before = settled(&world, &[&exporter, &importer])?;
    let kept = (0..objects / 2).map(|_| share()).collect::<Result<Vec<_>>>()?;
    let after = settled(&world, &[&exporter, &importer])?;
    let mut times = Vec::with_capacity(SHARES);
    for _ in 0..SHARES {
        let start = Instant::now();
        drop(share()?);
        times.push(start.elapsed().as_nanos());
    }
    times.sort_unstable();
    let start = Instant::now();
    world.unplug(Unplug::Remove)?;
    while !importer.dispatch(Some(BOUND))?.iter().any(|it| matches!(it, Event::DeviceLost(_))) {
        ensure!(start.elapsed() < BOUND, "the loss was not told");
    }
    let unplug_each_ns = start.elapsed().as_nanos() / objects as u128;
    drop(kept);
    Ok(Row {
        objects,
        share_ns: times[SHARES / 2],
        unplug_each_ns,
        bytes_each: after.saturating_sub(before) * 1024 / objects as u64,
    })
}

/// The service's resident memory, in KiB, once everything that was asked before is answered.
fn settled(world: &World, clients: &[&Connection]) -> Result<u64> {
    for client in clients {
        client.devices()?;
    }
    world.broker()?.resident_kib()
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Growth (half buffers, half imports; one run)\n")?;
        writeln!(f, "| objects | a share, ns | an unplug, ns an object | bytes an object |")?;
        writeln!(f, "| ---: | ---: | ---: | ---: |")?;
        for Row { objects, share_ns, unplug_each_ns, bytes_each } in &self.0 {
            writeln!(f, "| {objects} | {share_ns} | {unplug_each_ns} | {bytes_each} |")?;
        }
        Ok(())
    }
}
