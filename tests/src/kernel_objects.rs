//! What the kernel has of objects that a leak would leave there, of the whole machine.

use std::fs;

use anyhow::{Context, Result};

const DMA_BUFS: &str = "/sys/kernel/debug/dma_buf/bufinfo";
const SW_SYNC: &str = "/sys/kernel/debug/sync/info";

/// How many dma-bufs there are, of all exporters and in all processes.
///
/// # Errors
/// This is not root, or the kernel has no debugfs.
pub fn dma_bufs() -> Result<usize> {
    let text = fs::read_to_string(DMA_BUFS).context(DMA_BUFS)?;
    // Below the list: "Total 3 objects, 12288 bytes".
    let total = text.lines().rev().find_map(|line| line.strip_prefix("Total "));
    let number = total.and_then(|rest| rest.split_ascii_whitespace().next());
    number.context("a list of dma-bufs without their number")?.parse().context(DMA_BUFS)
}

/// How many timelines of sw_sync there are: one for each guard, and for each fence that a test has made.
///
/// # Errors
/// This is not root, or the kernel has no sw_sync.
pub fn sw_sync_timelines() -> Result<usize> {
    let text = fs::read_to_string(SW_SYNC).context(SW_SYNC)?;
    let objects = text.lines().skip_while(|line| !line.starts_with("objs:")).skip(1);
    // A line for a timeline, an indented one for each of its fences; then come the sync_files.
    let list = objects.take_while(|line| !line.starts_with("fences:"));
    let is_timeline = |line: &&str| !line.is_empty() && !line.starts_with([' ', '-']);
    Ok(list.filter(is_timeline).count())
}

/// Memory of the kernel's own objects that it cannot take back, in KiB.
///
/// # Errors
/// /proc/meminfo does not say.
pub fn slab_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    let value = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    Ok(value.context("no SUnreclaim in /proc/meminfo")?.trim().parse()?)
}
