//! The latest of everything, kept so that a bus that comes back gets all of it.

use std::collections::BTreeMap;

use dmashare_proto::{ClientId, DeviceId};

use crate::view::{BusUpdate, ClientView, DeviceView, InhibitorView, JobView};

/// What is to be seen on the bus.
pub(super) struct State {
    pub(super) devices: BTreeMap<DeviceId, DeviceView>,
    pub(super) clients: BTreeMap<ClientId, ClientView>,
    pub(super) jobs: BTreeMap<u64, JobView>,
    pub(super) reports: String,
    /// Neutral buffers, and their bytes.
    pub(super) neutral: (u32, u64),
    pub(super) inhibitors: Vec<InhibitorView>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            devices: BTreeMap::new(),
            clients: BTreeMap::new(),
            jobs: BTreeMap::new(),
            reports: "[]".to_owned(),
            neutral: (0, 0),
            inhibitors: Vec::new(),
        }
    }
}

impl State {
    /// Takes an update in. Signals leave nothing behind.
    pub(super) fn apply(&mut self, update: &BusUpdate) {
        match update {
            BusUpdate::Device(view) => {
                self.devices.insert(view.id, view.clone());
            }
            BusUpdate::DeviceGone(id) => {
                self.devices.remove(id);
            }
            BusUpdate::Client(view) => {
                self.clients.insert(view.id, view.clone());
            }
            BusUpdate::ClientGone(id) => {
                self.clients.remove(id);
            }
            BusUpdate::Job(view) => {
                self.jobs.insert(view.id, (**view).clone());
            }
            BusUpdate::JobGone(id) => {
                self.jobs.remove(id);
            }
            BusUpdate::Reports(reports) => self.reports.clone_from(reports),
            BusUpdate::Neutral { buffers, bytes } => self.neutral = (*buffers, *bytes),
            BusUpdate::Inhibitors(inhibitors) => self.inhibitors.clone_from(inhibitors),
            BusUpdate::Lost { .. }
            | BusUpdate::Wedged { .. }
            | BusUpdate::RemovalRequested { .. } => {}
        }
    }
}
