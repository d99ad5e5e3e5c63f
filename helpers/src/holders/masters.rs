//! Who is a card's master: asked of the open file itself, since debugfs names who opened it, which is
//! logind or seatd where the compositor has it from them.

use std::collections::HashMap;
use std::os::fd::AsFd;

use dmashare_proto::holders::{Look, LookFor};
use dmashare_uapi::drm_node::{self, DRM_MAJOR, DrmNode, NodeKind};
use dmashare_uapi::foreign_fd;

use super::debugfs::{self, Client};
use super::seen::{OpenNode, Seen};
use super::target::{Kind, Target, Thing};

/// The cards' open files, as debugfs has them.
pub(super) struct Masters<'a> {
    look: &'a Look,
    target: &'a Target,
    clients: HashMap<(u64, u64), Option<Vec<Client>>>,
}

impl<'a> Masters<'a> {
    pub fn new(look: &'a Look, target: &'a Target) -> Self {
        Self { look, target, clients: HashMap::new() }
    }

    /// Whether the descriptor is of a card's master.
    pub fn is_master(&mut self, seen: &Seen, open: &OpenNode) -> bool {
        let thing = &self.target.things[open.thing];
        if !is_primary(thing) {
            return false;
        }
        let clients = self.clients(thing);
        // To be asked leaves a trace on the file: not where nobody is the master.
        if clients.as_ref().is_some_and(|clients| !clients.iter().any(|client| client.master)) {
            return false;
        }
        let taken = seen.pidfd().and_then(|process| foreign_fd::take(process.as_fd(), open.fd));
        match taken.and_then(|fd| drm_node::is_master(fd.as_fd())) {
            Ok(is_master) => is_master,
            Err(_) => clients.iter().flatten().any(|it| it.master && it.pid == seen.pid),
        }
    }

    fn clients(&mut self, thing: &Thing) -> &Option<Vec<Client>> {
        let device = match thing.kind {
            Kind::Other(place) => &self.look.others[place],
            _ => &self.look.device,
        };
        self.clients.entry(thing.rdev).or_insert_with(|| clients_of(device))
    }
}

/// The open files of a device; `None` where debugfs does not tell.
pub(super) fn clients_of(device: &LookFor) -> Option<Vec<Client>> {
    let node =
        device.nodes.iter().find(|node| kind(node.major, node.minor) == Some(NodeKind::Primary))?;
    if device.simulated { None } else { debugfs::clients(&device.pci, node.minor) }
}

/// Whether it is the node of a card, by which that is driven.
fn is_primary(thing: &Thing) -> bool {
    matches!(thing.kind, Kind::Node | Kind::Other(_))
        && kind(thing.rdev.0, thing.rdev.1) == Some(NodeKind::Primary)
}

fn kind(major: u64, minor: u64) -> Option<NodeKind> {
    let (major, minor) = (major.try_into().ok()?, minor.try_into().ok()?);
    DrmNode::from_rdev(major, minor).filter(|node| node.major == DRM_MAJOR).map(|node| node.kind)
}
