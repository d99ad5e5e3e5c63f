//! What a share and a fence cost the broker in system calls, by strace: counts, which are the same on any
//! machine. Who adds one has its reason; who takes one away writes the lower number down.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare::{FenceOptions, Grant, Importer};

use super::figures::{note, show};
use super::local::{Local, ends_well};
use super::strace::{Strace, Whom};
use crate::{Buffer, Source, World};

/// Of each, so that what happens now and then (a hash table that grows) is nothing beside it.
const TIMES: usize = 50;

type Counts = BTreeMap<String, usize>;

/// How often each system call was made while `what` was done.
fn counted(world: &World, what: impl FnOnce() -> Result<()>) -> Result<Counts> {
    let trace = Strace::attach(Whom::Process(world.broker()?.0), "all", None)?;
    what()?;
    let seen = trace.stop()?;
    if let Some(path) = std::env::var_os("DMASHARE_TRACE") {
        std::fs::write(path, &seen)?;
    }
    let mut counts = Counts::new();
    for line in seen.lines() {
        let Some((_, rest)) = line.split_once(' ') else { continue };
        let name = rest.trim_start().split('(').next().unwrap_or_default();
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// What may be made of each, with the reason.
type Most = &'static [(&'static str, usize)];

/// Export, Import and two Releases: four requests, which are peeked at and then skipped.
const SHARE: Most = &[
    // Four answers, and four batches to the keeper.
    ("sendmsg", 8),
    // Four requests, and the look that finds no other.
    ("recvmsg", 8),
    ("recvfrom", 4),
    // Of a node and of a dma-buf: what it is, and whether that is so.
    ("statx", 2),
    ("readlink", 2),
    // A token.
    ("getrandom", 1),
];

/// ShareFence, ImportFence, and two Releases.
const FENCE: Most = &[
    // Four answers, four batches, the end's batch, and its event to the importer; one of the guard's end.
    ("sendmsg", 11),
    ("recvmsg", 9),
    ("recvfrom", 5),
    ("statx", 3),
    ("readlink", 2),
    ("getrandom", 1),
    // The source is watched, and is not.
    ("epoll_ctl", 2),
];

/// Shows the calls of one, and holds them against what they may be.
fn no_more(what: &str, counts: &Counts, most: Most) -> Result<()> {
    let each = |count: usize| count as f64 / TIMES as f64;
    let lines: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count * 10 >= TIMES)
        .map(|(name, count)| format!("{name} {:.1}", each(*count)))
        .collect();
    let all = each(counts.values().sum());
    show(format_args!("{what}: {all:.1} system calls ({})", lines.join(", ")));
    note(&format!("system calls of the broker's, {what}"), all);
    for &(name, most) in most {
        let count = counts.get(name).copied().unwrap_or(0);
        ensure!(count > 0, "{name} is not among them: what was counted?");
        // What happens once in a while, whatever is done, is not more than a tenth.
        let bound = most as f64 + 0.9;
        ensure!(each(count) <= bound, "{what} makes {:.1} {name}, not {most}", each(count));
    }
    Ok(())
}

/// A buffer is exported, granted, imported and let go of by both.
pub(super) fn share(world: &mut World) -> Result<()> {
    let local = Local::new(world)?;
    let buffer = Buffer::make(&local.card, 16, 16)?;
    let once = || -> Result<()> {
        let planes = [buffer.dma_buf.as_fd()];
        let (node, layout, grant) = (buffer.node.as_fd(), &buffer.layout, Grant::default());
        let (export, token) = local.exporter.export_granted(node, layout, &planes, grant)?;
        drop(local.importer.import(token, Importer::Cpu)?);
        drop(export);
        Ok(())
    };
    once()?;
    let counts = counted(world, || {
        (0..TIMES).try_for_each(|_| once())?;
        // What was let go of without an answer is, once this is answered.
        local.importer.devices()?;
        local.exporter.devices().map(drop).context("the last answer")
    })?;
    no_more("a share", &counts, SHARE)
}

/// A fence is shared, imported, ends, and is let go of by both.
pub(super) fn fence(world: &mut World) -> Result<()> {
    let local = Local::new(world)?;
    let node = local.card.open_render()?;
    let simulated = world.is_simulated();
    let once = || -> Result<()> {
        let mut source = Source::endless(simulated)?;
        let options = FenceOptions::default();
        let grant = Grant::default();
        let (_shared, token) =
            local.exporter.share_fence_granted(node.as_fd(), source.fd(), options, grant)?;
        let fence = local.importer.import_fence(token)?;
        source.signal()?;
        ends_well(&fence)
    };
    once()?;
    let counts = counted(world, || {
        (0..TIMES).try_for_each(|_| once())?;
        local.importer.devices()?;
        local.exporter.devices().map(drop).context("the last answer")
    })?;
    no_more("a fence", &counts, FENCE)
}
