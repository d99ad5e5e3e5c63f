//! The GPUs of a machine, as the tests know them from sysfs and not from the broker.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What a card is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The one that is pulled.
    Egpu,
    /// The one that imports and scans out.
    Igpu,
    /// Another one that stays.
    Stay,
}

/// A card as it is now: after a re-plug its nodes can be others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// What it is for.
    pub role: Role,
    /// The kernel driver.
    pub driver: String,
    /// PCI address, empty for one that is not on a PCI bus.
    pub pci: String,
    /// Its nodes, the primary one first.
    pub nodes: Vec<PathBuf>,
    /// The folder in sysfs of what the nodes belong to (the PCI device), or of a simulated device.
    pub sysfs: PathBuf,
    /// Files and eventfds in place of DRM.
    pub simulated: bool,
}

impl Card {
    /// Looks a card up below a folder in sysfs; `None` if it has no node there.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub(crate) fn find(role: Role, sysfs: &Path, driver: &str, pci: &str) -> Result<Option<Self>> {
        // A virtio-gpu's nodes are below the PCI device on some kernels, and below its virtio device
        // on others.
        let mut folders = vec![sysfs.join("drm")];
        for entry in fs::read_dir(sysfs).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("virtio") {
                folders.push(entry.path().join("drm"));
            }
        }
        let mut nodes = Vec::new();
        for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("card") || name.starts_with("renderD") {
                nodes.push(Path::new("/dev/dri").join(name));
            }
        }
        nodes.sort();
        let sysfs = sysfs.canonicalize().unwrap_or_else(|_| sysfs.to_owned());
        let (driver, pci) = (driver.to_owned(), pci.to_owned());
        let card = Self { role, driver, pci, nodes, sysfs, simulated: false };
        Ok((!card.nodes.is_empty()).then_some(card))
    }

    /// The primary node: the one that makes buffers and shows them.
    #[must_use]
    pub fn primary(&self) -> &Path {
        &self.nodes[0]
    }

    /// Opens the primary node.
    ///
    /// # Errors
    /// The card is gone, or the user may not.
    pub fn open(&self) -> Result<OwnedFd> {
        self.open_node(self.primary())
    }

    /// Opens the render node, or the primary one where there is no other.
    ///
    /// # Errors
    /// The card is gone, or the user may not.
    pub fn open_render(&self) -> Result<OwnedFd> {
        self.open_node(self.nodes.last().map_or(self.primary(), PathBuf::as_path))
    }

    fn open_node(&self, path: &Path) -> Result<OwnedFd> {
        if self.simulated {
            let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            return Ok(file.into());
        }
        dmashare_uapi::drm_node::open(path).with_context(|| format!("open {}", path.display()))
    }

    /// A node's DEVPATH, as in its uevents.
    ///
    /// # Errors
    /// It is not in sysfs.
    pub fn devpath(&self, node: &Path) -> Result<String> {
        let Some(name) = node.file_name() else { bail!("{} is no node", node.display()) };
        if self.simulated {
            let device = self.sysfs.file_name().unwrap_or_default().to_string_lossy();
            return Ok(format!("/devices/sim/{device}/drm/{}", name.to_string_lossy()));
        }
        let path = Path::new("/sys/class/drm").join(name).canonicalize()?;
        let path = path.to_string_lossy().into_owned();
        Ok(path.strip_prefix("/sys").unwrap_or(&path).to_owned())
    }
}
