//! NVIDIA's own character devices: a card's, and the driver's.

use std::fs;
use std::path::Path;

use super::slot::Character;

const CARDS: &str = "/proc/driver/nvidia/gpus";
/// Of the cards, of nvidia-modeset and of nvidiactl (nvidia's nv-linux.h: NV_MAJOR_DEVICE_NUMBER and
/// what follows).
const MAJOR: u32 = 195;
const MODESET: u32 = 254;
const CONTROL: u32 = 255;

/// The node of the card with that address.
pub(super) fn node_of(pci: &str) -> Option<Character> {
    let text = fs::read_to_string(Path::new(CARDS).join(pci).join("information")).ok()?;
    let minor = minor_of(&text)?;
    Some(Character { path: format!("/dev/nvidia{minor}"), rdev: (MAJOR, minor) })
}

/// The nodes that stand for no card.
pub(super) fn common_nodes() -> Vec<Character> {
    let node = |name: &str, rdev| Character { path: format!("/dev/{name}"), rdev };
    let mut nodes =
        vec![node("nvidiactl", (MAJOR, CONTROL)), node("nvidia-modeset", (MAJOR, MODESET))];
    let devices = fs::read_to_string("/proc/devices").unwrap_or_default();
    if let Some(major) = major_of(&devices, "nvidia-uvm") {
        nodes.push(node("nvidia-uvm", (major, 0)));
        nodes.push(node("nvidia-uvm-tools", (major, 1)));
    }
    nodes
}

fn minor_of(information: &str) -> Option<u32> {
    let line = information.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
    line.trim().parse().ok()
}

fn major_of(devices: &str, driver: &str) -> Option<u32> {
    devices.lines().find_map(|line| {
        let (major, name) = line.trim().split_once(' ')?;
        (name == driver).then(|| major.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_and_its_minor() {
        let text = "Model: \t\t NVIDIA GeForce RTX 3080\nIRQ:   \t\t 166\nGPU UUID: \t GPU-1\n\
            Bus Location: \t 0000:06:00.0\nDevice Minor: \t 1\nGPU Excluded:\t No\n";
        assert_eq!(minor_of(text), Some(1));
        assert_eq!(minor_of("Model: x\n"), None);
    }

    #[test]
    fn a_driver_and_its_major() {
        let text =
            "Character devices:\n  1 mem\n195 nvidia\n510 nvidia-uvm\n\nBlock devices:\n  8 sd\n";
        assert_eq!(major_of(text, "nvidia-uvm"), Some(510));
        assert_eq!(major_of(text, "nvidia-caps"), None);
    }
}
