use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

mod bounds;

/// A folder with a main file and drop-ins.
struct Etc(TempDir);

impl Etc {
    fn new(main: &str) -> Self {
        let etc = Self(TempDir::new().unwrap());
        fs::write(etc.main(), main).unwrap();
        etc
    }

    fn main(&self) -> PathBuf {
        self.0.path().join("dmashared.toml")
    }

    fn dropin(self, name: &str, text: &str) -> Self {
        let folder = self.0.path().join("dmashared.conf.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&Paths::file(self.main()))
    }

    /// The error's text without the folder.
    fn error(&self) -> String {
        let text = self.load().unwrap_err().to_string();
        text.strip_prefix(&format!("{}/", self.0.path().display())).unwrap().to_owned()
    }
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(Etc::new(include_str!("example.toml")).load().unwrap(), Config::default());
}

#[test]
fn the_examples_device_is_valid_when_uncommented() {
    let text = include_str!("example.toml");
    let device = text.split("# [[device]]").nth(1).unwrap().replace("\n# ", "\n");
    let config = Etc::new(&format!("[[device]]{device}")).load().unwrap();
    assert_eq!(
        config.devices,
        [DeviceOverride { device: DeviceMatch::Pci("0000:01:00.0".to_owned()), removable: true }]
    );
}

#[test]
fn the_examples_driver_is_valid_when_uncommented() {
    let text = include_str!("example.toml");
    let driver = text.split("# [[driver]]").nth(1).unwrap().split("\n\n").next().unwrap();
    let etc = Etc::new(&format!("[[driver]]{}", driver.replace("\n# ", "\n")));
    let evdi = DriverOverride { name: "evdi".to_owned(), open: WhileOpen::LetsGo };
    assert_eq!(etc.load().unwrap().drivers, [evdi]);
}

#[test]
fn no_files_are_the_defaults() {
    let nowhere = Paths { must_exist: false, ..Paths::file("/nonexistent/dmashared.toml") };
    assert_eq!(Config::load(&nowhere).unwrap(), Config::default());
}

#[test]
fn a_file_that_somebody_named_is_to_be_there() {
    let error = Config::load(&Paths::file("/nonexistent/x.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/x.toml: "), "{error}");
}

#[test]
fn dropins_win_key_by_key_in_the_order_of_their_names() {
    let etc = Etc::new("[broker]\nack_timeout_ms = 100\noverdue = \"kill\"\n")
        .dropin("20-b.toml", "[broker]\nack_timeout_ms = 300\n[log]\nlevel = \"debug\"\n")
        .dropin("10-a.toml", "[broker]\nack_timeout_ms = 200\n[fence]\nbackend = \"vgem\"\n")
        .dropin("30-c.toml.bak", "not = [ toml");
    let config = etc.load().unwrap();
    assert_eq!(config.broker.ack_timeout, Duration::from_millis(300));
    assert_eq!(config.broker.overdue, Overdue::Kill);
    assert_eq!(config.fence.backend, Backend::Vgem);
    assert_eq!(config.log.level, "debug");
}

#[test]
fn a_dropin_hides_the_vendors_of_the_same_name() {
    let vendor = Etc::new("[limits]\nclients = 7\n").dropin("10.toml", "[limits]\nclients = 8\n");
    let admin = Etc::new("").dropin("10.toml", "");
    let paths = Paths {
        main: vec![vendor.main(), admin.main()],
        dropins: [&vendor, &admin].map(|etc| etc.0.path().join("dmashared.conf.d")).into(),
        must_exist: true,
    };
    assert_eq!(Config::load(&paths).unwrap().limits.clients, 7);
}

#[test]
fn of_two_sections_for_a_device_the_later_wins() {
    let etc = Etc::new("[[device]]\nmatch = \"vkms\"\nremovable = true\n")
        .dropin("1.toml", "[[device]]\nmatch = \"driver:i915\"\nremovable = false\n")
        .dropin("2.toml", "[[device]]\nmatch = \"vkms\"\nremovable = false\n");
    let devices = etc.load().unwrap().devices;
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[1].device, DeviceMatch::Name("vkms".to_owned()));
    assert!(!devices[1].removable);
}

#[test]
fn of_two_sections_for_a_driver_the_later_wins() {
    let etc = Etc::new("[[driver]]\nname = \"nvidia\"\nopen = \"lets-go\"\n")
        .dropin("1.toml", "[[driver]]\nname = \"evdi\"\nopen = \"lets-go\"\n")
        .dropin("2.toml", "[[driver]]\nname = \"nvidia\"\nopen = \"blocks\"\n");
    let drivers = etc.load().unwrap().drivers;
    let names: Vec<_> = drivers.iter().map(|it| (it.name.as_str(), it.open)).collect();
    assert_eq!(names, [("evdi", WhileOpen::LetsGo), ("nvidia", WhileOpen::Blocks)]);
}

#[test]
fn mistakes_are_told_with_file_line_and_key() {
    for (text, error) in [
        (
            "[broker]\nsokcet = \"/x\"\n",
            "2: broker.sokcet: no such key; there is socket, state_dir",
        ),
        (
            "[brokr]\n",
            "1: brokr: no such section; there is broker, fence, neutral, eject, limits, devices, log, device, driver",
        ),
        ("\nbroker = 3\n", "2: broker: is to be a section, [broker]"),
        ("[broker]\nsocket = 3\n", "2: broker.socket: is to be a string, not an integer"),
        ("[broker]\nsocket = \"run/x\"\n", "2: broker.socket: is to be an absolute path"),
        (
            "[broker]\n\nack_timeout_ms = 9\n",
            "3: broker.ack_timeout_ms: is to be 10 to 60000, not 9",
        ),
        ("[broker]\nack_timeout_ms = 60001\n", "2: broker.ack_timeout_ms: is to be 10 to 60000"),
        (
            "[broker]\nack_timeout_ms = \"2s\"\n",
            "2: broker.ack_timeout_ms: is to be a whole number, not a string",
        ),
        (
            "[broker]\nack_timeout_ms = 2.5\n",
            "2: broker.ack_timeout_ms: is to be a whole number, not a float",
        ),
        (
            "[broker]\noverdue = \"ignore\"\n",
            "2: broker.overdue: is to be one of \"report\", \"disconnect\", \"kill\", not \"ignore\"",
        ),
        ("[fence]\nbackend = true\n", "2: fence.backend: is to be a string, not a boolean"),
        ("[limits]\nclients = 0\n", "2: limits.clients: is to be 1 to 1048576, not 0"),
        ("[limits]\nclients = -1\n", "2: limits.clients: is to be 1 to 1048576, not -1"),
        (
            "[limits]\nclients = 99999999999999999999\n",
            "2: limits.clients: is to be 1 to 1048576, not 99999999999999999999",
        ),
        ("[log]\nlevel = \"a=b=c\"\n", "2: log.level: \"a=b=c\": "),
        ("[log]\nlevel = \"info, a=debug\"\n", "2: log.level: \"info, a=debug\": has a blank"),
        (
            "[log]\nlevel = \"\u{00a0}\u{feff}_[d\"\n",
            "2: log.level: \"\\u{a0}\\u{feff}_[d\": has a",
        ),
        ("[device]\nmatch = \"vkms\"\n", "1: device: is to be a list of sections, [[device]]"),
        ("\n[[device]]\nmatch = \"vkms\"\n", "2: device.removable: is missing"),
        (
            "[[device]]\nmatch = \"a b\"\nremovable = true\n",
            "2: device.match: is to be a PCI address as 0000:01:00.0, a name in sysfs",
        ),
        (
            "[[device]]\nmatch = \"vkms\"\nremovable = 1\n",
            "3: device.removable: is to be true or false, not an integer",
        ),
        (
            "[[device]]\nmatch = \"vkms\"\nremoveable = true\n",
            "3: device.removeable: no such key; there is match, removable",
        ),
        ("driver = 3\n", "1: driver: is to be a list of sections, [[driver]]"),
        ("driver = [3]\n", "1: driver: is to be a section, [[driver]]"),
        ("\n[[driver]]\nname = \"evdi\"\n", "2: driver.open: is missing"),
        ("[[driver]]\nopen = \"blocks\"\n", "1: driver.name: is missing"),
        (
            "[[driver]]\nname = \"a b\"\n",
            "2: driver.name: is to be a driver's name in sysfs, as amdgpu",
        ),
        (
            "[[driver]]\nname = \"evdi\"\nopen = \"yes\"\n",
            "3: driver.open: is to be one of \"lets-go\", \"blocks\", not \"yes\"",
        ),
        (
            "[[driver]]\nname = \"evdi\"\nremovable = true\n",
            "3: driver.removable: no such key; there is name, open",
        ),
        (
            "[fence]\nmax_deadline_ms = 5000\n",
            "2: fence.max_deadline_ms: the default deadline of 10000 ms is beyond max_deadline_ms",
        ),
    ] {
        let told = Etc::new(text).error();
        let error = format!("dmashared.toml:{error}");
        assert!(told.starts_with(&error), "{text:?}\n told: {told}\nmeant: {error}");
    }
}

#[test]
fn limits_that_contradict_each_other_are_told() {
    for (text, error) in [
        (
            "[limits]\nobjects_per_uid = 5\nobjects_per_client = 6\n",
            "3: limits.objects_per_client: 6 is beyond limits.objects_per_uid = 5",
        ),
        (
            "[limits]\nclients_per_uid = 9\nclients = 8\n",
            "2: limits.clients_per_uid: 9 is beyond limits.clients = 8",
        ),
        (
            "[limits]\ndescriptors = 64\ndescriptors_per_client = 65\n",
            "3: limits.descriptors_per_client: 65 is beyond limits.descriptors = 64",
        ),
        (
            "[limits]\nqueue_kib_per_client = 20\nqueue_kib_per_uid = 16\n",
            "2: limits.queue_kib_per_client: 20 is beyond limits.queue_kib_per_uid = 16",
        ),
        ("[limits]\nqueue_kib_per_uid = 15\n", "2: limits.queue_kib_per_uid: is to be 16 to"),
    ] {
        let told = Etc::new(text).error();
        assert!(told.starts_with(&format!("dmashared.toml:{error}")), "{text:?}: {told}");
    }
}

#[test]
fn a_limit_that_is_not_set_gives_way_to_one_that_is() {
    let limits = |text: &str| Etc::new(&format!("[limits]\n{text}")).load().unwrap().limits;
    let few = limits("objects_per_uid = 5\n");
    assert_eq!((few.objects_per_client, few.objects_per_uid), (5, 5));
    let many = limits("descriptors_per_client = 1000000\n");
    let all = (many.descriptors_per_client, many.descriptors_per_uid, many.descriptors);
    assert_eq!(all, (1_000_000, 1_000_000, 1_000_000));
    let least = limits("descriptors = 64\n");
    assert_eq!((least.descriptors_per_client, least.descriptors_per_uid), (64, 64));
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    for (text, line) in
        [("[broker\n", 1), ("[log]\nlevel = \n", 2), ("[log]\nlevel = \"a\"\nlevel = \"b\"\n", 3)]
    {
        let told = Etc::new(text).error();
        assert!(told.starts_with(&format!("dmashared.toml:{line}: ")), "{told}");
    }
    let etc = Etc::new("");
    fs::write(etc.main(), b"[log]\nlevel = \"\xff\"\n").unwrap();
    assert_eq!(etc.error(), "dmashared.toml:2: the file is not UTF-8");
}

#[test]
fn a_mistake_in_a_dropin_names_the_dropin() {
    let etc = Etc::new("").dropin("9.toml", "[log]\n\nlevel = 1\n");
    assert_eq!(
        etc.error(),
        "dmashared.conf.d/9.toml:3: log.level: is to be a string, not an integer"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let etc = Etc::new("");
    fs::remove_file(etc.main()).unwrap();
    fs::create_dir(etc.main()).unwrap();
    assert!(etc.error().starts_with("dmashared.toml: "), "{}", etc.error());
}

#[test]
fn the_systems_files_are_the_vendors_then_the_administrators() {
    let paths = Paths::system();
    assert_eq!(paths.main[1], Path::new("/etc/dmashare/dmashared.toml"));
    assert_eq!(paths.dropins[0], Path::new("/usr/lib/dmashare/dmashared.conf.d"));
}

/// The example has every key that is read, and the documents name none that is not.
#[test]
fn every_key_is_in_the_example_and_every_documented_one_is_read() {
    let example = include_str!("example.toml");
    for (section, keys) in keys::SECTIONS {
        let (_, rest) = example.split_once(&format!("\n[{section}]\n")).expect(section);
        let own = rest.split("\n[").next().unwrap();
        for (key, _) in *keys {
            assert!(
                own.lines().any(|line| line.starts_with(&format!("{key} = "))),
                "{section}.{key}"
            );
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seen = 0;
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/compositors.md",
        "docs/eject.md",
        "docs/kernel.md",
        "docs/decisions.md",
        "docs/book/concepts.md",
        "docs/book/unplug.md",
        "docs/book/operating.md",
        "docs/book/troubleshooting.md",
        "systemd/dmashare.catalog",
        "systemd/dmashared.service",
        "proto/PROTOCOL.md",
        "daemon/dbus/org.dmashare.Broker1.xml",
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for (section, keys) in keys::SECTIONS {
            for (at, name) in text.match_indices(&format!("{section}.")) {
                let before = text[..at].chars().next_back();
                let rest = &text[at + name.len()..];
                let key = rest.split(|c| !is_word(c)).next().unwrap();
                // A call in code, as `broker.import(`, a path's part, a file's name.
                let is_other = before.is_some_and(|c| is_word(c) || "./-".contains(c))
                    || rest[key.len()..].starts_with(['(', '/'])
                    || ["", "sock", "rs", "md"].contains(&key);
                if !is_other {
                    seen += 1;
                    let known = keys.iter().any(|(known, _)| *known == key);
                    assert!(known, "{file}: there is no {section}.{key}");
                }
            }
        }
    }
    assert!(seen > 5, "{seen} keys were found");
}
