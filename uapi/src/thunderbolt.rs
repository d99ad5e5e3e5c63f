//! Which Thunderbolt or USB4 device a GPU is behind, read from sysfs (Documentation/ABI/testing/
//! sysfs-bus-thunderbolt; drivers/thunderbolt/).
//!
//! PCI Express reaches such a device through a tunnel, which begins at a port of the host and is made and
//! taken down by the host's controller (NHI). sysfs has the two trees apart: the PCI devices behind the
//! port, and the *routers* behind the controller. Nothing here writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::pci_slot::{
    card_switch, children, class, device, is_address, is_one, name, pci_children,
};

/// PCI class of a USB4 host controller. Those before USB4 are known by their domain only.
const USB4_HOST: u32 = 0x0c_0340;

/// A device router: a dock, an enclosure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Its name in sysfs: `0-1`, the domain and the route. The host's own is `0-0`, and never here.
    pub name: String,
    /// What it calls itself: `Razer Core X Chroma`; empty where it says nothing.
    pub label: String,
    /// The file that takes a 0 to de-authorise it. Everything behind it then goes, not the GPU alone.
    pub authorized: PathBuf,
    /// Whether the kernel can do that.
    pub can_deauthorize: bool,
}

/// The router whose tunnel the GPU at `pci` sits behind; `None` where it is behind no tunnel, or where
/// sysfs has no router for it (a firmware that has made the tunnel without the kernel's driver).
///
/// # Errors
/// As [`crate::pci_slot::functions`]; and where the domain has several routers and sysfs does not say
/// which it is, an error that names them.
pub fn router(sysfs: &Path, pci: &str) -> io::Result<Option<Router>> {
    let gpu = device(sysfs, pci)?;
    let Some((port, controller)) =
        gpu.ancestors().skip(1).find_map(|port| Some((port, controller(port)?)))
    else {
        return Ok(None);
    };
    let mut routers = Vec::new();
    for domain in children(&controller)?.iter().filter(|it| is_domain(it)) {
        let can_deauthorize = is_one(&domain.join("deauthorization"));
        collect(domain, can_deauthorize, &mut routers)?;
    }
    // Every router has a PCI Express switch, two bridges, and so one has as many above it as it is deep.
    let outside = card_switch(&gpu).and_then(Path::parent).unwrap_or_else(|| parent(&gpu));
    let bridges = outside.ancestors().take_while(|bridge| *bridge != port).count();
    let fitting = |router: &&Router| depth(&router.name) == bridges / 2;
    if let [router] = routers.iter().filter(fitting).collect::<Vec<_>>().as_slice() {
        return Ok(Some((*router).clone()));
    }
    if routers.len() < 2 {
        return Ok(routers.pop());
    }
    let names: Vec<_> = routers
        .iter()
        .map(|it| format!("{} {}", it.name, it.label).trim_end().to_owned())
        .collect();
    let why = format!(
        "{pci} is behind one of several Thunderbolt devices, and the kernel does not tell which: {}",
        names.join(", ")
    );
    Err(io::Error::other(why))
}

/// The host controller whose PCI Express tunnels begin at a port; both are folders in sysfs.
///
/// Where the controller is a part of the processor, the firmware ties the two together, and the kernel
/// links them, so that the port sleeps no longer than its host. A controller of its own has a switch, and
/// sits behind one port of it; the others are where the tunnels begin.
#[must_use]
pub fn controller(port: &Path) -> Option<PathBuf> {
    let linked = children(port).ok()?.into_iter().find_map(|link| {
        name(&link).strip_prefix("supplier:pci:")?;
        let supplier = fs::canonicalize(link.join("supplier")).ok()?;
        is_controller(&supplier).then_some(supplier)
    });
    if linked.is_some() {
        return linked;
    }
    let switch = port.parent().filter(|it| is_address(&name(it)))?;
    pci_children(switch)
        .ok()?
        .into_iter()
        .filter(|other| other != port)
        .flat_map(|other| pci_children(&other).unwrap_or_default())
        .find(|it| is_controller(it))
}

fn is_controller(pci: &Path) -> bool {
    class(pci).is_ok_and(|class| class == USB4_HOST)
        || children(pci).is_ok_and(|children| children.iter().any(|it| is_domain(it)))
}

fn is_domain(folder: &Path) -> bool {
    name(folder)
        .strip_prefix("domain")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit()))
}

/// Adds the device routers in a folder and behind each, those that have tunnels.
fn collect(folder: &Path, can_deauthorize: bool, routers: &mut Vec<Router>) -> io::Result<()> {
    for child in children(folder)? {
        let Some(route) = route(&name(&child)) else { continue };
        let authorized = child.join("authorized");
        // Of another computer at the end of a cable there is no such file.
        let is_authorized =
            fs::read_to_string(&authorized).is_ok_and(|text| text.trim_end() != "0");
        if route != 0 && is_authorized {
            let text = |file| fs::read_to_string(child.join(file)).unwrap_or_default();
            let (vendor, model) = (text("vendor_name"), text("device_name"));
            let label = format!("{} {}", vendor.trim_end(), model.trim_end()).trim().to_owned();
            routers.push(Router { name: name(&child), label, authorized, can_deauthorize });
        }
        collect(&child, can_deauthorize, routers)?;
    }
    Ok(())
}

/// The route of a router, from its name `DOMAIN-ROUTE`. Its services and retimers have a dot or a colon.
fn route(name: &str) -> Option<u64> {
    let (domain, route) = name.split_once('-')?;
    domain.parse::<u32>().ok()?;
    u64::from_str_radix(route, 16).ok()
}

/// How many cables from the host: a byte of the route each.
fn depth(name: &str) -> usize {
    route(name).map_or(0, |route| (u64::BITS - route.leading_zeros()).div_ceil(8) as usize)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests;
