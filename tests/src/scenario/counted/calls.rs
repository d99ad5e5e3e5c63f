//! System calls, by strace.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::{Work, note, show};
use crate::World;
use crate::scenario::strace::{Strace, Whom};

/// Of each, so that what happens now and then (a hash table that grows) is nothing beside it.
const TIMES: usize = 50;

type Counts = BTreeMap<String, usize>;

/// How often each system call was made meanwhile.
fn counted(world: &World, work: &Work) -> Result<Counts> {
    let trace = Strace::attach(Whom::Process(world.broker()?.0), "all", None)?;
    work.times(TIMES)?;
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
    // Of a node and of a dma-buf: what it is.
    ("statx", 2),
    // The requests, and nothing else: no client's reading wakes it.
    ("epoll_wait", 4),
];

/// ShareFence, ImportFence, and two Releases.
const FENCE: Most = &[
    // Four answers, four batches, the end's batch, and its event to the importer; one of the guard's end.
    ("sendmsg", 11),
    ("recvmsg", 9),
    ("recvfrom", 5),
    ("statx", 3),
    // Simulated: how a fence stands is in /proc.
    ("readlink", 1),
    // The source is watched, and is not.
    ("epoll_ctl", 2),
];

/// Shows the calls, and holds them against what they may be.
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
pub(crate) fn share(world: &mut World) -> Result<()> {
    run(world, &Work::share(world)?, SHARE)
}

/// A fence is shared, imported, ends, and is let go of by both.
pub(crate) fn fence(world: &mut World) -> Result<()> {
    run(world, &Work::fence(world)?, FENCE)
}

fn run(world: &World, work: &Work, most: Most) -> Result<()> {
    work.once()?;
    no_more(work.name(), &counted(world, work)?, most)
}
