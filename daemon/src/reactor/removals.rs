//! Which device a removal is of.

use std::collections::{HashMap, VecDeque};

use dmashare_proto::DeviceId;
use dmashare_proto::message::Cause;
use dmashare_uapi::uevent::Uevent;
use dmashare_uapi::wedged::Wedged;

use super::Watched;
use crate::core::{Standing, Wedge};

/// Lost devices whose parent's removal is still of interest.
const PARENTS: usize = 16;

/// A device, and why it was lost if it was.
pub(super) struct Known {
    pub watched: Watched,
    pub lost: Option<Cause>,
    pub standing: Standing,
    /// It was pulled after its loss was rehearsed, before it came back as another one.
    pub removed: bool,
}

/// What a uevent says about the devices.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The device is being removed.
    Lost(DeviceId),
    /// The device above the DRM nodes is removed.
    ParentRemoved(DeviceId),
    /// Somebody wrote `remove` into a node's uevent file; the device is still there.
    Requested(DeviceId, String),
    /// Its driver says that it hangs; the device is still there.
    Wedged(DeviceId, Wedge),
    /// A word about a node of no device that is there and known; it may be known in a moment.
    Early(String, Said),
}

/// What is said of a device that stays where it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Requested(String),
    Wedged(Wedge),
}

impl Said {
    fn of(self, id: DeviceId) -> Meaning {
        match self {
            Self::Requested(why) => Meaning::Requested(id, why),
            Self::Wedged(wedge) => Meaning::Wedged(id, wedge),
        }
    }
}

/// The devices that are watched.
#[derive(Default)]
pub(super) struct Devices {
    pub known: HashMap<DeviceId, Known>,
    by_devpath: HashMap<String, DeviceId>,
    parents: VecDeque<(String, DeviceId)>,
}

impl Devices {
    /// Takes in a device, or its further node. `true`: its nodes were removed after the rehearsal from
    /// which it comes back, so no event will tell of it.
    pub fn add(&mut self, id: DeviceId, watched: Watched) -> bool {
        let mut removed = false;
        for node in &watched.desc.nodes {
            // What was here before is lost; its place is this one's now, whatever is forgotten of it.
            let before = self.by_devpath.insert(node.devpath.clone(), id);
            let before = before.filter(|before| *before != id);
            removed |= before.and_then(|it| self.known.get(&it)).is_some_and(|it| it.removed);
        }
        self.parents.retain(|(path, _)| *path != watched.desc.parent_devpath);
        if self.parents.len() == PARENTS {
            self.parents.pop_front();
        }
        self.parents.push_back((watched.desc.parent_devpath.clone(), id));
        let before = self.known.get(&id).map(|known| (known.lost, known.standing));
        let (lost, standing) = before.unwrap_or_default();
        self.known.insert(id, Known { watched, lost, standing, removed: false });
        removed
    }

    pub fn forget(&mut self, id: DeviceId) {
        self.known.remove(&id);
        self.by_devpath.retain(|_, of| *of != id);
    }

    /// What an event means; `None` for most of them.
    pub fn meaning(&mut self, event: &Uevent<'_>) -> Option<Meaning> {
        if event.action == "change" {
            let wedge = Wedge::new(&Wedged::of(event)?);
            return Some(self.word(event.devpath.to_owned(), Said::Wedged(wedge)));
        }
        if event.action != "remove" {
            return None;
        }
        if event.subsystem == "drm" {
            let Some(uuid) = event.synth_uuid else {
                return self.by_devpath.get(event.devpath).copied().map(Meaning::Lost);
            };
            let node = event.devname.unwrap_or(event.devpath);
            let why = format!("synthetic remove of {node} ({uuid})");
            return Some(self.word(event.devpath.to_owned(), Said::Requested(why)));
        }
        if event.synth_uuid.is_some() {
            return None;
        }
        let index = self.parents.iter().position(|(path, _)| path == event.devpath)?;
        let (_, id) = self.parents.remove(index)?;
        Some(Meaning::ParentRemoved(id))
    }

    /// Whose a word is: of who is there, not of who was there before.
    pub fn word(&self, devpath: String, said: Said) -> Meaning {
        let id = self.by_devpath.get(&devpath).copied();
        let is_there = |id: &DeviceId| self.known.get(id).is_some_and(|it| it.lost.is_none());
        match id.filter(is_there) {
            Some(id) => said.of(id),
            None => Meaning::Early(devpath, said),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use dmashare_proto::state_page::{DeviceState, Word};

    use super::*;
    use crate::devices::{DeviceDesc, NodeDesc, NodeId};

    fn devices() -> Devices {
        let mut devices = Devices::default();
        assert!(!devices.add(DeviceId(3), card()));
        devices
    }

    fn card() -> Watched {
        let desc = DeviceDesc {
            name: "0000:01:00.0".to_owned(),
            pci: "0000:01:00.0".to_owned(),
            parent_devpath: "/devices/pci0/0000:01:00.0".to_owned(),
            syspath: PathBuf::new(),
            birth: 0,
            driver: "virtio_gpu".to_owned(),
            nodes: vec![NodeDesc {
                id: NodeId(226, 1),
                devname: "/dev/dri/card1".to_owned(),
                devpath: "/devices/pci0/0000:01:00.0/virtio2/drm/card1".to_owned(),
            }],
            removable: true,
            removable_reason: String::new(),
        };
        let word = Word::new(1, DeviceState::Present);
        Watched { desc, gate: Arc::default(), slot: 0, word }
    }

    fn meaning(devices: &mut Devices, lines: &[&str]) -> Option<Meaning> {
        let message = lines.join("\0") + "\0";
        devices.meaning(&Uevent::parse(message.as_bytes()).unwrap())
    }

    #[test]
    fn a_removal_by_the_kernel() {
        let mut devices = devices();
        let path = "/devices/pci0/0000:01:00.0/virtio2/drm/card1";
        let event = [
            &format!("remove@{path}"),
            "ACTION=remove",
            &format!("DEVPATH={path}"),
            "SUBSYSTEM=drm",
            "SEQNUM=1",
        ];
        assert_eq!(meaning(&mut devices, &event), Some(Meaning::Lost(DeviceId(3))));
        let mut synthetic = event.to_vec();
        synthetic.push("SYNTH_UUID=0");
        assert!(matches!(meaning(&mut devices, &synthetic), Some(Meaning::Requested(_, _))));
    }

    const REMOVE: [&str; 5] = [
        "remove@/devices/pci0/0000:01:00.0/virtio2/drm/card1",
        "ACTION=remove",
        "DEVPATH=/devices/pci0/0000:01:00.0/virtio2/drm/card1",
        "SUBSYSTEM=drm",
        "SEQNUM=1",
    ];

    #[test]
    fn after_a_rehearsal_the_removal_is_of_the_new_device() {
        let mut devices = devices();
        assert!(!devices.add(DeviceId(4), card()));
        devices.forget(DeviceId(3));
        assert_eq!(meaning(&mut devices, &REMOVE), Some(Meaning::Lost(DeviceId(4))));
        let parent = [
            "remove@/devices/pci0/0000:01:00.0",
            "ACTION=remove",
            "DEVPATH=/devices/pci0/0000:01:00.0",
            "SUBSYSTEM=pci",
            "SEQNUM=2",
        ];
        assert_eq!(meaning(&mut devices, &parent), Some(Meaning::ParentRemoved(DeviceId(4))));
        assert_eq!(meaning(&mut devices, &parent), None);
    }

    #[test]
    fn a_removal_between_a_rehearsal_and_the_return_is_not_missed() {
        let mut devices = devices();
        let known = devices.known.get_mut(&DeviceId(3)).unwrap();
        (known.lost, known.removed) = (Some(Cause::Rehearsed), true);
        assert!(devices.add(DeviceId(4), card()), "it is gone already");
        assert!(!devices.add(DeviceId(5), card()), "it was plugged in again");
    }

    #[test]
    fn a_driver_says_that_its_device_hangs() {
        let mut devices = devices();
        let path = "/devices/pci0/0000:01:00.0/virtio2/drm/card1";
        let mut event = vec![
            format!("change@{path}"),
            "ACTION=change".to_owned(),
            format!("DEVPATH={path}"),
            "SUBSYSTEM=drm".to_owned(),
            "SEQNUM=1".to_owned(),
        ];
        let mut meaning = |event: &[String]| {
            let lines: Vec<&str> = event.iter().map(String::as_str).collect();
            meaning(&mut devices, &lines)
        };
        assert_eq!(meaning(&event), None, "as for every hot-plugged monitor");
        event.push("WEDGED=rebind,bus-reset".to_owned());
        let Some(Meaning::Wedged(DeviceId(3), wedge)) = meaning(&event) else { panic!() };
        assert_eq!((wedge.recovery.as_str(), wedge.injected), ("rebind,bus-reset", false));
        event[0] = "change@/devices/other".to_owned();
        event[2] = "DEVPATH=/devices/other".to_owned();
        let Some(Meaning::Early(path, word)) = meaning(&event) else { panic!() };
        assert_eq!(path, "/devices/other", "another device's, or one that is to be known soon");
        assert!(matches!(devices.word(path, word), Meaning::Early(..)));
    }

    #[test]
    fn a_word_is_of_who_is_there() {
        let mut devices = devices();
        let synthetic = [&REMOVE[..], &["SYNTH_UUID=0"]].concat();
        devices.known.get_mut(&DeviceId(3)).unwrap().lost = Some(Cause::Unplugged);
        let Some(Meaning::Early(path, word)) = meaning(&mut devices, &synthetic) else { panic!() };
        assert!(!devices.add(DeviceId(4), card()));
        assert!(matches!(devices.word(path, word), Meaning::Requested(DeviceId(4), _)));
    }

    #[test]
    fn the_parents_removal_counts_once() {
        let mut devices = devices();
        let event = [
            "remove@/devices/pci0/0000:01:00.0",
            "ACTION=remove",
            "DEVPATH=/devices/pci0/0000:01:00.0",
            "SUBSYSTEM=pci",
            "SEQNUM=2",
        ];
        assert_eq!(meaning(&mut devices, &event), Some(Meaning::ParentRemoved(DeviceId(3))));
        assert_eq!(meaning(&mut devices, &event), None);
    }
}
