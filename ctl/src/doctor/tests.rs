use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::bus::Probed;
use crate::model::Service;

const RELEASE: &str = "6.12.48+deb13-amd64";

/// What trying a node of this file name gives. What is not named is not there.
#[derive(Default)]
struct Answers(HashMap<&'static str, io::ErrorKind>, Vec<&'static str>);

impl Answers {
    fn of(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap().to_str().unwrap();
        match self.0.get(name) {
            Some(kind) => Err((*kind).into()),
            None if self.1.contains(&name) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Try for Answers {
    fn node(&self, path: &Path) -> io::Result<NodeFacts> {
        self.of(path)?;
        Ok(NodeFacts { driver: "amdgpu".to_owned(), timelines: true })
    }
    fn sw_sync(&self, path: &Path) -> io::Result<()> {
        self.of(path)
    }
    fn vgem(&self, path: &Path) -> io::Result<()> {
        self.of(path)
    }
    fn open(&self, path: &Path) -> io::Result<()> {
        self.of(path)
    }
}

/// A root folder with Debian's kernel, a GPU and an installed service; nothing is loaded.
struct Machine {
    root: TempDir,
    answers: Answers,
    _socket: UnixListener,
}

impl Machine {
    fn debian() -> Self {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("run/dmashare/broker.sock");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let machine = Self {
            _socket: UnixListener::bind(socket).unwrap(),
            root,
            answers: Answers(HashMap::new(), vec!["card0", "udmabuf", "system"]),
        };
        machine.write("/proc/sys/kernel/osrelease", &format!("{RELEASE}\n"));
        machine.write("/proc/mounts", "debugfs /sys/kernel/debug debugfs rw 0 0\n");
        machine.write("/etc/os-release", "ID=debian\n");
        machine.write(&format!("/boot/config-{RELEASE}"), "# CONFIG_SW_SYNC is not set\n");
        machine.write(
            &format!("/lib/modules/{RELEASE}/modules.dep"),
            "kernel/drivers/gpu/drm/vgem/vgem.ko.xz: kernel/drivers/gpu/drm/drm.ko.xz\n",
        );
        machine.write("/run/udev/control", "");
        machine.write("/usr/share/dbus-1/system.d/org.dmashare.Broker1.conf", "");
        machine.write("/usr/lib/systemd/system/dmashared.service", "");
        machine.write("/run/dmashare/helpers/holders.sock", "");
        machine.write("/run/dmashare/helpers/kill.sock", "");
        machine.write("/run/dmashare/helpers/pci.sock", "");
        machine.card("card0", "0000:01:00.0");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.root.path().join(path.trim_start_matches('/'))).unwrap();
    }

    fn card(&self, card: &str, device: &str) {
        let folder = self.root.path().join("sys/class/drm").join(card);
        fs::create_dir_all(&folder).unwrap();
        symlink(format!("../../../devices/{device}"), folder.join("device")).unwrap();
    }

    fn vgem(mut self) -> Self {
        self.card("card1", "vgem");
        self.answers.1.push("card1");
        self
    }

    fn sw_sync(mut self) -> Self {
        self.write("/sys/kernel/debug/sync/sw_sync", "");
        self.answers.1.push("sw_sync");
        self
    }

    fn as_root(&self, is_root: bool, service: &ServiceState) -> Diagnosis {
        diagnose(&Host::at(self.root.path(), &self.answers, is_root), service)
    }

    fn diagnosis(&self) -> Diagnosis {
        self.as_root(true, &ServiceState::Stopped)
    }
}

fn found<'a>(diagnosis: &'a Diagnosis, id: &str) -> &'a Finding {
    diagnosis.findings.iter().find(|finding| finding.id == id).unwrap()
}

#[test]
fn a_stock_debian_needs_nothing() {
    let diagnosis = Machine::debian().diagnosis();
    assert!(diagnosis.ok, "{diagnosis:#?}");
    assert_eq!((diagnosis.backend.name.as_str(), diagnosis.backend.from), ("vgem", "expected"));
    assert!(found(&diagnosis, "sw_sync").what.contains("Debian's kernels are built without it"));
    assert!(found(&diagnosis, "vgem").what.contains("the service's start loads it"));
    assert!(found(&diagnosis, "service").what.contains("the first client starts it"));
    assert!(diagnosis.findings.iter().all(|f| f.level == Level::Ok), "{diagnosis:#?}");
}

#[test]
fn the_best_backend_is_expected() {
    let both = Machine::debian().vgem().sw_sync().diagnosis();
    assert_eq!(both.backend.name, "sw_sync");
    let vgem = Machine::debian().vgem().diagnosis();
    assert_eq!(vgem.backend.name, "vgem");
    assert_eq!(found(&vgem, "vgem").what, "vgem works");
}

#[test]
fn a_kernel_in_lockdown_has_no_sw_sync() {
    let mut machine = Machine::debian().sw_sync();
    machine.answers.0.insert("sw_sync", io::ErrorKind::PermissionDenied);
    let diagnosis = machine.diagnosis();
    assert_eq!(diagnosis.backend.name, "vgem");
    assert!(found(&diagnosis, "sw_sync").what.contains("lockdown"));
    // The same as another user says nothing about the service.
    let user = machine.as_root(false, &ServiceState::Stopped);
    assert_eq!(user.backend.name, "sw_sync");
}

#[test]
fn no_way_to_make_guards_is_told_with_the_way_out() {
    let machine = Machine::debian();
    machine.remove(&format!("/lib/modules/{RELEASE}/modules.dep"));
    let diagnosis = machine.diagnosis();
    assert!(!diagnosis.ok);
    assert_eq!(diagnosis.backend.name, "none");
    let vgem = found(&diagnosis, "vgem");
    assert_eq!(vgem.level, Level::Missing);
    assert!(vgem.todo.as_ref().unwrap().contains("apt install linux-image-amd64"));
    machine.write("/etc/os-release", "ID=pop\nID_LIKE=\"ubuntu debian\"\n");
    let todo = found(&machine.diagnosis(), "vgem").todo.clone().unwrap();
    assert!(todo.contains("linux-modules-extra"), "{todo}");
}

#[test]
fn unmounted_debugfs_is_no_lack() {
    let machine = Machine::debian();
    machine.write("/proc/mounts", "");
    machine.write(&format!("/boot/config-{RELEASE}"), "CONFIG_SW_SYNC=y\n");
    assert_eq!(machine.diagnosis().backend.name, "sw_sync");
    machine.remove(&format!("/boot/config-{RELEASE}"));
    let unknown = machine.diagnosis();
    assert_eq!(unknown.backend.name, "unknown");
    assert!(found(&unknown, "sw_sync").todo.as_ref().unwrap().contains("mount -t debugfs"));
}

#[test]
fn what_the_service_says_counts() {
    let service = ServiceState::Running {
        service: Service {
            version: "0.1.0".to_owned(),
            backend: "none".to_owned(),
            ..Service::default()
        },
        probed: Probed { backend: "none".to_owned(), tried: Vec::new() },
    };
    let diagnosis = Machine::debian().vgem().as_root(true, &service);
    assert_eq!((diagnosis.backend.name.as_str(), diagnosis.backend.from), ("none", "service"));
    assert!(!diagnosis.ok);
    let vgem = found(&diagnosis, "vgem");
    assert!(vgem.todo.as_ref().unwrap().contains("systemctl restart dmashared"), "{vgem:?}");
}

#[test]
fn each_lack_has_a_sentence_and_a_remedy() {
    let machine = Machine::debian();
    machine.remove("/run/udev/control");
    machine.remove("/usr/share/dbus-1/system.d/org.dmashare.Broker1.conf");
    machine.remove("/run/dmashare/broker.sock");
    machine.remove("/run/dmashare/helpers/pci.sock");
    machine.remove("/sys/class/drm/card0/device");
    fs::remove_dir(machine.root.path().join("sys/class/drm/card0")).unwrap();
    machine.write("/proc/sys/kernel/osrelease", "5.15.0\n");
    let nothing = Answers::default();
    let host = Host::at(machine.root.path(), &nothing, true);
    let diagnosis = diagnose(&host, &ServiceState::Stopped);
    for id in [
        "kernel",
        "udev",
        "dbus-policy",
        "socket",
        "helpers",
        "service",
        "devices",
        "udmabuf",
        "dma-heap",
    ] {
        let finding = found(&diagnosis, id);
        assert!(finding.level != Level::Ok && finding.todo.is_some(), "{finding:?}");
    }
    assert!(!diagnosis.ok);
}

#[test]
fn a_user_without_access_is_told_so() {
    let mut machine = Machine::debian();
    machine.answers.0.insert("card0", io::ErrorKind::PermissionDenied);
    let diagnosis = machine.as_root(false, &ServiceState::Stopped);
    assert!(found(&diagnosis, "devices").todo.as_ref().unwrap().contains("group video"));
    assert!(diagnosis.ok, "{diagnosis:#?}");
}

#[test]
fn it_fits_the_terminal() {
    let text = show(&Machine::debian().diagnosis(), NARROW);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.ends_with("\nEverything that dmashare needs is there.\n"), "{text}");
}

const NARROW: crate::render::Style = crate::render::Style { colour: false, width: Some(80) };
