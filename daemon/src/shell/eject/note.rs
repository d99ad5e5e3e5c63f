//! What a restart has to take back: display servers that were told that a card goes, which stays.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dmashare_proto::DeviceId;
use dmashare_proto::sysfs::{Nudge, Request};

use crate::helpers::Helpers;

const FILE: &str = "eject.json";

/// The file, as it is.
pub(in crate::shell) struct Note {
    path: PathBuf,
    nodes: BTreeMap<u64, Vec<String>>,
}

impl Note {
    /// Of a state folder, empty.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE), nodes: BTreeMap::new() }
    }

    /// What the service left behind that was here before.
    fn left(&self) -> Vec<String> {
        let Ok(bytes) = fs::read(&self.path) else { return Vec::new() };
        let left: Result<BTreeMap<u64, Vec<String>>, _> = serde_json::from_slice(&bytes);
        match left {
            Ok(left) => left.into_values().flatten().collect(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "not readable; left as it is");
                Vec::new()
            }
        }
    }

    /// Before they are told.
    pub fn keep(&mut self, device: DeviceId, nodes: &[String]) -> io::Result<()> {
        self.nodes.insert(device.0, nodes.to_vec());
        self.write()
    }

    /// They were told otherwise, or the device is gone.
    pub fn forget(&mut self, device: DeviceId) {
        if self.nodes.remove(&device.0).is_some()
            && let Err(error) = self.write()
        {
            tracing::warn!(%error, "a restart will take back what is taken back already");
        }
    }

    fn write(&self) -> io::Result<()> {
        if self.nodes.is_empty() {
            return fs::remove_file(&self.path);
        }
        // As a whole or not at all.
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&self.nodes)?)?;
        fs::rename(new, &self.path)
    }
}

/// Takes back what an eject had begun when the service ended.
pub(in crate::shell) async fn take_back(helpers: Helpers, note: &Note) {
    let nodes = note.left();
    if nodes.is_empty() {
        return;
    }
    for node in nodes {
        let request = Request::Nudge { nodes: vec![node.clone()], action: Nudge::Add };
        match helpers.write(&request, |_| {}).await {
            Ok(()) => tracing::warn!(name: "eject-interrupted",
                node,
                "an eject was interrupted by a restart; display servers are told that the card stays"
            ),
            // It is gone, then nobody is to be told.
            Err(why) => {
                tracing::info!(name: "eject-interrupted", node, why, "an eject was interrupted; nothing to take back")
            }
        }
    }
    if let Err(error) = fs::remove_file(&note.path) {
        tracing::warn!(%error, "the note of an interrupted eject stays");
    }
}
