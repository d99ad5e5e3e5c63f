//! The real service on the device trees of real machines. They were written down from what people have
//! posted, in the format of umockdev-record, and umockdev has the service see them in place of this
//! machine's own (README.md).

mod testbed;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dmashare_uapi::{pci_slot, thunderbolt};
use serde::Deserialize;
use testbed::{Bus, Testbed};
use zbus::zvariant::OwnedValue;

/// The table.
#[derive(Deserialize)]
struct Machines {
    machine: Vec<Machine>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    recording: String,
    #[serde(default)]
    config: String,
    device: Vec<Device>,
}

/// A GPU: as the service tells of it on D-Bus, then as an eject finds it in sysfs.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    name: String,
    driver: String,
    nodes: Vec<String>,
    removable: bool,
    reason: String,
    #[serde(default)]
    functions: Vec<String>,
    #[serde(default)]
    boot: String,
    #[serde(default)]
    router: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo")
}

fn machines() -> Vec<Machine> {
    let text = std::fs::read_to_string(folder().join("machines.toml")).unwrap();
    toml::from_str::<Machines>(&text).unwrap().machine
}

#[tokio::test]
async fn every_machine_is_told_as_it_is() {
    let bus = Bus::start().await;
    for machine in machines() {
        let recording = folder().join(format!("{}.umockdev", machine.recording));
        let testbed = Testbed::start(&bus, &recording, &machine.config).await;
        let mut devices = Vec::new();
        for shown in bus.devices().await {
            let text = |key: &str| String::try_from(shown[key].clone()).unwrap();
            let (functions, boot, router) = slot(&testbed.sysfs, &text("Pci"));
            devices.push(Device {
                name: text("Name"),
                driver: text("Driver"),
                nodes: strings(&shown["Nodes"]),
                removable: bool::try_from(&shown["Removable"]).unwrap(),
                reason: text("RemovableReason"),
                functions,
                boot,
                router,
            });
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(devices, machine.device, "{}\n{}", machine.recording, testbed.log());
        testbed.stop(&bus).await;
    }
}

/// The slot's functions in the order of removal, how it is known to be the boot GPU, and its router.
fn slot(sysfs: &Path, pci: &str) -> (Vec<String>, String, String) {
    if pci.is_empty() {
        return Default::default();
    }
    let functions = pci_slot::functions(sysfs, pci).unwrap();
    let functions = functions.into_iter().map(|it| it.address).collect();
    let boot = pci_slot::is_boot_gpu(sysfs, pci).unwrap().unwrap_or_default();
    let router = thunderbolt::router(sysfs, pci).unwrap();
    if let Some(router) = &router {
        assert!(router.authorized.ends_with(format!("{}/authorized", router.name)));
        assert!(router.authorized.exists(), "{}", router.authorized.display());
    }
    (functions, boot, router.map(|it| it.name).unwrap_or_default())
}

fn strings(value: &OwnedValue) -> Vec<String> {
    Vec::try_from(value.try_clone().unwrap()).unwrap()
}

#[test]
fn every_recording_is_in_the_table_and_names_its_sources() {
    let mut recordings = BTreeSet::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "umockdev") {
            let text = std::fs::read_to_string(&path).unwrap();
            let (head, _) = text.split_once("\n\n").unwrap();
            assert!(head.lines().all(|line| line.starts_with('#')), "{}", path.display());
            assert!(head.contains("Facts: https://"), "{}", path.display());
            recordings.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
    let named: BTreeSet<_> = machines().into_iter().map(|it| it.recording).collect();
    assert_eq!(recordings, named);
}
