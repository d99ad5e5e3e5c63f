//! Instructions in the service's own code and its libraries, by valgrind's callgrind: without the kernel's.

use std::fs;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Work, no_more};
use crate::World;
use crate::scenario::Skip;

/// Two lives of the service do so many and twice as many: the difference is theirs alone.
const TIMES: usize = 100;

/// Of this build, which is optimised a little: 103,000 to 110,000, by how often threads that look now and then do.
const SHARE: f64 = 130_000.0;
/// The same: 161,000 to 169,000.
const FENCE: f64 = 200_000.0;

/// Of a share.
pub(crate) fn share(world: &mut World) -> Result<()> {
    run(world, Work::share, SHARE)
}

/// Of a fence.
pub(crate) fn fence(world: &mut World) -> Result<()> {
    run(world, Work::fence, FENCE)
}

fn run(world: &mut World, work: fn(&World) -> Result<Work>, most: f64) -> Result<()> {
    let (some, _) = counted(world, work, TIMES)?;
    let (twice, name) = counted(world, work, 2 * TIMES)?;
    no_more("instructions", name, (twice - some) as f64 / TIMES as f64, most)
}

/// Those of one life of the service.
fn counted(
    world: &mut World,
    work: fn(&World) -> Result<Work>,
    times: usize,
) -> Result<(u64, &'static str)> {
    let folder = TempDir::new()?;
    let file = folder.path().join("callgrind");
    let words = ["valgrind", "--tool=callgrind", "--quiet"].map(str::to_owned);
    let mut words = words.to_vec();
    words.push(format!("--callgrind-out-file={}", file.display()));
    world.restart_broker()?;
    world.kill_quietly()?;
    if let Err(error) = world.begin_broker(&words) {
        return Err(Skip(format!("the service does not run below valgrind: {error:#}")).into());
    }
    world.wait_ready()?;
    let work = work(world)?;
    work.times(times)?;
    let name = work.name();
    drop(work);
    world.stop_broker()?;
    // Whoever looks at the machine afterwards finds one.
    world.restart_broker()?;
    let text = fs::read_to_string(&file).context("callgrind's file")?;
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let totals = totals.or_else(|| text.lines().find_map(|line| line.strip_prefix("summary: ")));
    let count = totals.context("callgrind's total")?.trim().parse()?;
    Ok((count, name))
}
