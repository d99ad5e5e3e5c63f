//! The unplug report: when each step of one unplug was done, and how much it had to do. Written by
//! the broker, shown by `dmasharectl`, on D-Bus as JSON.

use serde::{Deserialize, Serialize};

use crate::ids::{ClientId, DeviceId, ObjectId};
use crate::message::Cause;

/// A step of the unplug, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The kernel's event was read. All other times count from here.
    Uevent,
    /// The gate is closed and *Lost* is on the state page.
    GateClosed,
    /// Every guard fence of the device is signalled.
    GuardsSignalled,
    /// Every client has its message in its socket.
    ClientsTold,
    /// The broker's own file descriptors of the device are closed.
    FdsDropped,
    /// Every import is acknowledged (or its client is gone).
    Acknowledged,
    /// The last reference is dropped.
    Gone,
    /// The kernel reported the removal of the device above the DRM nodes (the PCI device).
    ParentRemoved,
}

impl Step {
    /// The name in tables and in the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uevent => "uevent",
            Self::GateClosed => "gate closed",
            Self::GuardsSignalled => "fences signalled",
            Self::ClientsTold => "clients told",
            Self::FdsDropped => "own fds dropped",
            Self::Acknowledged => "acknowledged",
            Self::Gone => "gone",
            Self::ParentRemoved => "PCI device removed",
        }
    }
}

/// When a step was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which.
    pub step: Step,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
}

/// A fence that was still pending in a lost buffer's reservation object: nobody can end it from
/// userspace, and importers that wait for it implicitly hang until its driver does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImplicitFence {
    /// The buffer.
    pub buffer: ObjectId,
    /// Driver of the fence.
    pub driver: String,
    /// Its timeline.
    pub timeline: String,
    /// When it was first seen pending, CLOCK_MONOTONIC in nanoseconds. The kernel does not tell when
    /// a fence was made, so its age is at least the time since.
    pub seen_ns: u64,
    /// When it ended, if it did.
    pub ended_ns: Option<u64>,
}

/// A client that did not acknowledge in time, and what was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overdue {
    /// Its process; 0 for who may not see it.
    pub pid: i32,
    /// Its user.
    #[serde(default)]
    pub uid: u32,
    /// What it calls itself; empty for who may not see it.
    pub name: String,
    /// Its systemd unit, empty if it has none or that cannot be seen.
    pub unit: String,
    /// What it still held, seen in /proc: dma-bufs of the device, mappings of them.
    pub holds: Vec<String>,
    /// `report`, `disconnect` or `kill`.
    pub action: String,
}

/// A loss that was rehearsed for one client: the device stayed, and nobody else noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehearsedFor {
    /// The client.
    pub client: ClientId,
    /// The broker's own id for what the client lost.
    pub epoch: DeviceId,
}

/// One unplug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnplugReport {
    /// The device.
    pub device: DeviceId,
    /// PCI address, or the name of a device that is not on a PCI bus.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Why it was lost; its name in JSON.
    #[serde(with = "cause")]
    pub cause: Cause,
    /// CLOCK_REALTIME of the kernel's event, in seconds.
    pub wall_clock_s: u64,
    /// The steps done so far, in the order in which they were done.
    pub marks: Vec<Mark>,
    /// Guard fences that the unplug ended.
    pub guards: u32,
    /// Fences that had been passed through: they are their driver's to end.
    pub passed: u32,
    /// Timelines with points that were promised and will not come.
    #[serde(default)]
    pub promises: u32,
    /// Buffers that were exported from the device.
    pub buffers: u32,
    /// Imports that were taken back.
    pub imports: u32,
    /// Clients that were told.
    pub told: u32,
    /// Clients whose acknowledgement was awaited.
    pub awaited: u32,
    /// Implicit fences that were still pending.
    pub implicit: Vec<ImplicitFence>,
    /// Clients that did not acknowledge in time.
    pub overdue: Vec<Overdue>,
    /// The one client that this was rehearsed for, if it was; else it was for all.
    #[serde(default)]
    pub rehearsed_for: Option<RehearsedFor>,
}

impl UnplugReport {
    /// What was lost: the device, or the device as one client alone knew it.
    #[must_use]
    pub fn epoch(&self) -> DeviceId {
        self.rehearsed_for.map_or(self.device, |only| only.epoch)
    }

    /// When a step was done, CLOCK_MONOTONIC in nanoseconds.
    #[must_use]
    pub fn at(&self, step: Step) -> Option<u64> {
        self.marks.iter().find(|mark| mark.step == step).map(|mark| mark.at_ns)
    }

    /// Microseconds from the kernel's event to a step.
    #[must_use]
    pub fn micros(&self, step: Step) -> Option<u64> {
        Some(self.at(step)?.saturating_sub(self.at(Step::Uevent)?) / 1000)
    }
}

/// A cause as its name: on the wire it is a number.
mod cause {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::message::Cause;

    pub(super) fn serialize<S: Serializer>(cause: &Cause, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(cause.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Cause, D::Error> {
        let name = String::deserialize(from)?;
        Cause::of_loss(&name)
            .ok_or_else(|| D::Error::custom(format_args!("no device is lost by {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn lost_by(cause: Cause) -> UnplugReport {
        UnplugReport {
            device: DeviceId(2),
            name: "0000:01:00.0".to_owned(),
            driver: "virtio_gpu".to_owned(),
            cause,
            wall_clock_s: 7,
            marks: vec![Mark { step: Step::GateClosed, at_ns: 9 }],
            guards: 0,
            passed: 0,
            promises: 0,
            buffers: 0,
            imports: 0,
            told: 0,
            awaited: 0,
            implicit: Vec::new(),
            overdue: Vec::new(),
            rehearsed_for: None,
        }
    }

    #[test]
    fn words_in_json_are_in_kebab_case() {
        for (cause, word) in [
            (Cause::Unplugged, "unplugged"),
            (Cause::Vanished, "vanished"),
            (Cause::Wedged, "wedged"),
            (Cause::Ejected, "ejected"),
            (Cause::Rehearsed, "rehearsed"),
        ] {
            let json = to_value(lost_by(cause)).unwrap();
            assert_eq!(json["cause"], word);
            assert_eq!(json["marks"], json!([{ "step": "gate-closed", "at_ns": 9 }]));
            assert_eq!(from_value::<UnplugReport>(json).unwrap(), lost_by(cause));
        }
        for (cause, word) in
            [(Cause::Exporter(5), "exporter-error"), (Cause::TimedOut, "timed-out")]
        {
            let json = to_value(lost_by(cause)).unwrap();
            assert_eq!(json["cause"], word);
            assert!(from_value::<UnplugReport>(json).is_err(), "only a fence ends by it");
        }
    }

    #[test]
    fn a_report_of_an_earlier_version_is_read() {
        let mut json = to_value(lost_by(Cause::Unplugged)).unwrap();
        json.as_object_mut().unwrap().remove("rehearsed_for");
        assert_eq!(from_value::<UnplugReport>(json).unwrap().epoch(), DeviceId(2));
        let only = RehearsedFor { client: ClientId(6), epoch: DeviceId(9) };
        let report = UnplugReport { rehearsed_for: Some(only), ..lost_by(Cause::Rehearsed) };
        let json = to_value(&report).unwrap();
        assert_eq!(json["rehearsed_for"], json!({ "client": 6, "epoch": 9 }));
        assert_eq!(from_value::<UnplugReport>(json).unwrap().epoch(), DeviceId(9));
    }

    #[test]
    fn a_cause_that_is_not_known_is_an_error() {
        let mut json = to_value(lost_by(Cause::Unplugged)).unwrap();
        json["cause"] = json!("Unplugged");
        let error = from_value::<UnplugReport>(json).unwrap_err().to_string();
        assert!(error.contains("\"Unplugged\""), "{error}");
    }
}
