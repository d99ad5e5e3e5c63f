//! What is looked for, by the kernel's numbers for it: a path can be another node's in another mount
//! namespace, or nobody's any more.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;

use dmashare_proto::holders::{Look, LookFor};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{SFlag, fstat, stat};

use super::nvidia;
use super::slot::{self, Character};

/// A node that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thing {
    /// Its path here.
    pub path: String,
    /// What it is to the device.
    pub kind: Kind,
    /// Its number; of a simulated one, what stands for it.
    pub rdev: (u64, u64),
}

/// What a node is to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A DRM node of its.
    Node,
    /// A DRM node of another device, by its place in the list.
    Other(usize),
    /// A node of its driver's own.
    Character,
    /// A node of its driver, of no card.
    Driver,
    /// The VFIO group that it is in.
    Vfio,
    /// A node of a function of its slot.
    Function(String),
}

/// All of it.
pub(super) struct Target {
    /// The nodes.
    pub things: Vec<Thing>,
    /// By device number: places in `things`.
    characters: HashMap<(u32, u32), usize>,
    /// By `st_dev` and inode: nodes as they are mapped, and simulated ones.
    files: HashMap<(u64, u64), usize>,
    /// Whether regular files stand for nodes.
    pub has_simulated: bool,
    /// Memfds with these inodes stand for dma-bufs.
    simulated_buffers: HashSet<u64>,
    /// `st_dev` of the kernel's anonymous inodes.
    pub anonymous: u64,
    /// `st_dev` of memfds.
    pub memfds: u64,
}

impl Target {
    /// # Errors
    /// The kernel's: no memfd, no eventfd.
    pub fn new(look: &Look) -> io::Result<Self> {
        let device = &look.device;
        let mut target = Self {
            things: Vec::new(),
            characters: HashMap::new(),
            files: HashMap::new(),
            has_simulated: device.simulated || look.others.iter().any(|other| other.simulated),
            simulated_buffers: HashSet::new(),
            anonymous: fstat(EventFd::new()?.as_fd())?.st_dev,
            memfds: fstat(memfd_create(c"dmashare-holders", MFdFlags::MFD_CLOEXEC)?)?.st_dev,
        };
        target.nodes(device, &Kind::Node);
        for (place, other) in look.others.iter().enumerate() {
            target.nodes(other, &Kind::Other(place));
        }
        if device.simulated {
            target.simulated_buffers.extend(&device.buffers);
        } else {
            target.other_nodes(device);
        }
        Ok(target)
    }

    fn nodes(&mut self, device: &LookFor, kind: &Kind) {
        for node in &device.nodes {
            let (path, kind) = (node.path.clone(), kind.clone());
            let thing = Thing { path, kind, rdev: (node.major, node.minor) };
            if device.simulated {
                self.files.insert(thing.rdev, self.things.len());
                self.things.push(thing);
            } else if let (Ok(major), Ok(minor)) = (node.major.try_into(), node.minor.try_into()) {
                self.character((major, minor), thing);
            }
        }
    }

    /// Those beside DRM's.
    fn other_nodes(&mut self, device: &LookFor) {
        if device.driver == "nvidia" {
            self.characters(nvidia::node_of(&device.pci), &Kind::Character);
            self.characters(nvidia::common_nodes(), &Kind::Driver);
        }
        for function in slot::functions(&device.pci) {
            let nodes = slot::nodes_below(&slot::folder(&function));
            self.characters(nodes, &Kind::Function(function));
        }
        if let Some((group, _)) = slot::vfio_group(&device.pci) {
            self.characters(slot::vfio_node(&group), &Kind::Vfio);
        }
    }

    fn characters(&mut self, nodes: impl IntoIterator<Item = Character>, kind: &Kind) {
        for Character { path, rdev } in nodes {
            let kind = kind.clone();
            self.character(rdev, Thing { path, kind, rdev: (rdev.0.into(), rdev.1.into()) });
        }
    }

    /// What was said first of a number counts.
    fn character(&mut self, rdev: (u32, u32), thing: Thing) {
        if self.characters.contains_key(&rdev) {
            return;
        }
        let place = self.things.len();
        self.characters.insert(rdev, place);
        let wanted = libc::makedev(rdev.0, rdev.1);
        let is_character = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
        if let Ok(found) = stat(thing.path.as_str())
            && is_character(found.st_mode)
            && found.st_rdev == wanted
        {
            self.files.insert((found.st_dev, found.st_ino), place);
        }
        self.things.push(thing);
    }

    /// The node with a device number.
    pub fn by_number(&self, rdev: (u32, u32)) -> Option<usize> {
        self.characters.get(&rdev).copied()
    }

    /// The node that is this file.
    pub fn by_file(&self, dev: u64, ino: u64) -> Option<usize> {
        self.files.get(&(dev, ino)).copied()
    }

    /// Whether the file is a memfd that stands for a dma-buf of the device.
    pub fn is_simulated_buffer(&self, dev: u64, ino: u64) -> bool {
        dev == self.memfds && self.simulated_buffers.contains(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmashare_proto::holders::Node;

    #[test]
    fn a_node_is_known_by_number_and_as_a_file() {
        let node = Node { path: "/dev/null".into(), major: 1, minor: 3 };
        let device = LookFor { nodes: vec![node], ..LookFor::default() };
        let other = Node { path: "/dev/zero".into(), major: 1, minor: 5 };
        let others = vec![LookFor { nodes: vec![other], ..LookFor::default() }];
        let target = Target::new(&Look { device, others }).unwrap();
        let null = stat("/dev/null").unwrap();
        assert_eq!(target.by_number((1, 3)), Some(0));
        assert_eq!(target.by_file(null.st_dev, null.st_ino), Some(0));
        assert_eq!(target.things[target.by_number((1, 5)).unwrap()].kind, Kind::Other(0));
        assert_eq!(target.by_number((1, 7)), None);
        assert!(!target.is_simulated_buffer(target.memfds, null.st_ino));
    }

    #[test]
    fn a_path_that_is_another_node_is_not_taken_for_it() {
        let node = Node { path: "/dev/zero".into(), major: 1, minor: 3 };
        let device = LookFor { nodes: vec![node], ..LookFor::default() };
        let target = Target::new(&Look { device, others: Vec::new() }).unwrap();
        let zero = stat("/dev/zero").unwrap();
        assert_eq!(target.by_file(zero.st_dev, zero.st_ino), None);
    }
}
