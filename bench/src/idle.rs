//! An idle service, with clients and a buffer between them: how often anything in it wakes up.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Result, bail};
use dmashare::{Grant, Importer};
use dmashare_tests::process::named;
use dmashare_tests::{BOUND, Buffer, Process, World};

use crate::report::{Finding, Goal, Row, Section, Table};

/// Looks on for so long.
pub fn measure(world: &World, length: Duration) -> Result<Section> {
    let (exporter, importer) = (world.connect("exporter")?, world.connect("importer")?);
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let planes = [buffer.dma_buf.as_fd()];
    let grant = Grant::default();
    let node = buffer.node.as_fd();
    let (export, token) = exporter.export_granted(node, &buffer.layout, &planes, grant)?;
    let import = importer.import(token, Importer::Cpu)?;
    let broker = world.broker()?;
    let keeper = keeper_of(broker)?;
    let mut waits = Vec::new();
    for process in [broker, keeper] {
        process.at_rest(BOUND)?;
        waits.push((process, process.waits()?));
    }
    // What is measured is that nothing happens in this time: there is no event to wait for.
    std::thread::sleep(length);
    let mut rows = Vec::new();
    for ((process, before), name) in waits.into_iter().zip(["dmashared", "dmashare-keeper"]) {
        let figures = vec![(process.waits()? - before) as f64];
        rows.push(Row { name: name.to_owned(), figures });
    }
    drop((import, export));
    let all = rows.iter().map(|row| row.figures[0]).sum();
    let findings =
        vec![Finding::new("an idle service's wake-ups", "–", all, "wake-ups", Goal::AtMost(0.0))];
    let title =
        format!("An idle service with two clients, a buffer and its import, for {length:?}");
    let tables = vec![Table { title, columns: vec!["wake-ups".to_owned()], rows }];
    Ok(Section { tables, findings, ..Section::default() })
}

/// The keeper that was started for this service, by this process.
fn keeper_of(broker: Process) -> Result<Process> {
    let parent = |process: &Process| -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", process.0)).ok()?;
        text.lines().find(|line| line.starts_with("PPid:")).map(str::to_owned)
    };
    let ours = parent(&broker);
    let mut keepers = named("dmashare-keeper")?;
    keepers.retain(|keeper| parent(keeper) == ours);
    match keepers[..] {
        [keeper] => Ok(keeper),
        _ => bail!("{} keepers run, and not one", keepers.len()),
    }
}
