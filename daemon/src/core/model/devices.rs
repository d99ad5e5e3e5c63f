//! Devices come, hang, drain and go, as the reactor and the bus have it.

use std::path::PathBuf;

use super::*;
use crate::devices::{DeviceDesc, NodeDesc};

impl Model {
    pub(super) fn node(card: u8) -> NodeId {
        NodeId(226, u64::from(card))
    }

    pub(super) fn plug(&mut self, card: u8) {
        // As the kernel does: a minor in use is not given to another card.
        let busy =
            self.broker.devices.values().any(|device| {
                !device.gate.is_lost() && device.desc.nodes[0].id == Self::node(card)
            });
        if busy {
            return;
        }
        let desc = DeviceDesc {
            name: format!("card{card}"),
            pci: String::new(),
            parent_devpath: format!("/devices/{card}"),
            syspath: PathBuf::new(),
            birth: 0,
            driver: "model".to_owned(),
            nodes: vec![NodeDesc {
                id: Self::node(card),
                devname: format!("/dev/dri/card{card}"),
                devpath: format!("/devices/{card}/drm/card{card}"),
            }],
            removable: card > 0,
            removable_reason: "model".to_owned(),
        };
        let mut out = Vec::new();
        self.broker.device_added(desc, &mut out);
        self.carry_out(out);
    }

    pub(super) fn close_gate(&mut self, n: usize) {
        let mut present: Vec<_> = self
            .gates
            .iter()
            .filter(|(_, gate)| !gate.is_lost())
            .map(|(&device, _)| device)
            .collect();
        present.sort_unstable();
        let Some(device) = Self::pick(&present, n) else { return };
        assert!(self.gates[&device].lose());
        // The reactor's sweep: every guard of the device is ended, once.
        self.watched.retain(|_, (of, _)| *of != device);
        self.closed.push(device);
    }

    pub(super) fn lose(&mut self, n: usize) {
        let Some(device) = Self::pick(&self.closed, n) else { return };
        self.closed.retain(|other| *other != device);
        let greeted: Vec<_> =
            self.clients.iter().map(|&client| (client, self.named(client, device))).collect();
        let cause =
            if self.rehearsed.remove(&device) { Cause::Rehearsed } else { Cause::Unplugged };
        let parent = self.broker.devices[&device].desc.parent_devpath.clone();
        let now_ns = self.now_ns;
        let sweep = Sweep {
            cause,
            uevent_ns: now_ns,
            wall_clock_s: 0,
            gate_ns: now_ns,
            guards_ns: now_ns,
            guards: 0,
        };
        let mut fences = self.broker.pending_of(device);
        fences.retain(|fence| self.broker.fences[fence].point.is_none());
        let imports: Vec<_> = self.broker.devices[&device].imports.iter().copied().collect();
        let owners: Vec<_> =
            imports.iter().map(|it| (*it, self.uid(self.broker.imports[it].client))).collect();
        let mut out = Vec::new();
        if n % 3 == 1 {
            // The service ends between the two, and another life of it finishes what was begun.
            assert!(self.broker.tell_lost(now_ns, device, &sweep, &mut out));
            self.carry_out(out);
            self.restart();
        } else {
            self.broker.device_lost(now_ns, device, &sweep, &mut out);
            self.carry_out(out);
        }
        let ended = Ended { cause, at_ns: now_ns };
        for fence in fences {
            assert_eq!(self.broker.cause_of(0, fence, 0), Some(ended), "the cause of {fence}");
        }
        self.failed.extend(owners.into_iter().map(|(import, uid)| (import, (uid, ended))));
        for (client, device) in greeted {
            assert!(self.told.contains(&(client, device)), "I6: {client} was not told");
        }
        let mut present = self.broker.devices.iter().filter(|(_, it)| it.lost.is_none());
        let back = present.any(|(_, it)| it.desc.parent_devpath == parent);
        assert!(cause != Cause::Rehearsed || back, "a rehearsed device comes back");
    }

    /// As the reactor: what is guarded ends, the rest stays watched.
    pub(super) fn wedge(&mut self, n: usize, has_recovered: bool) {
        let mut present: Vec<_> = self.gates.keys().copied().collect();
        present.retain(|device| !self.gates[device].is_lost());
        present.sort_unstable();
        let Some(device) = Self::pick(&present, n) else { return };
        let is_ended = |of: &DeviceId, guarded: bool| *of == device && guarded && !has_recovered;
        let mut fences = Vec::new();
        self.watched.retain(|&fence, (of, ender)| {
            let ended = is_ended(of, ender.is_some());
            if ended {
                fences.push(fence);
            }
            !ended
        });
        let before = self.broker.devices[&device].gate.counts();
        let mut handles: HashMap<ClientId, u32> =
            self.clients.iter().map(|client| (*client, 0)).collect();
        let mut points = Vec::new();
        for known in fences.iter().map(|fence| &self.broker.fences[fence]) {
            let mut owners: Vec<_> = known.handles.iter().map(|(client, _)| *client).collect();
            if let Some((timeline, point)) = known.point {
                let of = &self.broker.timelines[&timeline];
                owners.extend(of.importers.iter().map(|(client, _)| *client).chain(of.maker));
                points.extend(of.importers.iter().map(|(_, handle)| (*handle, point)));
                points.extend(of.maker.map(|_| (timeline, point)));
            }
            for client in owners {
                *handles.get_mut(&client).unwrap() += 1;
            }
        }
        let own = fences.iter().filter(|it| self.broker.fences[it].point.is_none());
        points.extend(own.map(|fence| (*fence, 0)));
        let wedge = Wedge {
            recovery: if has_recovered { "none" } else { "rebind" }.to_owned(),
            has_recovered,
            at_ns: self.now_ns,
            fences: fences.clone(),
            ..Wedge::default()
        };
        let mut out = Vec::new();
        self.broker.device_wedged(device, &wedge, &mut out);
        let mut told = HashMap::new();
        for (client, message) in self.carry_out(out) {
            if let Outgoing::Event(Event::DeviceWedged(event)) = message {
                let known_as = self.named(client, device);
                assert_eq!((event.device, &event.recovery), (known_as, &wedge.recovery));
                assert_eq!(told.insert(client, event.fences), None, "I6: told twice");
            }
        }
        assert_eq!(told, handles, "every client is told of its own fences");
        let known = &self.broker.devices[&device];
        assert!(known.lost.is_none() && !known.gate.is_lost(), "it is still there");
        assert_eq!(known.wedged, wedge.recovery);
        let ended = u32::try_from(fences.len()).unwrap();
        let after = known.gate.counts();
        // A timeline that nobody has goes with its last point.
        let counts = crate::view::Counts { timelines: after.timelines, ..before };
        assert_eq!(after, crate::view::Counts { fences: before.fences - ended, ..counts });
        for (object, point) in points {
            let ended = Ended { cause: Cause::Wedged, at_ns: self.now_ns };
            let told = self.broker.cause_of(0, object, point);
            assert_eq!(told, Some(ended), "the cause of {object}, {point}");
        }
        for fence in fences {
            // What comes late is not believed.
            assert!(!self.broker.end_fence(fence, FenceState::Ok { at_ns: self.now_ns }));
        }
    }

    pub(super) fn rehearse(&mut self, n: usize) {
        let before = self.closed.len();
        self.close_gate(n);
        self.rehearsed.extend(&self.closed[before..]);
    }

    pub(super) fn drain(&mut self, n: usize, begins: bool) {
        let devices: Vec<_> =
            self.gates.keys().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let Some(device) = Self::pick(&devices, n) else { return };
        let mut out = Vec::new();
        match begins {
            true => self.broker.drain(device, "an eject".to_owned(), &mut out),
            false => self.broker.undrain(device, &mut out),
        }
        self.carry_out(out);
    }
}
