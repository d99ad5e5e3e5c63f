//! Simulated devices: a folder that stands for sysfs, for tests and for machines without DRM.
//!
//! | path | is |
//! | --- | --- |
//! | `devices/NAME/device.toml` | `driver`, `pci`, `removable` and `nodes` of a device |
//! | `devices/NAME/NODE` | a regular file that stands for a DRM node |
//! | `devices/NAME/config` | stands for the PCI configuration space; all ones: the device has vanished |
//! | `udev.sock` | bound here; any datagram says that something has come |

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use super::classify::{Facts, classify};
use super::{DeviceDesc, DeviceSource, NodeDesc, NodeId};
use crate::config::DeviceOverride;

/// `device.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceFile {
    driver: String,
    #[serde(default)]
    pci: String,
    #[serde(default)]
    removable: bool,
    #[serde(default = "card_and_render")]
    nodes: Vec<String>,
}

fn card_and_render() -> Vec<String> {
    ["card0", "renderD128"].map(str::to_owned).into()
}

/// What tells a node from one that took its place: file systems give inode numbers again.
type Birth = (NodeId, Option<SystemTime>);

/// The devices of a folder.
pub struct SimulatedSource {
    dir: PathBuf,
    overrides: Vec<DeviceOverride>,
    socket: UnixDatagram,
    told: BTreeMap<String, Vec<Birth>>,
}

impl SimulatedSource {
    /// Binds `udev.sock` in a folder.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn new(dir: impl Into<PathBuf>, overrides: Vec<DeviceOverride>) -> io::Result<Self> {
        let dir = dir.into();
        let path = dir.join("udev.sock");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { dir, overrides, socket, told: BTreeMap::new() })
    }

    /// Every device that is there and complete, with what tells it from another of its name.
    fn scan(&self) -> io::Result<BTreeMap<String, (DeviceDesc, Vec<Birth>)>> {
        let mut devices = BTreeMap::new();
        let entries = match fs::read_dir(self.dir.join("devices")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(devices),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let folder = entry?.path();
            let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(device) = self.device(name, &folder)? {
                devices.insert(name.to_owned(), device);
            }
        }
        Ok(devices)
    }

    /// `None` while the folder is being filled or emptied.
    fn device(&self, name: &str, folder: &Path) -> io::Result<Option<(DeviceDesc, Vec<Birth>)>> {
        let file = match fs::read_to_string(folder.join("device.toml")) {
            Ok(text) => toml::from_str::<DeviceFile>(&text).map_err(|error| {
                let text = format!("{}/device.toml: {error}", folder.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let parent_devpath = format!("/devices/sim/{name}");
        let (mut nodes, mut births) = (Vec::new(), Vec::new());
        for node in &file.nodes {
            let path = folder.join(node);
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let id = NodeId(metadata.dev(), metadata.ino());
            births.push((id, metadata.created().ok()));
            nodes.push(NodeDesc {
                id,
                devname: path.to_string_lossy().into_owned(),
                devpath: format!("{parent_devpath}/drm/{node}"),
            });
        }
        if nodes.is_empty() {
            return Ok(None);
        }
        let shown = if file.pci.is_empty() { name } else { &file.pci };
        let facts = Facts {
            name: shown.to_owned(),
            pci: file.pci.clone(),
            driver: file.driver.clone(),
            ..Facts::default()
        };
        let (removable, removable_reason) = match classify(&facts, &self.overrides) {
            (removable, reason) if reason == "configuration" => (removable, reason),
            _ => (file.removable, "device.toml".to_owned()),
        };
        let desc = DeviceDesc {
            name: facts.name,
            pci: facts.pci,
            parent_devpath,
            syspath: folder.to_owned(),
            birth: super::birth(folder),
            driver: facts.driver,
            nodes,
            removable,
            removable_reason,
        };
        Ok(Some((desc, births)))
    }

    /// What is there and was not told yet. What went is forgotten, so it is told when it comes back.
    fn news(&mut self) -> io::Result<Vec<DeviceDesc>> {
        let now = self.scan()?;
        self.told.retain(|name, _| now.contains_key(name));
        let mut news = Vec::new();
        for (name, (desc, births)) in now {
            if self.told.get(&name) != Some(&births) {
                self.told.insert(name, births);
                news.push(desc);
            }
        }
        Ok(news)
    }
}

impl DeviceSource for SimulatedSource {
    fn coldplug(&mut self) -> io::Result<Vec<DeviceDesc>> {
        self.told.clear();
        self.news()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn arrivals(&mut self) -> io::Result<Vec<DeviceDesc>> {
        let mut called = false;
        loop {
            match self.socket.recv(&mut [0; 256]) {
                Ok(_) => called = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if called { self.news() } else { Ok(Vec::new()) }
    }

    fn trouble(&self) -> Option<&str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    struct Sim {
        dir: TempDir,
        source: SimulatedSource,
    }

    impl Sim {
        fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let source = SimulatedSource::new(dir.path(), Vec::new()).unwrap();
            Self { dir, source }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("devices").join(name)
        }

        fn plug(&self, name: &str, toml: &str, nodes: &[&str]) {
            fs::create_dir_all(self.path(name)).unwrap();
            for node in nodes {
                fs::write(self.path(name).join(node), "").unwrap();
            }
            fs::write(self.path(name).join("device.toml"), toml).unwrap();
        }

        fn call(&mut self) -> Vec<DeviceDesc> {
            let caller = UnixDatagram::unbound().unwrap();
            caller.send_to(b"x", self.dir.path().join("udev.sock")).unwrap();
            self.source.arrivals().unwrap()
        }
    }

    const EGPU: &str = "driver = \"simgpu\"\npci = \"0000:01:00.0\"\nremovable = true\n";

    #[test]
    fn a_device_is_what_its_file_says() {
        let mut sim = Sim::new();
        sim.plug("egpu", EGPU, &["card0", "renderD128"]);
        sim.plug("igpu", "driver = \"simgpu\"\nnodes = [\"card1\"]\n", &["card1", "renderD129"]);
        let devices = sim.source.coldplug().unwrap();
        assert_eq!(devices.len(), 2);
        let egpu = &devices[0];
        assert_eq!((egpu.name.as_str(), egpu.pci.as_str()), ("0000:01:00.0", "0000:01:00.0"));
        assert!(egpu.removable);
        assert_eq!(egpu.parent_devpath, "/devices/sim/egpu");
        assert_eq!(egpu.nodes[1].devpath, "/devices/sim/egpu/drm/renderD128");
        let metadata = fs::metadata(&egpu.nodes[0].devname).unwrap();
        assert_eq!(egpu.nodes[0].id, NodeId(metadata.dev(), metadata.ino()));
        let igpu = &devices[1];
        assert_eq!((igpu.name.as_str(), igpu.pci.as_str()), ("igpu", ""));
        assert!(!igpu.removable);
        assert_eq!(igpu.nodes.len(), 1);
    }

    #[test]
    fn only_what_is_new_arrives() {
        let mut sim = Sim::new();
        assert!(sim.source.coldplug().unwrap().is_empty());
        sim.plug("a", EGPU, &["card0"]);
        assert!(sim.source.arrivals().unwrap().is_empty(), "nobody called");
        assert_eq!(sim.call().len(), 1);
        assert!(sim.call().is_empty());
        sim.plug("a", EGPU, &["renderD128"]);
        assert_eq!(sim.call()[0].nodes.len(), 2, "a further node");
        fs::create_dir_all(sim.path("half")).unwrap();
        assert!(sim.call().is_empty(), "not filled yet");
    }

    #[test]
    fn a_device_that_comes_back_arrives_again() {
        let mut sim = Sim::new();
        sim.plug("a", EGPU, &["card0"]);
        assert_eq!(sim.source.coldplug().unwrap().len(), 1);
        fs::remove_dir_all(sim.path("a")).unwrap();
        assert!(sim.call().is_empty());
        sim.plug("a", EGPU, &["card0"]);
        assert_eq!(sim.call().len(), 1);
        // Also when nobody called in between.
        fs::remove_dir_all(sim.path("a")).unwrap();
        sim.plug("a", EGPU, &["card0"]);
        assert_eq!(sim.call().len(), 1);
    }

    #[test]
    fn the_configuration_outranks_the_file() {
        let sim = Sim::new();
        sim.plug("a", EGPU, &["card0"]);
        let overrides =
            vec![DeviceOverride { device: "driver:simgpu".parse().unwrap(), removable: false }];
        drop(sim.source);
        let mut source = SimulatedSource::new(sim.dir.path(), overrides).unwrap();
        let device = &source.coldplug().unwrap()[0];
        assert_eq!((device.removable, device.removable_reason.as_str()), (false, "configuration"));
    }

    #[test]
    fn a_wrong_file_is_told() {
        let mut sim = Sim::new();
        sim.plug("a", "driver = 3\n", &["card0"]);
        assert!(sim.source.coldplug().unwrap_err().to_string().contains("a/device.toml"));
    }
}
