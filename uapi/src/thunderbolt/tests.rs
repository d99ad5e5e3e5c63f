use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A sysfs with a Thunderbolt host.
struct Sysfs(TempDir);

impl Sysfs {
    fn new() -> Self {
        let sysfs = Self(TempDir::new().unwrap());
        fs::create_dir_all(sysfs.0.path().join("bus/pci/devices")).unwrap();
        sysfs
    }

    fn devices(&self) -> PathBuf {
        fs::canonicalize(self.0.path()).unwrap().join("devices/pci0000:00")
    }

    /// A PCI function: its path below `devices/pci0000:00/`, its class, vendor and device.
    fn add(&self, path: &str, class: &str, id: (&str, &str)) {
        let folder = self.devices().join(path);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in [("class", class), ("vendor", id.0), ("device", id.1)] {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
        symlink(&folder, self.0.path().join("bus/pci/devices").join(name(&folder))).unwrap();
    }

    /// Something of a domain.
    fn write(&self, path: &str, text: &str) {
        let file = self.devices().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("{text}\n")).unwrap();
    }

    fn router(&self, pci: &str) -> io::Result<Option<Router>> {
        router(self.0.path(), pci)
    }
}

const BRIDGE: &str = "0x060400";
const INTEL: (&str, &str) = ("0x8086", "0x15c0");
const SWITCH: &str = "0000:00:1d.0/0000:04:00.0";
const TUNNEL: &str = "0000:00:1d.0/0000:04:00.0/0000:05:01.0";

/// A controller with a switch of its own, and a GPU in an enclosure behind it.
fn discrete() -> Sysfs {
    let sysfs = Sysfs::new();
    sysfs.add("0000:00:1d.0", BRIDGE, INTEL);
    sysfs.add(SWITCH, BRIDGE, INTEL);
    sysfs.add(&format!("{SWITCH}/0000:05:00.0"), BRIDGE, INTEL);
    sysfs.add(&format!("{SWITCH}/0000:05:00.0/0000:06:00.0"), "0x088000", INTEL);
    sysfs.add(TUNNEL, BRIDGE, INTEL);
    sysfs.add(&format!("{TUNNEL}/0000:07:00.0"), BRIDGE, INTEL);
    sysfs.add(&format!("{TUNNEL}/0000:07:00.0/0000:08:01.0"), BRIDGE, INTEL);
    let gpu = format!("{TUNNEL}/0000:07:00.0/0000:08:01.0/0000:09:00.0");
    sysfs.add(&gpu, "0x030000", ("0x10de", "0x1c02"));
    sysfs.write(&domain("deauthorization"), "1");
    sysfs.write(&domain("0-0/authorized"), "1");
    sysfs
}

fn domain(path: &str) -> String {
    format!("{SWITCH}/0000:05:00.0/0000:06:00.0/domain0/{path}")
}

#[test]
fn a_controller_with_a_switch_is_found_by_its_other_ports() {
    let sysfs = discrete();
    let nhi = sysfs.devices().join(SWITCH).join("0000:05:00.0/0000:06:00.0");
    assert_eq!(controller(&sysfs.devices().join(TUNNEL)), Some(nhi));
    for none in ["0000:00:1d.0", SWITCH, "0000:00:1d.0/0000:04:00.0/0000:05:00.0"] {
        assert_eq!(controller(&sysfs.devices().join(none)), None, "{none}");
    }
}

#[test]
fn a_controller_in_the_processor_is_found_by_the_firmwares_tie() {
    let sysfs = Sysfs::new();
    sysfs.add("0000:00:07.0", BRIDGE, INTEL);
    sysfs.add("0000:00:07.0/0000:01:00.0", "0x030000", ("0x1002", "0x73ff"));
    sysfs.add("0000:00:0d.2", "0x0c0340", INTEL);
    // Another one's controller behind a neighbour on the root bus says nothing.
    sysfs.add("0000:00:08.1", BRIDGE, INTEL);
    sysfs.add("0000:00:08.1/0000:c3:00.5", "0x0c0340", INTEL);
    let port = sysfs.devices().join("0000:00:07.0");
    assert_eq!(controller(&port), None);
    let link = port.join("supplier:pci:0000:00:01.0");
    fs::create_dir(&link).unwrap();
    symlink(sysfs.devices().join("0000:00:08.1"), link.join("supplier")).unwrap();
    assert_eq!(controller(&port), None, "a link to something else");
    let link = port.join("supplier:pci:0000:00:0d.2");
    fs::create_dir(&link).unwrap();
    symlink(sysfs.devices().join("0000:00:0d.2"), link.join("supplier")).unwrap();
    assert_eq!(controller(&port), Some(sysfs.devices().join("0000:00:0d.2")));
    assert_eq!(sysfs.router("0000:01:00.0").unwrap(), None, "no driver, no router");
}

#[test]
fn the_router_is_a_device_that_is_authorised_and_never_the_host() {
    let sysfs = discrete();
    assert_eq!(sysfs.router("0000:09:00.0").unwrap(), None);
    sysfs.write(&domain("0-0/0-1/authorized"), "0");
    assert_eq!(sysfs.router("0000:09:00.0").unwrap(), None);
    sysfs.write(&domain("0-0/0-1/authorized"), "1");
    sysfs.write(&domain("0-0/0-1/vendor_name"), "Zotac");
    sysfs.write(&domain("0-0/0-1/device_name"), "AMP BOX MINI");
    // A service of it, a retimer, and another computer.
    sysfs.write(&domain("0-0/0-1/0-1.0/authorized"), "1");
    sysfs.write(&domain("0-0/0-0:1.1/authorized"), "1");
    sysfs.write(&domain("0-0/0-3/unique_id"), "00000000-0000-0000-0000-000000000000");
    let router = sysfs.router("0000:09:00.0").unwrap().unwrap();
    let authorized = sysfs.devices().join(domain("0-0/0-1/authorized"));
    assert_eq!(
        router,
        Router {
            name: "0-1".to_owned(),
            label: "Zotac AMP BOX MINI".to_owned(),
            authorized,
            can_deauthorize: true,
        }
    );
    sysfs.write(&domain("deauthorization"), "0");
    assert!(!sysfs.router("0000:09:00.0").unwrap().unwrap().can_deauthorize);
}

#[test]
fn of_a_chain_it_is_the_one_that_is_as_deep_as_the_gpu() {
    let sysfs = discrete();
    sysfs.write(&domain("0-0/0-1/authorized"), "1");
    sysfs.write(&domain("0-0/0-1/0-301/authorized"), "1");
    assert_eq!(sysfs.router("0000:09:00.0").unwrap().unwrap().name, "0-1");
    let behind = format!("{TUNNEL}/0000:07:00.0/0000:08:04.0/0000:0a:00.0");
    sysfs.add(&format!("{TUNNEL}/0000:07:00.0/0000:08:04.0"), BRIDGE, INTEL);
    sysfs.add(&behind, BRIDGE, INTEL);
    sysfs.add(&format!("{behind}/0000:0b:01.0"), BRIDGE, INTEL);
    // The card's own switch is not the enclosure's.
    let card = format!("{behind}/0000:0b:01.0/0000:0c:00.0");
    sysfs.add(&card, BRIDGE, ("0x1002", "0x1478"));
    sysfs.add(&format!("{card}/0000:0d:00.0"), BRIDGE, ("0x1002", "0x1479"));
    let gpu = format!("{card}/0000:0d:00.0/0000:0e:00.0");
    sysfs.add(&gpu, "0x030000", ("0x1002", "0x7551"));
    assert_eq!(sysfs.router("0000:0e:00.0").unwrap().unwrap().name, "0-301");
}

#[test]
fn of_several_side_by_side_none_is_guessed() {
    let sysfs = discrete();
    sysfs.write(&domain("0-0/0-1/authorized"), "1");
    sysfs.write(&domain("0-0/0-3/authorized"), "1");
    sysfs.write(&domain("0-0/0-3/device_name"), "a dock");
    let error = sysfs.router("0000:09:00.0").unwrap_err().to_string();
    assert!(error.starts_with("0000:09:00.0 is behind one of several Thunderbolt devices"));
    assert!(error.ends_with(": 0-1, 0-3 a dock"), "{error}");
}

#[test]
fn a_gpu_behind_no_tunnel_has_none() {
    let sysfs = discrete();
    sysfs.add("0000:00:02.0", "0x030000", ("0x8086", "0x5917"));
    assert_eq!(sysfs.router("0000:00:02.0").unwrap(), None);
    assert_eq!(sysfs.router("0000:55:00.0").unwrap_err().kind(), io::ErrorKind::NotFound);
}
