//! Which devices a `[[device]]` of the configuration means.

use std::str::FromStr;

/// What the configuration says about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOverride {
    /// Which devices.
    pub device: DeviceMatch,
    /// Whether they can be pulled.
    pub removable: bool,
}

/// Which devices are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceMatch {
    /// The one at this PCI address, `0000:01:00.0`.
    Pci(String),
    /// The one with this name in sysfs, `vkms`.
    Name(String),
    /// Every one of this driver.
    Driver(String),
}

impl DeviceMatch {
    /// Whether a device is meant.
    #[must_use]
    pub fn matches(&self, name: &str, pci: &str, driver: &str) -> bool {
        match self {
            Self::Pci(address) => address == pci,
            Self::Name(wanted) => wanted == name,
            Self::Driver(wanted) => wanted == driver,
        }
    }
}

impl FromStr for DeviceMatch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str =
            "is to be a PCI address as 0000:01:00.0, a name in sysfs as vkms, or driver:NAME";
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        if let Some(driver) = text.strip_prefix("driver:") {
            return if is_name(driver) { Ok(Self::Driver(driver.to_owned())) } else { Err(WANTED) };
        }
        if let Some(address) = pci_address(text) {
            return Ok(Self::Pci(address));
        }
        // A USB interface is named `1-2:1.0`; something with two colons was meant as an address.
        if is_name(&text.replacen(':', "", 1)) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(WANTED)
        }
    }
}

/// A PCI address as the kernel writes it; the domain 0000 may be left out.
fn pci_address(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let (domain, rest) = match parts.as_slice() {
        [domain, rest @ ..] if rest.len() == 3 => (*domain, rest),
        rest if rest.len() == 3 => ("0000", rest),
        _ => return None,
    };
    let hex = |part: &str, digits| {
        (part.len() == digits).then(|| u32::from_str_radix(part, 16).ok()).flatten()
    };
    // One behind a VMD controller is beyond ffff, and has as many digits as it takes.
    let (domain, bus) = ((4..=8).find_map(|digits| hex(domain, digits))?, hex(rest[0], 2)?);
    let (slot, function) = (hex(rest[1], 2)?, hex(rest[2], 1)?);
    let address = format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}");
    (slot < 32 && function < 8 && address.ends_with(&text.to_ascii_lowercase())).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_names_and_drivers_are_told_apart() {
        let parse = |text: &str| text.parse::<DeviceMatch>();
        assert_eq!(parse("0000:0A:00.0"), Ok(DeviceMatch::Pci("0000:0a:00.0".to_owned())));
        let behind_vmd = Ok(DeviceMatch::Pci("10000:e1:00.0".to_owned()));
        assert_eq!(parse("10000:E1:00.0"), behind_vmd);
        assert!(parse("00001:e1:00.0").is_err(), "the kernel writes no such domain");
        assert_eq!(parse("01:00.0"), Ok(DeviceMatch::Pci("0000:01:00.0".to_owned())));
        assert_eq!(parse("vkms"), Ok(DeviceMatch::Name("vkms".to_owned())));
        assert_eq!(parse("1-2:1.0"), Ok(DeviceMatch::Name("1-2:1.0".to_owned())));
        assert_eq!(parse("driver:amdgpu"), Ok(DeviceMatch::Driver("amdgpu".to_owned())));
        for wrong in ["", "driver:", "0000:01:00.9", "0000:01:20.0", "a/b", "1:2:3", "two words"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_off_the_pci_bus_is_no_address() {
        let address: DeviceMatch = "0000:01:00.0".parse().unwrap();
        assert!(address.matches("0000:01:00.0", "0000:01:00.0", "amdgpu"));
        assert!(!address.matches("vkms", "", "vkms"));
    }
}
