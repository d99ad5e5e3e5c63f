//! What each process holds of the device, and what of it is in an eject's way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use dmashare_proto::holders::{DrmClient, Held, Look, What};

use super::fdinfo::{BufferInfo, DrmInfo};
use super::fences::{self, Asker};
use super::masters::Masters;
use super::seen::{Mappings, OpenNode, Seen};
use super::target::{Kind, Target};
use super::whose::{self, Whose};

/// Why a master's node is in the way.
pub(super) const MASTER: &str = "it is the card's master";
const BLOCKS: &str = "its driver cannot be removed while it is open";
const BUSY: &str = "an engine of the card works for it";
const MAPPED: &str = "it is mapped";
const BUFFER: &str = "it is a buffer of the card";
const PENDING: &str = "the card is to end it";

/// Between two looks at what engines have done: longer than a frame.
const ENGINES: Duration = Duration::from_millis(25);

/// Says what is held, process by process.
pub(super) struct Judge<'a> {
    pub look: &'a Look,
    pub target: &'a Target,
    pub buffers: &'a HashMap<u64, BufferInfo>,
    pub masters: Masters<'a>,
    pub asker: Asker<'a>,
}

/// What a process holds.
pub(super) struct Verdict {
    pub holds: Vec<Held>,
    /// It is master of a card, of whichever.
    pub is_master: bool,
}

impl Judge<'_> {
    pub fn judge(&mut self, seen: &Seen) -> Verdict {
        let mut holds = self.nodes(seen);
        let is_of_device = !holds.is_empty();
        let mut is_master = holds.iter().any(is_masters);
        holds.extend(self.mapped(seen));
        holds.extend(self.other_nodes(seen));
        holds.extend(self.buffers(seen));
        if !(seen.sync_files.is_empty() && seen.syncobjs.is_empty())
            && let Ok(process) = seen.pidfd()
        {
            holds.extend(self.sync_files(seen, process.as_fd()));
            holds.extend(self.syncobjs(seen, process.as_fd(), is_of_device));
        }
        if !holds.is_empty() && !is_master {
            is_master = self.is_master_of_another(seen);
        }
        Verdict { holds, is_master }
    }

    /// The device's DRM nodes, one entry each.
    fn nodes(&mut self, seen: &Seen) -> Vec<Held> {
        let mut by_thing = BTreeMap::<usize, Vec<&OpenNode>>::new();
        for open in &seen.nodes {
            if self.target.things[open.thing].kind == Kind::Node {
                by_thing.entry(open.thing).or_default().push(open);
            }
        }
        by_thing.into_iter().map(|(thing, opens)| self.node(seen, thing, &opens)).collect()
    }

    fn node(&mut self, seen: &Seen, thing: usize, opens: &[&OpenNode]) -> Held {
        let mut drm = Vec::<DrmClient>::new();
        for open in opens {
            let info = &open.info;
            // Several descriptors may be of one open file.
            if drm.iter().any(|client| info.client == Some(client.id)) {
                continue;
            }
            let master = self.masters.is_master(seen, open);
            // A driver that says nothing tells of its master alone, which is one open file.
            let is_known = master && drm.iter().any(|client| client.master);
            if info.driver.is_empty() && (!master || is_known) {
                continue;
            }
            let resident_kib = info.resident_kib;
            let idle = !master && resident_kib.unwrap_or(0) == 0;
            drm.push(DrmClient {
                id: info.client.unwrap_or(0),
                driver: Some(&info.driver)
                    .filter(|driver| !driver.is_empty())
                    .unwrap_or(&self.look.device.driver)
                    .clone(),
                master,
                resident_kib,
                busy: idle && is_busy(seen, open),
            });
        }
        let resident: u64 = drm.iter().filter_map(|client| client.resident_kib).sum();
        let mut why = Vec::new();
        if self.look.device.blocks_while_open {
            why.push(BLOCKS.to_owned());
        }
        if drm.iter().any(|client| client.master) {
            why.push(MASTER.to_owned());
        }
        if resident > 0 {
            why.push(format!("{resident} KiB of its memory are resident"));
        }
        if drm.iter().any(|client| client.busy) {
            why.push(BUSY.to_owned());
        }
        let path = self.target.things[thing].path.clone();
        Held {
            what: What::Node { path, drm },
            fds: count(opens),
            active: why.join("; "),
            ..Held::default()
        }
    }

    /// Mappings of the device's DRM nodes, with or without a descriptor.
    fn mapped(&self, seen: &Seen) -> Vec<Held> {
        let of_device =
            seen.mapped.iter().filter(|(thing, _)| self.target.things[**thing].kind == Kind::Node);
        let held = |(thing, of): (&usize, &Mappings)| Held {
            what: What::Mapping { path: self.target.things[*thing].path.clone(), bytes: of.bytes },
            mappings: of.count,
            active: MAPPED.to_owned(),
            ..Held::default()
        };
        of_device.map(held).collect()
    }

    /// Nodes beside DRM's.
    fn other_nodes(&self, seen: &Seen) -> Vec<Held> {
        let mut found = BTreeMap::<usize, (u32, u32)>::new();
        for open in &seen.nodes {
            found.entry(open.thing).or_default().0 += 1;
        }
        for (&thing, of) in &seen.mapped {
            found.entry(thing).or_default().1 += of.count;
        }
        found
            .into_iter()
            .filter_map(|(thing, (fds, mappings))| {
                let thing = &self.target.things[thing];
                let path = thing.path.clone();
                let mapped = if mappings > 0 { MAPPED } else { "" };
                let (what, active, guess) = match &thing.kind {
                    Kind::Node | Kind::Other(_) => return None,
                    Kind::Character if self.look.device.blocks_while_open && fds > 0 => {
                        (What::Character { path }, BLOCKS, "")
                    }
                    Kind::Character => (What::Character { path }, mapped, ""),
                    Kind::Driver => {
                        (What::Character { path }, "", "it is the driver's, of whichever card")
                    }
                    Kind::Vfio => {
                        (What::Character { path }, "a virtual machine may have the device", "")
                    }
                    Kind::Function(pci) => (What::Function { pci: pci.clone(), path }, mapped, ""),
                };
                let (active, guess) = (active.to_owned(), guess.to_owned());
                Some(Held { what, fds, mappings, active, guess })
            })
            .collect()
    }

    fn buffers(&self, seen: &Seen) -> Vec<Held> {
        let Look { device, others } = self.look;
        let held = |(&inode, of): (&u64, &super::seen::OpenBuffer)| {
            let info = self.buffers.get(&inode).cloned().unwrap_or_default();
            let whose = if device.buffers.contains(&inode) {
                Whose::Its
            } else {
                whose::buffer(&info.exporter, device, others)
            };
            let (active, guess) = self.weigh(seen, whose, BUFFER)?;
            let what = What::DmaBuf { inode, size: info.size, exporter: info.exporter };
            Some(Held { what, fds: of.fds, mappings: of.mappings, active, guess })
        };
        seen.buffers.iter().filter_map(held).collect()
    }

    fn sync_files(&self, seen: &Seen, process: BorrowedFd<'_>) -> Vec<Held> {
        let pending = seen.sync_files.iter().map(|&fd| {
            // Closed meanwhile, where it cannot be asked: nothing can be said of it.
            fences::of_sync_file(process, fd).unwrap_or_default()
        });
        self.pending(seen, pending.collect(), |drivers| What::SyncFile { drivers })
    }

    fn syncobjs(&mut self, seen: &Seen, process: BorrowedFd<'_>, is_of_device: bool) -> Vec<Held> {
        let (mut pending, mut quiet, mut unasked) = (Vec::new(), 0, 0);
        for &fd in &seen.syncobjs {
            match self.asker.of_syncobj(process, fd) {
                Some(drivers) if drivers.is_empty() => quiet += 1,
                Some(drivers) => pending.push(drivers),
                None => unasked += 1,
            }
        }
        let mut holds = self.pending(seen, pending, |drivers| What::Syncobj { drivers });
        let mut idle = |fds, guess: &str| {
            let what = What::Syncobj { drivers: Vec::new() };
            let guess = guess.to_owned();
            holds.push(Held { what, fds, guess, ..Held::default() });
        };
        // A syncobj belongs to no device: it is told of where its owner uses this one.
        if quiet > 0 && is_of_device {
            idle(quiet, "nothing is pending in it, so it can be of any device");
        }
        if unasked > 0 {
            idle(unasked, "what is pending in it cannot be asked here");
        }
        holds
    }

    /// What is pending, of the device: one entry for what is certain, and one a guess.
    fn pending(
        &self,
        seen: &Seen,
        pending: Vec<Vec<String>>,
        what: impl Fn(Vec<String>) -> What,
    ) -> Vec<Held> {
        let mut entries = BTreeMap::<(String, String), (u32, BTreeSet<String>)>::new();
        for drivers in pending {
            let weighed = drivers.into_iter().filter_map(|driver| {
                let whose = whose::fence(&driver, &self.look.device, &self.look.others);
                Some((self.weigh(seen, whose, PENDING)?, driver))
            });
            // The certain ones first: a descriptor is counted once.
            let all: BTreeMap<_, _> =
                weighed.map(|((active, guess), driver)| ((guess, active), driver)).collect();
            if let Some(((guess, active), driver)) = all.into_iter().next() {
                let (fds, names) = entries.entry((guess, active)).or_default();
                *fds += 1;
                names.insert(driver);
            }
        }
        let held =
            |((guess, active), (fds, drivers)): ((String, String), (u32, BTreeSet<String>))| Held {
                what: what(drivers.into_iter().collect()),
                fds,
                active,
                guess,
                ..Held::default()
            };
        entries.into_iter().map(held).collect()
    }

    /// Why something is in the way (or not), and how that is known; `None` of what is not the device's.
    fn weigh(&self, seen: &Seen, whose: Whose, active: &str) -> Option<(String, String)> {
        match whose {
            Whose::Its => Some((active.to_owned(), String::new())),
            Whose::Maybe { rivals, guess } => {
                let is_rivals = rivals.iter().any(|&rival| self.uses(seen, rival));
                Some((if is_rivals { String::new() } else { active.to_owned() }, guess))
            }
            Whose::NotIts => None,
        }
    }

    /// Whether a process has a node of another device open or mapped.
    fn uses(&self, seen: &Seen, other: usize) -> bool {
        let is_its = |thing: usize| self.target.things[thing].kind == Kind::Other(other);
        seen.nodes.iter().any(|open| is_its(open.thing)) || seen.mapped.keys().any(|&at| is_its(at))
    }

    fn is_master_of_another(&mut self, seen: &Seen) -> bool {
        let is_other =
            |open: &&OpenNode| matches!(self.target.things[open.thing].kind, Kind::Other(_));
        let opens = seen.nodes.iter().filter(is_other);
        opens.into_iter().any(|open| self.masters.is_master(seen, open))
    }
}

fn is_masters(held: &Held) -> bool {
    matches!(&held.what, What::Node { drm, .. } if drm.iter().any(|client| client.master))
}

/// Whether its engines have worked since it was first looked at.
fn is_busy(seen: &Seen, open: &OpenNode) -> bool {
    let Some(before) = open.info.work else { return false };
    thread::sleep(ENGINES.saturating_sub(open.at.elapsed()));
    let now = seen.read(&format!("fdinfo/{}", open.fd));
    now.is_ok_and(|info| DrmInfo::parse(&info).work.is_some_and(|now| now > before))
}

fn count<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).unwrap_or(u32::MAX)
}
