//! Uevents as the kernel writes them, and configurations.

use std::fs;

use crate::{Seeds, root};

fn uevent(action: &str, devpath: &str, lines: &[&str]) -> Vec<u8> {
    let mut text = format!("{action}@{devpath}\0ACTION={action}\0DEVPATH={devpath}\0");
    for line in lines {
        text.push_str(line);
        text.push('\0');
    }
    text.into_bytes()
}

pub fn uevents() -> Seeds {
    let card = "/devices/pci0000:00/0000:00:02.0/drm/card1";
    let minor = ["SUBSYSTEM=drm", "MAJOR=226", "MINOR=1", "DEVNAME=dri/card1", "DEVTYPE=drm_minor"];
    let with = |more: &[&'static str]| [&minor[..], more].concat();
    let parent = ["DRIVER=amdgpu", "PCI_SLOT_NAME=0000:00:02.0", "SUBSYSTEM=pci", "SEQNUM=4712"];
    let wedged = ["WEDGED=rebind,bus-reset", "PID=42", "TASK=game", "SEQNUM=4713"];
    let seeds = [
        ("add", uevent("add", card, &with(&["SEQNUM=4710"]))),
        ("remove", uevent("remove", card, &with(&["SEQNUM=4711"]))),
        ("remove-parent", uevent("remove", "/devices/pci0000:00/0000:00:02.0", &parent)),
        ("synthetic", uevent("remove", card, &with(&["SYNTH_UUID=0", "SEQNUM=4714"]))),
        ("hotplug", uevent("change", card, &with(&["HOTPLUG=1", "SEQNUM=4715"]))),
        ("wedged", uevent("change", card, &with(&wedged))),
        ("recovered", uevent("change", card, &with(&["WEDGED=none", "SEQNUM=4716"]))),
    ];
    seeds.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

/// `example.toml`, section by section, since small seeds are changed to better effect; and what it has no
/// more than a comment of.
pub fn configurations() -> Seeds {
    let example = root().join("daemon/src/config/example.toml");
    let example = fs::read_to_string(example).unwrap();
    let lines: Vec<&str> = example.lines().filter(|line| !line.starts_with('#')).collect();
    let mut seeds = Seeds::new();
    for section in lines.join("\n").split("\n[").skip(1) {
        let name: String = section.chars().take_while(char::is_ascii_alphanumeric).collect();
        seeds.insert(name, format!("[{}\n", section.trim_end()).into_bytes());
    }
    assert!(seeds.len() > 5, "the example has sections");
    let device = "[[device]]\nmatch = \"0000:03:00.0\"\nremovable = true\n";
    let driver = "[[driver]]\nname = \"amdgpu\"\nopen = \"lets-go\"\n";
    seeds.insert("lists".to_owned(), format!("{device}\n{driver}").into_bytes());
    let dropin = b"[limits]\nclients = 8\nclients_per_uid = 8\n\xff[limits]\nclients = 4\n";
    seeds.insert("dropin".to_owned(), dropin.to_vec());
    seeds
}
