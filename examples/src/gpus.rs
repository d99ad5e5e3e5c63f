//! Which GPU, and its nodes.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dmashare::{Connection, DeviceInfo};

/// The GPU with this node, of those that are there; without a node the first that can be pulled, or any.
///
/// # Errors
/// There is none; the broker cannot be asked.
pub fn choose(broker: &Connection, node: Option<&Path>) -> Result<DeviceInfo> {
    let mut all = broker.devices()?;
    let is_it =
        |it: &DeviceInfo| node.is_none_or(|node| it.nodes.iter().any(|its| Path::new(its) == node));
    all.retain(|it| !it.device.is_lost() && is_it(it));
    all.sort_by_key(|it| !it.removable);
    all.into_iter().next().context("the broker knows no such GPU")
}

/// Its nodes, the render node first: that needs no rights over the screen.
#[must_use]
pub fn nodes(gpu: &DeviceInfo) -> Vec<PathBuf> {
    gpu.nodes.iter().rev().map(PathBuf::from).collect()
}

/// Opens one.
///
/// # Errors
/// The GPU is gone, or one may not.
pub fn open(node: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(node);
    file.with_context(|| format!("open {}", node.display()))
}
