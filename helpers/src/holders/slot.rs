//! The nodes of a PCI device and of its slot's other functions, as sysfs has them.

use std::fs;
use std::path::{Path, PathBuf};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Folders below a function that are gone into: hubs behind hubs end before that.
const DEPTH: u32 = 24;

/// A character device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Character {
    /// `/dev/snd/pcmC1D3p`
    pub path: String,
    /// Its number.
    pub rdev: (u32, u32),
}

/// A function's folder.
pub(super) fn folder(pci: &str) -> PathBuf {
    Path::new(DEVICES).join(pci)
}

/// The functions of a device's slot, itself among them, in order. Empty for what is on no PCI bus.
pub(super) fn functions(pci: &str) -> Vec<String> {
    let Some((slot, _)) = pci.rsplit_once('.') else { return Vec::new() };
    let entries = fs::read_dir(DEVICES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut functions: Vec<String> =
        names.filter(|name| name.rsplit_once('.').is_some_and(|(of, _)| of == slot)).collect();
    functions.sort();
    functions
}

/// All character devices of a function and of what hangs below it.
pub(super) fn nodes_below(folder: &Path) -> Vec<Character> {
    let mut found = Vec::new();
    collect(folder, DEPTH, &mut found);
    found
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<Character>) {
    // What goes while it is looked at is not there.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 {
            collect(&entry.path(), depth - 1, found);
        } else if kind.is_file() && entry.file_name() == "dev" {
            found.extend(node_of(folder));
        }
    }
}

/// The node of a folder with a `dev` file; `None` for a disk, which is mounted and not held.
fn node_of(folder: &Path) -> Option<Character> {
    let subsystem = fs::read_link(folder.join("subsystem")).ok()?;
    if subsystem.file_name()? == "block" {
        return None;
    }
    let rdev = number(fs::read_to_string(folder.join("dev")).ok()?.trim())?;
    let uevent = fs::read_to_string(folder.join("uevent")).ok()?;
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Character { path: format!("/dev/{name}"), rdev })
}

/// `226:1`
fn number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The group that VFIO gives out a device by, if it has one: its number, and the functions in it that are
/// bound to VFIO.
pub(super) fn vfio_group(pci: &str) -> Option<(String, Vec<String>)> {
    if pci.is_empty() {
        return None;
    }
    let group = fs::read_link(folder(pci).join("iommu_group")).ok()?;
    let number = group.file_name()?.to_str()?.to_owned();
    let members = fs::read_dir(folder(pci).join("iommu_group/devices")).ok()?;
    let mut bound: Vec<String> = members
        .flatten()
        .filter(|member| {
            let driver = fs::read_link(member.path().join("driver"));
            driver.is_ok_and(|driver| driver.ends_with("vfio-pci"))
        })
        .filter_map(|member| member.file_name().into_string().ok())
        .collect();
    bound.sort();
    (!bound.is_empty()).then_some((number, bound))
}

/// The nodes by which the group with that number is held.
pub(super) fn vfio_node(group: &str) -> Option<Character> {
    let rdev = fs::read_to_string(Path::new("/sys/class/vfio").join(group).join("dev")).ok()?;
    Some(Character { path: format!("/dev/vfio/{group}"), rdev: number(rdev.trim())? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn node(folder: &Path, subsystem: &str, dev: &str, name: &str) {
        fs::create_dir_all(folder).unwrap();
        symlink(Path::new("/sys/class").join(subsystem), folder.join("subsystem")).unwrap();
        fs::write(folder.join("dev"), format!("{dev}\n")).unwrap();
        fs::write(folder.join("uevent"), format!("MAJOR=1\nDEVNAME={name}\n")).unwrap();
    }

    #[test]
    fn what_hangs_below_a_function() {
        let dir = tempfile::tempdir().unwrap();
        let function = dir.path().join("0000:06:00.1");
        node(&function.join("sound/card1/controlC1"), "sound", "116:7", "snd/controlC1");
        node(&function.join("usb3/3-1"), "usb", "189:257", "bus/usb/003/002");
        node(&function.join("usb3/3-1/block/sda"), "block", "8:0", "sda");
        // Links lead up and elsewhere.
        symlink(dir.path(), function.join("driver")).unwrap();
        let mut found = nodes_below(&function);
        found.sort_by_key(|node| node.rdev);
        let wanted = [("/dev/snd/controlC1", (116, 7)), ("/dev/bus/usb/003/002", (189, 257))];
        let wanted = wanted.map(|(path, rdev)| Character { path: path.into(), rdev });
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_device_without_an_address_has_no_slot() {
        assert_eq!(functions(""), Vec::<String>::new());
        assert_eq!(number("226:1"), Some((226, 1)));
        assert_eq!(number("226"), None);
    }
}
