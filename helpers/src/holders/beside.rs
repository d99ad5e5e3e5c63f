//! What no process holds, and what of the kernel's own keeps a device.

use std::fs;
use std::path::Path;

use dmashare_proto::holders::{Holder, Look, LookFor, Other, Role, What};
use dmashare_uapi::foreign_fd;

use super::debugfs::Client;
use super::masters::clients_of;
use super::seen::{OpenNode, Seen};
use super::slot;
use super::target::{Kind, Target};

/// The device's open files before the scan: what is opened or closed meanwhile explains nothing.
pub(super) struct Clients(Option<Vec<Client>>);

impl Clients {
    pub fn before(look: &Look) -> Self {
        Self(clients_of(&look.device))
    }

    /// Open files of the device that were there before and after the scan, and in no process: in flight
    /// on a socket.
    pub fn in_flight(self, look: &Look, target: &Target, seen: &[Seen], unseen: u32) -> Vec<Other> {
        let (Some(before), Some(after)) = (self.0, clients_of(&look.device)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (place, thing) in target.things.iter().enumerate() {
            if thing.kind != Kind::Node {
                continue;
            }
            let of_node = |client: &&Client| client.minor == thing.rdev.1;
            let there =
                after.iter().filter(of_node).count().min(before.iter().filter(of_node).count());
            let missing = there.saturating_sub(open_files(place, seen));
            if missing == 0 {
                continue;
            }
            let last: Vec<String> = after
                .iter()
                .filter(of_node)
                .filter(|client| !has_node(seen, client.pid, place))
                .map(|client| format!("{} ({})", client.command, client.pid))
                .collect();
            let mut text = format!(
                "{missing} open of {} that no process has: in flight on a socket",
                thing.path
            );
            if unseen > 0 {
                text.push_str(", or in a process that may not be looked into");
            }
            if !last.is_empty() {
                text = format!("{text}; used last by {}", last.join(", "));
            }
            let active = look.device.blocks_while_open;
            found.push(Other { kind: "in-flight".to_owned(), text, active });
        }
        found
    }
}

/// How many open files of a node the processes have: descriptors of one file are told by the driver's
/// number for it, or else by comparing them.
fn open_files(place: usize, seen: &[Seen]) -> usize {
    let mut files = Vec::<(i32, &OpenNode)>::new();
    for (pid, open) in opens_of(place, seen) {
        let same = |known: &&(i32, &OpenNode)| match (known.1.info.client, open.info.client) {
            (Some(known), Some(client)) => known == client,
            // Where the kernel does not compare, each is taken for a file: none is told of in vain.
            _ => foreign_fd::is_same_file((known.0, known.1.fd), (pid, open.fd)).unwrap_or(false),
        };
        if !files.iter().any(|known| same(&known)) {
            files.push((pid, open));
        }
    }
    files.len()
}

fn opens_of(place: usize, seen: &[Seen]) -> impl Iterator<Item = (i32, &OpenNode)> {
    seen.iter()
        .flat_map(|of| of.nodes.iter().map(|open| (of.pid, open)))
        .filter(move |(_, open)| open.thing == place)
}

fn has_node(seen: &[Seen], pid: i32, place: usize) -> bool {
    opens_of(place, seen).any(|(of, _)| of == pid)
}

/// What systemd keeps for services, and who could not be looked into.
pub(super) fn of_processes(holders: &[Holder], unseen: u32) -> Vec<Other> {
    let mut found = Vec::new();
    if let Some(init) = holders.iter().find(|holder| holder.role == Role::Init) {
        let fds: u32 = init.holds.iter().map(|held| held.fds).sum();
        let text = format!(
            "process 1 keeps {fds} descriptors of it, for a service: it has no use for them itself"
        );
        found.push(Other { kind: "store".to_owned(), text, active: init.is_active() });
    }
    if unseen > 0 {
        let processes = if unseen == 1 { "process" } else { "processes" };
        let text =
            format!("{unseen} {processes} may not be looked into: that takes CAP_SYS_PTRACE");
        found.push(Other { kind: "unseen".to_owned(), text, active: false });
    }
    found
}

/// What of the kernel's own uses the device.
pub(super) fn of_kernel(device: &LookFor, holders: &[Holder]) -> Vec<Other> {
    if device.simulated {
        return Vec::new();
    }
    let mut found = Vec::new();
    found.extend(console(device));
    found.extend(module(&device.driver));
    found.extend(vfio(device, holders));
    found
}

/// A frame buffer of the card, which the text console may draw on.
fn console(device: &LookFor) -> Option<Other> {
    let own =
        fs::canonicalize(slot::folder(&device.pci)).ok().filter(|_| !device.pci.is_empty())?;
    let buffers = fs::read_dir("/sys/class/graphics").ok()?.flatten();
    let mut of_card: Vec<String> = buffers
        .filter(|entry| {
            let of = fs::canonicalize(entry.path().join("device"));
            of.is_ok_and(|of| of.starts_with(&own))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("fb") && name != "fbcon")
        .collect();
    of_card.sort();
    if of_card.is_empty() {
        return None;
    }
    let consoles = fs::read_dir("/sys/class/vtconsole").into_iter().flatten().flatten();
    let draws = consoles.into_iter().any(|entry| {
        let read = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        read("name").contains("frame buffer") && read("bind").trim() == "1"
    });
    let names = of_card.join(", ");
    let text = if draws {
        format!(
            "the text console draws on frame buffers, and {names} is the card's: the kernel takes it back by itself"
        )
    } else {
        format!("{names} is the card's; no text console draws on it")
    };
    Some(Other { kind: "fbcon".to_owned(), text, active: false })
}

/// Who uses the driver's module.
fn module(driver: &str) -> Option<Other> {
    let name = driver.replace('-', "_");
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let folder = Path::new("/sys/module").join(&name);
    let count: i64 = fs::read_to_string(folder.join("refcnt")).ok()?.trim().parse().ok()?;
    let mut modules: Vec<String> = fs::read_dir(folder.join("holders"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    modules.sort();
    if count <= 0 && modules.is_empty() {
        return None;
    }
    let mut text = format!("the module {name} has {count} uses, of all its devices together");
    if !modules.is_empty() {
        text = format!("{text}; modules that use it: {}", modules.join(", "));
    }
    Some(Other { kind: "module".to_owned(), text, active: false })
}

/// A group of which VFIO has a part.
fn vfio(device: &LookFor, holders: &[Holder]) -> Option<Other> {
    let (group, bound) = slot::vfio_group(&device.pci)?;
    let node = format!("/dev/vfio/{group}");
    let has = |holder: &Holder| {
        holder
            .holds
            .iter()
            .any(|held| matches!(&held.what, What::Character { path } if *path == node))
    };
    let text = format!("VFIO has {} of its IOMMU group {group}", bound.join(", "));
    Some(Other { kind: "vfio".to_owned(), text, active: holders.iter().any(has) })
}
