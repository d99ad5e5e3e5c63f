//! From DRM nodes in sysfs to devices: which nodes belong together, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use dmashare_uapi::thunderbolt;
use udev::Device;

use super::classify::{Facts, PciFunction, classify};
use super::{DeviceDesc, NodeDesc, NodeId};
use crate::config::DeviceOverride;

/// Whether it is a node that clients open: `card*` or `renderD*`, and not a connector.
pub(super) fn is_node(device: &Device) -> bool {
    device.devtype().is_some_and(|devtype| devtype == "drm_minor")
        && device.devnum().is_some()
        && device.devnode().is_some()
        && is_node_name(&device.sysname().to_string_lossy())
}

/// What the nodes of one GPU have in common: the PCI device, else the direct parent. A display on
/// USB is its own device and not the host controller's.
fn parent(node: &Device) -> Option<Device> {
    let mut at = node.parent();
    while let Some(device) = at {
        match subsystem(&device) {
            Some("pci") => return Some(device),
            Some("usb") => break,
            _ => at = device.parent(),
        }
    }
    node.parent()
}

/// The DEVPATH of what a node's device is grouped by.
pub(super) fn parent_devpath(node: &Device) -> String {
    devpath(parent(node).as_ref().unwrap_or(node))
}

/// Groups nodes to devices, in the order of their parents' paths.
pub(super) fn devices(nodes: Vec<Device>, overrides: &[DeviceOverride]) -> Vec<DeviceDesc> {
    let mut groups = BTreeMap::<String, Vec<Device>>::new();
    for node in nodes {
        groups.entry(parent_devpath(&node)).or_default().push(node);
    }
    groups.into_values().filter_map(|nodes| describe(nodes, overrides)).collect()
}

/// Whether these are all the nodes that the kernel has made for the device. udev tells of one after
/// another, and a device is announced once.
pub(super) fn is_complete(device: &DeviceDesc) -> bool {
    let folders: BTreeSet<&str> =
        device.nodes.iter().filter_map(|node| Some(node.devpath.rsplit_once('/')?.0)).collect();
    let made = folders
        .iter()
        .filter_map(|folder| fs::read_dir(format!("/sys{folder}")).ok())
        .flatten()
        .flatten()
        .filter(|entry| is_node_name(&entry.file_name().to_string_lossy()))
        .count();
    // Less is a device that is being removed; that is the reactor's to find out.
    made <= device.nodes.len()
}

fn is_node_name(name: &str) -> bool {
    name.starts_with("card") || name.starts_with("renderD")
}

fn describe(mut nodes: Vec<Device>, overrides: &[DeviceOverride]) -> Option<DeviceDesc> {
    nodes.sort_by_key(|node| {
        let is_render = node.sysname().to_string_lossy().starts_with("render");
        (is_render, node.sysnum())
    });
    let first = nodes.first()?;
    let parent = parent(first).unwrap_or_else(|| first.clone());
    let name = text(parent.sysname());
    let facts = Facts {
        pci: if subsystem(&parent) == Some("pci") { name.clone() } else { String::new() },
        driver: driver(first, &parent),
        property: nodes
            .iter()
            .chain([&parent])
            .find_map(|device| device.property_value("DMASHARE_REMOVABLE").map(text)),
        pci_chain: pci_chain(&parent),
        external_bus: external_bus(&parent),
        name,
    };
    let (removable, removable_reason) = classify(&facts, overrides);
    Some(DeviceDesc {
        parent_devpath: devpath(&parent),
        syspath: parent.syspath().to_owned(),
        birth: super::birth(parent.syspath()),
        nodes: nodes.iter().filter_map(node_desc).collect(),
        name: facts.name,
        pci: facts.pci,
        driver: facts.driver,
        removable,
        removable_reason,
    })
}

fn node_desc(node: &Device) -> Option<NodeDesc> {
    let devnum = node.devnum()?;
    Some(NodeDesc {
        id: NodeId(libc::major(devnum).into(), libc::minor(devnum).into()),
        devname: node.devnode()?.to_string_lossy().into_owned(),
        devpath: devpath(node),
    })
}

/// The driver of what the DRM device hangs on, else of the PCI device. A software device has none,
/// or only the bus's own, and is known by its name.
fn driver(node: &Device, parent: &Device) -> String {
    let direct = node.parent();
    let direct = direct.as_ref().unwrap_or(parent);
    let is_software = subsystem(direct) == Some("faux");
    match direct.driver().or_else(|| parent.driver()) {
        // A transport: the GPU's driver is bound to the virtio device, which is the DRM device's
        // parent or its sibling, as the kernel's version has it.
        Some(driver) if driver == "virtio-pci" => {
            virtio_driver(parent.syspath()).unwrap_or_else(|| text(driver))
        }
        Some(driver) if !is_software => text(driver),
        _ => text(direct.sysname()),
    }
}

/// The driver of the virtio device of a PCI device.
fn virtio_driver(pci: &Path) -> Option<String> {
    fs::read_dir(pci).ok()?.flatten().find_map(|entry| {
        if !entry.file_name().to_string_lossy().starts_with("virtio") {
            return None;
        }
        let driver = fs::read_link(entry.path().join("driver")).ok()?;
        driver.file_name().map(text)
    })
}

fn pci_chain(parent: &Device) -> Vec<PciFunction> {
    let mut chain = Vec::new();
    let mut at = Some(parent.clone());
    while let Some(device) = at {
        if subsystem(&device) != Some("pci") {
            break;
        }
        chain.push(PciFunction {
            address: text(device.sysname()),
            removable: device.attribute_value("removable").map(text),
            tunnels: thunderbolt::controller(device.syspath()).is_some(),
        });
        at = device.parent();
    }
    chain
}

fn external_bus(parent: &Device) -> Option<String> {
    let mut at = Some(parent.clone());
    while let Some(device) = at {
        match subsystem(&device) {
            Some(bus @ ("usb" | "thunderbolt")) => return Some(bus.to_owned()),
            // What is above a PCI device is told by the PCI devices.
            Some("pci") => return None,
            _ => at = device.parent(),
        }
    }
    None
}

fn subsystem(device: &Device) -> Option<&str> {
    device.subsystem().and_then(OsStr::to_str)
}

fn devpath(device: &Device) -> String {
    text(device.devpath())
}

fn text(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_virtio_gpus_driver_is_that_of_the_virtio_device() {
        let pci = tempfile::tempdir().unwrap();
        assert_eq!(virtio_driver(pci.path()), None);
        fs::create_dir(pci.path().join("virtio4")).unwrap();
        assert_eq!(virtio_driver(pci.path()), None, "not bound yet");
        symlink("../bus/virtio/drivers/virtio_gpu", pci.path().join("virtio4/driver")).unwrap();
        assert_eq!(virtio_driver(pci.path()).as_deref(), Some("virtio_gpu"));
    }
}
