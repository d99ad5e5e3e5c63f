//! What the privileged helpers read: a request as a line of JSON, and the keeper's datagrams.
//!
//! The first byte says whose. What the helper that writes to sysfs is asked is done, in a sysfs of our
//! own; nobody is looked into or killed.

#![no_main]

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::LazyLock;

use dmashare_helpers::pci::{self, Place};
use dmashare_proto::{holders, kill, sysfs};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

#[path = "helper/keeper.rs"]
mod keeper;

fuzz_target!(|data: &[u8]| {
    let Some((&whose, bytes)) = data.split_first() else { return };
    match whose {
        0 => drop(json::<holders::Request>(bytes)),
        1 => drop(json::<kill::Request>(bytes)),
        2 => {
            if let Some(request) = json::<sysfs::Request>(bytes) {
                SYSFS.ask(request);
            }
        }
        3 => keeper::serve(bytes),
        4 => drop(json::<sysfs::Answer>(bytes)),
        5 => drop(json::<kill::Answer>(bytes)),
        _ => {}
    }
});

fn json<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let message = serde_json::from_slice::<T>(bytes).ok()?;
    let again = serde_json::to_vec(&message).expect("what was read is written");
    assert_eq!(serde_json::from_slice::<T>(&again).expect("what was written is read"), message);
    Some(message)
}

/// Files that may be written, and what may be in them.
const OURS: [(&str, [&str; 3]); 5] = [
    ("sys/devices/pci0/0000:03:00.0/drm/card1/uevent", ["", "remove", "add"]),
    ("sys/devices/pci0/0000:03:00.0/drm/renderD128/uevent", ["", "remove", "add"]),
    ("sys/bus/pci/devices/0000:03:00.0/remove", ["", "1", "1"]),
    ("sys/bus/pci/rescan", ["", "1", "1"]),
    ("sys/bus/thunderbolt/devices/0-1/authorized", ["", "0", "0"]),
];

/// Files that nobody may be brought to write.
const OTHERS: [&str; 6] = [
    "sys/devices/pci0/input/card7/uevent",
    "sys/bus/pci/devices/0000:03:00.0/uevent",
    "sys/bus/thunderbolt/devices/0-0/authorized",
    "sys/bus/thunderbolt/devices/domain0/authorized",
    "devices/card1/uevent",
    "0000:03:00.0/remove",
];

static SYSFS: LazyLock<Sysfs> = LazyLock::new(Sysfs::new);

struct Sysfs(TempDir);

impl Sysfs {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().expect("a folder"));
        for file in OURS.map(|(file, _)| file).into_iter().chain(OTHERS) {
            let path = this.path(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, "").expect("a file");
        }
        for (device, class) in [
            ("sys/devices/pci0/0000:03:00.0/drm/card1", "drm"),
            ("sys/devices/pci0/0000:03:00.0/drm/renderD128", "drm"),
            ("sys/devices/pci0/input/card7", "input"),
            ("devices/card1", "drm"),
        ] {
            let class = format!("/sys/class/{class}");
            symlink(class, this.path(device).join("subsystem")).expect("a link");
        }
        this
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn ask(&self, request: sysfs::Request) {
        let mut out = Vec::new();
        pci::serve(&Place::Sysfs(self.path("sys")), request, &mut out);
        let text = str::from_utf8(&out).expect("answers are text");
        let last = text.lines().last().expect("there is an answer");
        let answer: sysfs::Answer = serde_json::from_str(last).expect("an answer");
        assert!(!matches!(answer, sysfs::Answer::Stuck { .. }), "the last answer is an end");
        let read = |file| fs::read_to_string(self.path(file)).expect("it is still there");
        for (file, may_be) in OURS {
            let text = read(file);
            // What is longer is written over from its begin: a file of sysfs has no end.
            let is = may_be.contains(&text.as_str()) || text == "addove";
            assert!(is, "{text:?} in {file}");
            fs::write(self.path(file), "").expect("a file");
        }
        for file in OTHERS {
            assert_eq!(read(file), "", "{file} was written");
        }
    }
}
