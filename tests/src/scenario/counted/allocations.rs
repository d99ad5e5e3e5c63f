//! Allocations, by a library that stands in front of the service's malloc.

use anyhow::{Result, ensure};

use super::{Work, no_more};
use crate::{Heap, World};

/// Enough that tables have grown, and what grows now and then is little beside it.
const TIMES: usize = 400;

/// Four requests of which each allocates what it is decoded into, what it leads to, the answer, and the keeper's
/// records: 79.
const SHARE: f64 = 88.0;
/// The same, with a source, a guard, and the end of both: 99 to 103, by what comes together on a busy machine.
const FENCE: f64 = 116.0;

/// Of a share.
pub(crate) fn share(world: &mut World) -> Result<()> {
    let heap = Heap::count(world)?;
    run(&heap, &Work::share(world)?, SHARE)
}

/// Of a fence.
pub(crate) fn fence(world: &mut World) -> Result<()> {
    let heap = Heap::count(world)?;
    run(&heap, &Work::fence(world)?, FENCE)
}

fn run(heap: &Heap, work: &Work, most: f64) -> Result<()> {
    work.times(TIMES)?;
    let (before, bytes) = (heap.allocations()?, heap.bytes()?);
    work.times(TIMES)?;
    let each = (heap.allocations()? - before) as f64 / TIMES as f64;
    let grown = heap.bytes()?.saturating_sub(bytes);
    // What is let go of is given back: a table that grows once more is not so much.
    ensure!(grown < 64 * TIMES as u64, "{TIMES} of {} leave {grown} bytes", work.name());
    no_more("allocations", work.name(), each, most)
}
