//! From the start of the service's program to the first answer that it gives: with nothing to go on with, and
//! with what a former life has left.

use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::Result;
use dmashare::ExportedBuffer;
use dmashare_tests::{Backend, Buffer, World};

use crate::report::{Finding, Goal, Section};
use crate::turns::{Timed, take_timed};

/// One client has as many as are asked for.
const CONFIG: &str = "[limits]\nobjects_per_client = 20000\nobjects_per_uid = 40000\n";

/// Measures it, with so many buffers kept. The shell that passes the descriptors, as systemd would, is part
/// of both.
pub fn measure(rounds: usize, buffers: usize) -> Result<Section> {
    let empty = World::start(Backend::Simulated, CONFIG)?;
    let full = World::start(Backend::Simulated, CONFIG)?;
    let client = full.connect("exporter")?;
    let buffer = Buffer::make(&full.egpu()?, 16, 16)?;
    let export = |_| client.export(buffer.node.as_fd(), &buffer.layout, &[buffer.dma_buf.as_fd()]);
    let kept = (0..buffers).map(export).collect::<Result<Vec<ExportedBuffer>, _>>()?;
    let all = vec![
        begins("with nothing kept", empty, 0),
        begins("with buffers of a client kept", full, buffers),
    ];
    let times = take_timed("From the start to the first answer", rounds, all);
    drop(kept);
    let ms = |at: usize| times.median(at) / 1e6;
    let restart = format!("restart with {buffers} stored objects");
    let findings = vec![
        Finding::new("start to the first answer", "–", ms(0), "ms", Goal::AtMost(20.0)),
        Finding::new(&restart, "–", ms(1), "ms", Goal::AtMost(200.0)),
    ];
    let plots = vec![times.plot("restart.svg")];
    Ok(Section { tables: vec![times.table()], findings, plots, notes: Vec::new() })
}

fn begins(name: &'static str, mut world: World, buffers: usize) -> Timed<'static> {
    let run = move || {
        world.kill_quietly().expect("it runs");
        let start = Instant::now();
        world.begin_broker(&[]).expect("it starts");
        let client = world.connect("first").expect("it answers");
        client.devices().expect("it answers");
        let took = start.elapsed().as_nanos() as f64;
        world.wait_ready().expect("it comes to the bus");
        let egpu = world.egpu().and_then(|egpu| world.device(&egpu)).expect("it is there");
        assert_eq!(egpu.counts().0 as usize, buffers, "they are all there");
        took
    };
    Timed { name, run: Box::new(run) }
}
