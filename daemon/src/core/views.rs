//! Snapshots for the bus, of what has changed since the last ones were taken.

use dmashare_proto::report::UnplugReport;
use dmashare_proto::{ClientId, DeviceId, ObjectId};

use super::{Broker, Handles, Kind, Owned};
use crate::view::{BusUpdate, ClientView, Counts, DeviceView};

impl<H: Handles> Broker<H> {
    /// Whether there is anything for [`Self::take_updates`].
    #[must_use]
    pub fn has_updates(&self) -> bool {
        !self.dirty_devices.is_empty()
            || !self.dirty_clients.is_empty()
            || self.reports_dirty
            || self.neutral_dirty
            || self.inhibitors_dirty
    }

    /// Snapshots of what has changed.
    pub fn take_updates(&mut self) -> Vec<BusUpdate> {
        let mut updates = Vec::new();
        if std::mem::take(&mut self.reports_dirty) {
            let reports = serde_json::to_string(&self.reports).unwrap_or_default();
            updates.push(BusUpdate::Reports(reports));
        }
        if std::mem::take(&mut self.neutral_dirty) {
            let buffers = self.buffers.values().filter(|buffer| buffer.device.is_none()).count();
            updates.push(BusUpdate::Neutral {
                buffers: u32::try_from(buffers).unwrap_or(u32::MAX),
                bytes: self.accounts.all().used(Kind::Memory),
            });
        }
        if std::mem::take(&mut self.inhibitors_dirty) {
            updates.push(BusUpdate::Inhibitors(self.inhibitor_views()));
        }
        for id in std::mem::take(&mut self.dirty_devices) {
            updates.push(match self.device_view(id) {
                Some(view) => BusUpdate::Device(view),
                None => BusUpdate::DeviceGone(id),
            });
        }
        for id in std::mem::take(&mut self.dirty_clients) {
            match self.client_view(id) {
                Some(view) => updates.push(BusUpdate::Client(view)),
                None => updates.push(BusUpdate::ClientGone(id)),
            }
        }
        updates
    }

    /// One device as the bus shows it.
    #[must_use]
    pub fn device_view(&self, id: DeviceId) -> Option<DeviceView> {
        let device = self.devices.get(&id).filter(|device| device.only_for.is_none())?;
        let report = self.reports.iter().rev().find(|report| report.epoch() == id);
        Some(DeviceView {
            id,
            name: device.desc.name.clone(),
            pci: device.desc.pci.clone(),
            driver: device.desc.driver.clone(),
            nodes: device.desc.nodes.iter().map(|node| node.devname.clone()).collect(),
            removable: device.desc.removable,
            removable_reason: device.desc.removable_reason.clone(),
            state: device.state(),
            slot: device.slot,
            counts: device.gate.counts(),
            implicit_fences: report.map_or(0, |report| {
                let pending = report.implicit.iter().filter(|it| it.ended_ns.is_none());
                u32::try_from(pending.count()).unwrap_or(u32::MAX)
            }),
            cause: device.lost,
            wedged: device.wedged.clone(),
            report: report
                .and_then(|report| serde_json::to_string(report).ok())
                .unwrap_or_default(),
        })
    }

    /// One client as the bus shows it.
    #[must_use]
    pub fn client_view(&self, id: ClientId) -> Option<ClientView> {
        let client = self.clients.get(&id)?;
        let mut counts = Counts::default();
        let pending = |fence: Option<&ObjectId>| {
            let fence = fence.and_then(|fence| self.fences.get(fence));
            u32::from(fence.is_some_and(|fence| fence.pending.is_some()))
        };
        for (object, what) in &client.objects {
            match what {
                Owned::Buffer => counts.buffers += 1,
                Owned::Import => counts.imports += 1,
                Owned::Fence => counts.fences += pending(Some(object)),
                Owned::FenceImport => counts.fences += pending(self.fence_imports.get(object)),
                Owned::Timeline | Owned::TimelineImport => counts.timelines += 1,
                Owned::Inhibitor | Owned::Lost(_) => {}
            }
        }
        Some(ClientView {
            id,
            pid: client.creds.pid,
            uid: client.creds.uid,
            name: client.name.clone(),
            unit: client.creds.unit.clone(),
            declared: client.declared,
            counts,
        })
    }

    /// All clients as the bus shows them.
    #[must_use]
    pub fn client_views(&self) -> Vec<ClientView> {
        self.clients.keys().filter_map(|&id| self.client_view(id)).collect()
    }

    /// The kept reports, oldest first.
    pub fn reports(&self) -> impl Iterator<Item = &UnplugReport> {
        self.reports.iter()
    }
}
