//! Reports and holders for tests.

use dmashare_proto::holders::Holders;
use dmashare_proto::message::Cause;
use dmashare_proto::report::{ImplicitFence, Mark, Overdue, Step, UnplugReport};
use dmashare_proto::{DeviceId, ObjectId};

use crate::model::{Device, DeviceCounts};

/// CLOCK_MONOTONIC of the sample's event.
pub(crate) const ZERO: u64 = 5_000_000_000;

/// An unplug with something of everything.
pub(crate) fn report() -> UnplugReport {
    let steps = [
        (Step::Uevent, 0),
        (Step::GateClosed, 21_400),
        (Step::GuardsSignalled, 84_000),
        (Step::ClientsTold, 140_900),
        (Step::FdsDropped, 301_000),
        (Step::Acknowledged, 2_104_000),
        (Step::Gone, 2_110_000),
        (Step::ParentRemoved, 61_204_000),
    ];
    UnplugReport {
        device: DeviceId(2),
        name: "0000:01:00.0".to_owned(),
        driver: "virtio_gpu".to_owned(),
        cause: Cause::Unplugged,
        wall_clock_s: 1_767_323_045,
        marks: steps.map(|(step, after)| Mark { step, at_ns: ZERO + after }).into(),
        guards: 7,
        passed: 1,
        promises: 0,
        buffers: 3,
        imports: 2,
        told: 2,
        awaited: 2,
        implicit: vec![ImplicitFence {
            buffer: ObjectId(11),
            driver: "vgem".to_owned(),
            timeline: "unbound".to_owned(),
            seen_ns: ZERO + 290_000,
            ended_ns: None,
        }],
        overdue: vec![Overdue {
            uid: 1000,
            pid: 4711,
            name: "slowpoke".to_owned(),
            unit: "app-slow.scope".to_owned(),
            holds: vec!["dma-buf 8 MiB (fd 12)".to_owned(), "mapping of it".to_owned()],
            action: "disconnect".to_owned(),
        }],
        rehearsed_for: None,
    }
}

/// A card that is held by all kinds of processes, one with a name that means harm.
pub(crate) fn holders() -> Holders {
    serde_json::from_str(include_str!("../../tests/holders.json")).unwrap()
}

/// The card that they hold.
pub(crate) fn device() -> Device {
    Device {
        id: 3,
        name: "0000:01:00.0".to_owned(),
        pci: "0000:01:00.0".to_owned(),
        driver: "amdgpu".to_owned(),
        nodes: vec!["/dev/dri/card1".to_owned(), "/dev/dri/renderD129".to_owned()],
        removable: true,
        removable_reason: "behind Thunderbolt (0-1)".to_owned(),
        state: "present".to_owned(),
        counts: DeviceCounts { buffers: 12, imports: 3, fences: 7, ..DeviceCounts::default() },
        ..Device::default()
    }
}
