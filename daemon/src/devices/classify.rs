//! Whether a device can be pulled, and how that is known. Decided on plain facts, so that it is
//! tested without hardware.

use crate::config::DeviceOverride;

/// What is known of a device, from udev and sysfs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// PCI address, else the sysfs name.
    pub name: String,
    /// PCI address, or empty.
    pub pci: String,
    /// Kernel driver.
    pub driver: String,
    /// The udev property `DMASHARE_REMOVABLE`, of a DRM node or of its parent.
    pub property: Option<String>,
    /// Its PCI function and the bridges above it, from the device up.
    pub pci_chain: Vec<PciFunction>,
    /// The subsystem of the nearest parent that is on a bus made for pulling: `usb`, `thunderbolt`.
    pub external_bus: Option<String>,
}

/// A PCI function on the way from a device to the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciFunction {
    /// Its PCI address.
    pub address: String,
    /// Its `removable` attribute: `removable`, `fixed` or `unknown`.
    pub removable: Option<String>,
    /// Whether it is a port that a Thunderbolt or USB4 host tunnels PCI Express through.
    pub tunnels: bool,
}

/// Whether a device can be pulled, and how that is known.
#[must_use]
pub fn classify(facts: &Facts, overrides: &[DeviceOverride]) -> (bool, String) {
    let said =
        |entry: &&DeviceOverride| entry.device.matches(&facts.name, &facts.pci, &facts.driver);
    if let Some(entry) = overrides.iter().rev().find(said) {
        return (entry.removable, "configuration".to_owned());
    }
    match facts.property.as_deref() {
        Some("1") => return (true, "udev property DMASHARE_REMOVABLE".to_owned()),
        Some("0") => return (false, "udev property DMASHARE_REMOVABLE".to_owned()),
        _ => {}
    }
    for (above, function) in facts.pci_chain.iter().enumerate() {
        if function.removable.as_deref() == Some("removable") {
            return (true, which(above, function, "is marked removable"));
        }
        if function.tunnels {
            return (true, which(above, function, "is a Thunderbolt or USB4 tunnel"));
        }
    }
    match facts.external_bus.as_deref() {
        Some("usb") => return (true, "USB device".to_owned()),
        Some("thunderbolt") => return (true, "Thunderbolt device".to_owned()),
        _ => {}
    }
    match facts.pci_chain.first() {
        Some(PciFunction { removable: Some(attribute), .. }) if attribute == "fixed" => {
            (false, "PCI device is marked fixed".to_owned())
        }
        Some(_) => (false, "nothing marks the PCI device or a bridge above it".to_owned()),
        None => (false, "not on a bus that devices are pulled from".to_owned()),
    }
}

fn which(above: usize, function: &PciFunction, what: &str) -> String {
    if above == 0 {
        format!("PCI device {what}")
    } else {
        format!("PCI bridge {} above it {what}", function.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pci(address: &str, removable: Option<&str>) -> PciFunction {
        PciFunction {
            address: address.to_owned(),
            removable: removable.map(str::to_owned),
            tunnels: false,
        }
    }

    fn gpu() -> Facts {
        Facts {
            name: "0000:03:00.0".to_owned(),
            pci: "0000:03:00.0".to_owned(),
            driver: "amdgpu".to_owned(),
            pci_chain: vec![pci("0000:03:00.0", None), pci("0000:00:01.0", None)],
            ..Facts::default()
        }
    }

    fn said(device: &str, removable: bool) -> DeviceOverride {
        DeviceOverride { device: device.parse().unwrap(), removable }
    }

    #[test]
    fn an_unmarked_device_stays() {
        assert_eq!(
            classify(&gpu(), &[]),
            (false, "nothing marks the PCI device or a bridge above it".to_owned())
        );
        let vkms = Facts { name: "vkms".to_owned(), driver: "vkms".to_owned(), ..Facts::default() };
        assert!(!classify(&vkms, &[]).0);
    }

    #[test]
    fn the_devices_own_mark_and_a_bridges_count() {
        let mut facts = gpu();
        facts.pci_chain[1].removable = Some("removable".to_owned());
        assert_eq!(
            classify(&facts, &[]),
            (true, "PCI bridge 0000:00:01.0 above it is marked removable".to_owned())
        );
        facts.pci_chain[0].removable = Some("removable".to_owned());
        assert_eq!(classify(&facts, &[]), (true, "PCI device is marked removable".to_owned()));
        facts.pci_chain.iter_mut().for_each(|it| it.removable = Some("fixed".to_owned()));
        assert_eq!(classify(&facts, &[]), (false, "PCI device is marked fixed".to_owned()));
    }

    #[test]
    fn tunnels_and_external_buses_count() {
        let mut facts = gpu();
        facts.pci_chain[1].tunnels = true;
        assert!(classify(&facts, &[]).0);
        for bus in ["usb", "thunderbolt"] {
            let facts = Facts { external_bus: Some(bus.to_owned()), ..Facts::default() };
            assert!(classify(&facts, &[]).0, "{bus}");
        }
    }

    #[test]
    fn the_property_outranks_the_hardware_and_the_configuration_both() {
        let mut facts = gpu();
        facts.pci_chain[0].removable = Some("removable".to_owned());
        facts.property = Some("0".to_owned());
        assert_eq!(classify(&facts, &[]), (false, "udev property DMASHARE_REMOVABLE".to_owned()));
        let rules = [said("0000:03:00.0", true)];
        assert_eq!(classify(&facts, &rules), (true, "configuration".to_owned()));
        facts.property = Some("yes".to_owned());
        assert_eq!(classify(&facts, &[]).1, "PCI device is marked removable");
    }

    #[test]
    fn of_several_in_the_configuration_the_last_that_matches_wins() {
        let rules =
            [said("0000:03:00.0", true), said("driver:amdgpu", false), said("0000:04:00.0", true)];
        assert_eq!(classify(&gpu(), &rules), (false, "configuration".to_owned()));
    }
}
