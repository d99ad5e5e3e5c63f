//! The PCI slot of a GPU.

use std::fs;
use std::io;
use std::path::Path;

/// A function of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// `0000:03:00.1`
    pub address: String,
}

/// All functions of the slot that a GPU is in, its own last.
///
/// # Errors
/// It is not there.
pub fn functions(sysfs: &Path, pci: &str) -> io::Result<Vec<Function>> {
    let slot = pci.rsplit_once('.').map_or(pci, |(slot, _)| slot);
    let mut all = Vec::new();
    for entry in fs::read_dir(sysfs.join("bus/pci/devices"))? {
        let address = entry?.file_name().to_string_lossy().into_owned();
        if address.rsplit_once('.').is_some_and(|(of, _)| of == slot) {
            all.push(Function { address });
        }
    }
    all.sort_by_key(|it| (it.address == pci, std::cmp::Reverse(it.address.clone())));
    Ok(all)
}

/// Why a GPU is the one that the firmware used, if it is.
#[must_use]
pub fn is_boot_gpu(sysfs: &Path, pci: &str) -> Option<String> {
    let vga = fs::read_to_string(sysfs.join("bus/pci/devices").join(pci).join("boot_vga"));
    vga.is_ok_and(|vga| vga.trim() == "1").then(|| "boot_vga".to_owned())
}

/// The Thunderbolt device that it is behind.
#[must_use]
pub fn thunderbolt_domain(_sysfs: &Path, _pci: &str) -> Option<String> {
    None
}
