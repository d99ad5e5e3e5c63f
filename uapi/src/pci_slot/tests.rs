use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A sysfs of PCI devices.
struct Sysfs(TempDir);

impl Sysfs {
    fn new() -> Self {
        let sysfs = Self(TempDir::new().unwrap());
        fs::create_dir_all(sysfs.0.path().join("bus/pci/devices")).unwrap();
        sysfs
    }

    /// A function below `devices/pci0000:00/`: its path there, its class, and its vendor and device.
    fn add(&self, path: &str, class: &str, id: (&str, &str)) -> PathBuf {
        let folder = self.0.path().join("devices/pci0000:00").join(path);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in [("class", class), ("vendor", id.0), ("device", id.1)] {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
        symlink(&folder, self.0.path().join("bus/pci/devices").join(name(&folder))).unwrap();
        folder
    }

    fn addresses(&self, pci: &str) -> Vec<String> {
        let functions = functions(self.0.path(), pci).unwrap();
        functions.into_iter().map(|it| it.address).collect()
    }

    fn is_boot_gpu(&self) -> Option<String> {
        is_boot_gpu(self.0.path(), "0000:01:00.0").unwrap()
    }
}

const NVIDIA: (&str, &str) = ("0x10de", "0x1eb6");

fn nvidia() -> Sysfs {
    let sysfs = Sysfs::new();
    sysfs.add("0000:00:01.0", "0x060400", ("0x8086", "0x1901"));
    sysfs.add("0000:00:01.0/0000:01:00.0", "0x030000", NVIDIA);
    sysfs.add("0000:00:01.0/0000:01:00.3", "0x0c8000", NVIDIA);
    sysfs.add("0000:00:01.0/0000:01:00.2", "0x0c0330", NVIDIA);
    sysfs.add("0000:00:01.0/0000:01:00.1", "0x040300", NVIDIA);
    sysfs
}

#[test]
fn the_siblings_go_first_and_the_bridge_stays() {
    let sysfs = nvidia();
    sysfs.add("0000:00:01.0/0000:01:01.0", "0x020000", ("0x8086", "0x100e"));
    let driver = sysfs.0.path().join("bus/pci/devices/0000:01:00.1/driver");
    symlink("../../../../bus/pci/drivers/snd_hda_intel", driver).unwrap();
    let functions = functions(sysfs.0.path(), "0000:01:00.0").unwrap();
    let told: Vec<_> =
        functions.iter().map(|it| (it.address.as_str(), it.class, it.kind)).collect();
    assert_eq!(
        told,
        [
            ("0000:01:00.1", 0x04_0300, Kind::Audio),
            ("0000:01:00.2", 0x0c_0330, Kind::Usb),
            ("0000:01:00.3", 0x0c_8000, Kind::SerialBus),
            ("0000:01:00.0", 0x03_0000, Kind::Display),
        ]
    );
    assert_eq!(functions[0].driver.as_deref(), Some("snd_hda_intel"));
    assert_eq!(functions[3].driver, None);
}

#[test]
fn the_one_that_was_asked_for_is_the_last_of_several_displays() {
    let sysfs = Sysfs::new();
    sysfs.add("0000:00:01.0", "0x060400", ("0x8086", "0x1901"));
    sysfs.add("0000:00:01.0/0000:01:00.0", "0x030000", ("0x1002", "0x5b60"));
    sysfs.add("0000:00:01.0/0000:01:00.1", "0x038000", ("0x1002", "0x5b70"));
    assert_eq!(sysfs.addresses("0000:01:00.0"), ["0000:01:00.1", "0000:01:00.0"]);
    assert_eq!(sysfs.addresses("0000:01:00.1"), ["0000:01:00.0", "0000:01:00.1"]);
}

#[test]
fn a_gpu_on_the_root_bus_is_alone_in_its_slot() {
    let sysfs = nvidia();
    sysfs.add("0000:00:02.0", "0x030000", ("0x8086", "0x3e9b"));
    sysfs.add("0000:00:1f.3", "0x040300", ("0x8086", "0xa348"));
    assert_eq!(sysfs.addresses("0000:00:02.0"), ["0000:00:02.0"]);
}

#[test]
fn what_is_behind_the_cards_own_switch_goes_and_the_switch_stays() {
    let intel = |device| ("0x8086", device);
    let sysfs = Sysfs::new();
    sysfs.add("0000:00:01.1", "0x060400", ("0x1022", "0x14db"));
    let switch = "0000:00:01.1/0000:01:00.0";
    sysfs.add(switch, "0x060400", intel("0xe2ff"));
    for (path, class, id) in [
        ("0000:02:01.0", "0x060400", "0xe2f0"),
        ("0000:02:01.0/0000:03:00.0", "0x030000", "0xe212"),
        ("0000:02:02.0", "0x060400", "0xe2f1"),
        ("0000:02:02.0/0000:04:00.0", "0x040300", "0xe2f7"),
    ] {
        sysfs.add(&format!("{switch}/{path}"), class, intel(id));
    }
    assert_eq!(sysfs.addresses("0000:03:00.0"), ["0000:04:00.0", "0000:03:00.0"]);
    // A switch that others have cards behind too is none of the card's.
    fs::write(sysfs.0.path().join("bus/pci/devices/0000:01:00.0/device"), "0x15ef\n").unwrap();
    assert_eq!(sysfs.addresses("0000:03:00.0"), ["0000:03:00.0"]);
}

#[test]
fn an_address_that_is_not_there_or_is_none_is_told() {
    let sysfs = nvidia();
    let told = |pci| {
        let error = functions(sysfs.0.path(), pci).unwrap_err();
        (error.kind(), error.to_string())
    };
    let (kind, text) = told("0000:02:00.0");
    assert_eq!(kind, io::ErrorKind::NotFound);
    assert!(text.starts_with("there is no PCI device 0000:02:00.0: "), "{text}");
    for wrong in ["", "vkms", "../0000:01:00.0", "01:00.0", "0000:1:00.0", "0000.01:00:0"] {
        let (kind, text) = told(wrong);
        assert_eq!(kind, io::ErrorKind::InvalidInput, "{wrong}");
        assert!(text.ends_with("one is written as 0000:01:00.0"), "{text}");
    }
    assert!(is_address("10000:e1:00.0"), "a domain of VMD");
    fs::write(sysfs.0.path().join("bus/pci/devices/0000:01:00.3/class"), "?\n").unwrap();
    let (kind, text) = told("0000:01:00.0");
    assert_eq!(kind, io::ErrorKind::InvalidData);
    assert!(text.ends_with("0000:01:00.3/class: \"?\" is no PCI class"), "{text}");
}

#[test]
fn the_boot_gpu_is_known_by_each_of_its_signs() {
    let sysfs = nvidia();
    let gpu = fs::canonicalize(sysfs.0.path().join("bus/pci/devices/0000:01:00.0")).unwrap();
    assert_eq!(sysfs.is_boot_gpu(), None);
    fs::write(gpu.join("boot_vga"), "0\n").unwrap();
    fs::create_dir_all(gpu.join("drm/card1")).unwrap();
    assert_eq!(sysfs.is_boot_gpu(), None);
    fs::create_dir(gpu.join("simple-framebuffer.0")).unwrap();
    assert!(sysfs.is_boot_gpu().unwrap().ends_with("(simple-framebuffer.0)"));
    fs::write(gpu.join("drm/card1/boot_display"), "1\n").unwrap();
    assert!(sysfs.is_boot_gpu().unwrap().ends_with("(boot_display)"));
    fs::write(gpu.join("boot_vga"), "1\n").unwrap();
    assert!(sysfs.is_boot_gpu().unwrap().ends_with("(boot_vga)"));
    let gone = is_boot_gpu(sysfs.0.path(), "0000:09:00.0").unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}
