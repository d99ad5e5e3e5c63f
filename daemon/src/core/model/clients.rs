//! Clients come, go, and let time pass.

use dmashare_proto::message::Hello;

use super::*;

impl Model {
    pub(super) fn connect(&mut self) {
        let uid = u32::try_from(self.clients.len() % 2).unwrap();
        let creds = Credentials { pid: 1, uid, unit: String::new() };
        let mut out = Vec::new();
        let result = self.broker.connect(creds, &mut out);
        self.carry_out(out);
        if let Ok(client) = result {
            self.fresh(client.0);
            let hello =
                Hello { version_min: 1, version_max: 1, features: 0, name: "model".to_owned() };
            let reply = self.ask(client, Checked::Hello(hello));
            assert!(matches!(reply, Reply::Welcome(_)));
            self.clients.push(client);
            self.ask(client, Checked::ListDevices);
        }
    }

    pub(super) fn disconnect(&mut self, n: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        self.clients.retain(|other| *other != client);
        // Some of what it has goes before it does.
        let mut out = Vec::new();
        self.broker.let_go_of_some(client, 2, &mut out);
        self.carry_out(out);
        let mut out = Vec::new();
        self.broker.disconnect(client, &mut out);
        self.carry_out(out);
    }

    pub(super) fn acknowledge(&mut self, n: usize, m: usize) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        // What it was told of, and an id that it may never have heard of.
        let lost = self.told.iter().filter(|(of, _)| *of == client).map(|(_, id)| *id);
        let alive = self.gates.keys().copied().filter(|_| m.is_multiple_of(4));
        let mut devices: Vec<_> = lost.chain(alive).collect();
        devices.sort_unstable();
        let Some(device) = Self::pick(&devices, devices.len().wrapping_sub(1 + m % 8)) else {
            return;
        };
        let reply = self.ask(client, Checked::Acknowledge(device));
        let was_told = self.told.contains(&(client, device));
        let is_done = reply == Reply::Done(());
        let named = self.broker.reports.len() < REPORTS;
        assert!(!was_told || is_done || !named, "{client} acknowledges {device}: {reply:?}");
    }

    pub(super) fn tick(&mut self, by: u64) {
        self.now_ns += by;
        let mut out = Vec::new();
        self.broker.tick(self.now_ns, &mut out);
        let late: Vec<_> = out
            .iter()
            .filter_map(|effect| match effect {
                Effect::Overdue { client, .. } => Some(*client),
                _ => None,
            })
            .collect();
        self.carry_out(out);
        // The policy `disconnect`.
        for client in late {
            self.clients.retain(|other| *other != client);
            let mut out = Vec::new();
            self.broker.disconnect(client, &mut out);
            self.carry_out(out);
        }
    }
}
