//! Lives of the service after each other: what was kept of one is all that the next one has.

use super::*;
use crate::core::{Kept, RecordKind, Records};

/// A keeper.
#[derive(Default)]
pub(super) struct Keeper {
    records: Records<Rc<Counted>>,
}

impl Keeper {
    pub(super) fn records(&self) -> &Records<Rc<Counted>> {
        &self.records
    }

    fn take_in(&mut self, record: crate::core::Record<Rc<Counted>>) {
        let key = (record.kind, record.id, record.at);
        match record.kept {
            None => drop(self.records.remove(&key)),
            Some(Kept { bytes, fds }) => {
                let kept = self.records.entry(key).or_default();
                kept.0 = bytes;
                if let Some(fds) = fds {
                    kept.1 = fds;
                }
            }
        }
    }
}

impl Model {
    /// What has changed goes to the keeper.
    pub(super) fn keep(&mut self) {
        for record in self.broker.take_records() {
            self.keeper.take_in(record);
        }
    }

    /// The service is killed and started.
    pub(super) fn restart(&mut self) {
        self.keep();
        let records = self.keeper.records.clone();
        let words: HashMap<u32, u32> = (0..dmashare_proto::state_page::SLOTS)
            .map(|slot| (slot, self.broker.slots.generation(slot)))
            .collect();
        let objects = |broker: &Broker<Fake>| {
            let clients = broker.clients.iter().map(|(id, client)| {
                let objects: BTreeMap<_, _> = client.objects.iter().collect();
                let used = crate::core::accounts::Kind::ALL.map(|kind| client.account.used(kind));
                format!("{id} {:?} {:?} {objects:?}", client.creds, used[3])
            });
            let devices = broker.devices.iter().map(|(id, device)| {
                let (counts, lost) = (device.gate.counts(), device.lost);
                format!("{id} {:?} {counts:?} {lost:?} {}", device.desc, device.gate.is_lost())
            });
            clients.chain(devices).collect::<Vec<_>>()
        };
        // What the reactor did, and the core had not heard of, is found out again.
        let closed = std::mem::take(&mut self.closed);
        let kept = objects(&self.broker);
        let next = self.broker.next_id();
        let restored = Broker::restore(
            self.broker.limits.clone(),
            IdSource::new(next),
            GuardKind::Simulated,
            self.broker.state_page.clone(),
            |slot| words.get(&slot).copied().unwrap_or(0),
            records,
        );
        // Requests that were open are made again by whoever has them.
        self.waits.clear();
        self.allocations.clear();
        self.broker = restored.expect("what was kept can be read");
        self.broker.keep_on();
        self.broker.first_reservation();
        for (&id, device) in &self.broker.devices {
            if device.only_for.is_none() {
                self.gates.insert(id, std::sync::Arc::clone(&device.gate));
            }
        }
        let mut out = Vec::new();
        for id in closed {
            self.gates[&id].lose();
            self.closed.push(id);
        }
        let again = objects(&self.broker);
        assert_eq!(
            kept.iter().map(|it| it.replace(" true", "").replace(" false", "")).collect::<Vec<_>>(),
            again
                .iter()
                .map(|it| it.replace(" true", "").replace(" false", ""))
                .collect::<Vec<_>>(),
            "everybody has what they had"
        );
        let pending: BTreeSet<_> = self.broker.rewatch().iter().map(|it| it.fence).collect();
        assert!(pending.iter().all(|it| self.broker.fences[it].pending.is_some()));
        assert_eq!(self.broker.reline().len(), self.lines.len(), "as many timelines");
        self.broker.finish_losses(&mut out);
        self.broker.rearm(&mut out);
        self.carry_out(out);
        self.keep();
    }

    /// Nothing but memories is kept, when nobody is there any more.
    pub(super) fn nothing_is_kept(&mut self) {
        self.keep();
        let left: Vec<_> = self.keeper.records.keys().map(|(kind, ..)| *kind).collect();
        let memories = [RecordKind::Broker, RecordKind::Report, RecordKind::Cause];
        assert!(left.iter().all(|kind| memories.contains(kind)), "kept for nobody: {left:?}");
    }
}
