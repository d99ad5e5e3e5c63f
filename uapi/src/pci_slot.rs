//! The PCI slot of a GPU as an eject needs it, read from sysfs: which functions there are, in which
//! order they go, and whether the machine's boot screen is on it (Documentation/ABI/testing/
//! sysfs-bus-pci and sysfs-class-drm; include/linux/pci_ids.h).
//!
//! Nothing here writes. `sysfs` is `/sys`, or a folder like it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// PCI base class and subclass of a bridge from PCI to PCI.
const BRIDGE: u32 = 0x0604;

/// Upstream ports of the switches that are soldered onto graphics cards, vendor and device. What is
/// behind one is the card's, in whatever slots the switch has put it: AMD's have a single port, Intel's
/// have one for the GPU and another one for its sound.
const CARD_SWITCHES: [(u32, u32); 4] = [
    (0x1002, 0x1478), // AMD, from Vega 10 on
    (0x8086, 0x4fa0), // Intel DG2
    (0x8086, 0x4fa1), // Intel DG2, the smaller ones
    (0x8086, 0xe2ff), // Intel Battlemage
];

/// What a function is, in the order of removal: consumers of the GPU first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Sound (0403).
    Audio,
    /// A USB host controller (0c03).
    Usb,
    /// A serial bus controller (0c80): what the USB-C port is managed by (UCSI).
    SerialBus,
    /// Something else.
    Other,
    /// A display controller (03xx).
    Display,
}

impl Kind {
    /// By a class as sysfs has it: base class, subclass and programming interface.
    #[must_use]
    pub const fn of(class: u32) -> Self {
        match class >> 8 {
            0x0403 => Self::Audio,
            0x0c03 => Self::Usb,
            0x0c80 => Self::SerialBus,
            0x0300..=0x03ff => Self::Display,
            _ => Self::Other,
        }
    }

    /// In words, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Audio => "sound",
            Self::Usb => "USB controller",
            Self::SerialBus => "serial bus controller",
            Self::Other => "function",
            Self::Display => "display",
        }
    }
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// `0000:01:00.1`
    pub address: String,
    /// Base class, subclass and programming interface: 0x040300.
    pub class: u32,
    /// The driver that is bound to it.
    pub driver: Option<String>,
    /// What the class says.
    pub kind: Kind,
}

/// All functions that go with the GPU at `pci`, in the order in which an eject removes them: its own
/// is the last. They are those of its slot (the same domain, bus and device), and where the card has
/// a switch of its own, those behind that. Bridges stay: the ones above, and the card's own.
///
/// # Errors
/// NotFound where there is no such function (any more); InvalidInput where `pci` is no address; else
/// what cannot be read, with its path.
pub fn functions(sysfs: &Path, pci: &str) -> io::Result<Vec<Function>> {
    let gpu = device(sysfs, pci)?;
    let mut found = Vec::new();
    let (slot, _) = pci.rsplit_once('.').unwrap_or((pci, ""));
    // Its siblings are in the folder that it is in. A GPU always has a bus, and that a folder.
    for sibling in pci_children(gpu.parent().unwrap_or(&gpu))? {
        if name(&sibling).rsplit_once('.').is_some_and(|(of, _)| of == slot) {
            endpoints(&sibling, &mut found)?;
        }
    }
    if let Some(switch) = card_switch(&gpu) {
        endpoints(switch, &mut found)?;
    }
    found.sort_by(|a, b| {
        let key = |it: &Function| (it.address == pci, it.kind, it.address.clone());
        key(a).cmp(&key(b))
    });
    found.dedup_by(|a, b| a.address == b.address);
    Ok(found)
}

/// Whether the machine has booted with its screen on the GPU at `pci`; how that is known, in words, if
/// so.
///
/// # Errors
/// As [`functions`].
pub fn is_boot_gpu(sysfs: &Path, pci: &str) -> io::Result<Option<String>> {
    let gpu = device(sysfs, pci)?;
    // VGA's arbiter: of display controllers that are no VGA devices it says nothing.
    if is_one(&gpu.join("boot_vga")) {
        return Ok(Some("the firmware's VGA console was on it (boot_vga)".to_owned()));
    }
    // On newer kernels, of the DRM device; some had it on the PCI device.
    if is_one(&gpu.join("boot_display"))
        || children(&gpu.join("drm"))?.iter().any(|node| is_one(&node.join("boot_display")))
    {
        return Ok(Some("the boot was shown on its displays (boot_display)".to_owned()));
    }
    // The firmware's framebuffer is a child of the device that it was found on (Linux 6.9), until a
    // driver of its own takes that device over.
    let framebuffer = children(&gpu)?.into_iter().find(|child| {
        name(child).rsplit_once('.').is_some_and(|(kind, _)| kind.ends_with("-framebuffer"))
    });
    Ok(framebuffer.map(|it| format!("it still shows the firmware's framebuffer ({})", name(&it))))
}

/// Adds what is at `folder`, or behind the bridge that is there.
fn endpoints(folder: &Path, found: &mut Vec<Function>) -> io::Result<()> {
    let class = class(folder)?;
    if class >> 8 == BRIDGE {
        for child in pci_children(folder)? {
            endpoints(&child, found)?;
        }
        return Ok(());
    }
    let driver = fs::read_link(folder.join("driver")).ok();
    found.push(Function {
        address: name(folder),
        class,
        driver: driver.as_deref().map(name),
        kind: Kind::of(class),
    });
    Ok(())
}

/// The upstream port of the switch on the card, if it has one.
pub(crate) fn card_switch(gpu: &Path) -> Option<&Path> {
    let switch = gpu.parent()?.parent()?;
    let id = |file| hex(&fs::read_to_string(switch.join(file)).ok()?);
    let id = (id("vendor")?, id("device")?);
    CARD_SWITCHES.contains(&id).then_some(switch)
}

/// The folder of the PCI function at an address, below `/sys/devices`.
pub(crate) fn device(sysfs: &Path, pci: &str) -> io::Result<PathBuf> {
    if !is_address(pci) {
        let why = format!("{pci:?} is no PCI address; one is written as 0000:01:00.0");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let link = sysfs.join("bus/pci/devices").join(pci);
    fs::canonicalize(&link).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let why = format!(
                "there is no PCI device {pci}: it has been removed, or the address is another \
                 machine's"
            );
            io::Error::new(io::ErrorKind::NotFound, why)
        }
        _ => at(&link, &error),
    })
}

/// As the kernel writes it: `0000:01:00.0`, with a longer domain behind Intel's VMD.
pub(crate) fn is_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let hex = |part: &str| part.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    let [domain, bus, slot, function] = parts.as_slice() else { return false };
    parts.iter().all(|part| hex(part))
        && (4..=8).contains(&domain.len())
        && (bus.len(), slot.len(), function.len()) == (2, 2, 1)
        && text.rfind(':') < text.find('.')
}

/// The PCI functions in a folder: those behind a bridge, or on a root bus.
pub(crate) fn pci_children(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = children(folder)?;
    children.retain(|child| is_address(&name(child)));
    Ok(children)
}

/// What is in a folder, by name; nothing where there is no such folder.
pub(crate) fn children(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(folder, &error)),
    };
    let mut children = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(|error| at(folder, &error)))
        .collect::<io::Result<Vec<_>>>()?;
    children.sort();
    Ok(children)
}

pub(crate) fn class(folder: &Path) -> io::Result<u32> {
    let file = folder.join("class");
    let text = fs::read_to_string(&file).map_err(|error| at(&file, &error))?;
    hex(&text).ok_or_else(|| {
        let why = format!("{}: {:?} is no PCI class", file.display(), text.trim_end());
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

pub(crate) fn is_one(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.trim_end() == "1")
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim_end().strip_prefix("0x")?, 16).ok()
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
