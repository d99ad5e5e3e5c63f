//! The machine's own picture: what the shell, the reactor and the clients know.

use super::*;

impl Model {
    /// A reply may name a device that its reader knows, and has not been told the loss of.
    pub(super) fn knows(&self, client: ClientId, device: DeviceId) {
        assert!(self.known.contains(&(client, device)), "{client} never heard of {device}");
        assert!(!self.told.contains(&(client, device)), "{client} was told that {device} is lost");
    }

    /// The client's name for a device.
    pub(super) fn named(&self, client: ClientId, device: DeviceId) -> DeviceId {
        let mut message = Outgoing::Event(Event::DeviceGone(device));
        self.broker.address(client, &mut message);
        match message {
            Outgoing::Event(Event::DeviceGone(named)) => named,
            _ => unreachable!("a message keeps its kind"),
        }
    }

    /// Clients, and whether they share it, by what a handle stands for.
    pub(super) fn holders(&self) -> HashMap<ObjectId, BTreeSet<(ClientId, bool)>> {
        let mut holders = HashMap::<_, BTreeSet<_>>::new();
        for (&client, known) in &self.broker.clients {
            for (object, what) in &known.objects {
                let (of, shares) = match what {
                    Owned::Fence | Owned::Timeline => (object, true),
                    Owned::FenceImport => (&self.broker.fence_imports[object], false),
                    Owned::TimelineImport => (&self.broker.timeline_imports[object], false),
                    Owned::Buffer | Owned::Import | Owned::Inhibitor | Owned::Lost(_) => continue,
                };
                holders.entry(*of).or_default().insert((client, shares));
            }
        }
        holders
    }

    /// All that the other clients have: their objects with how they stand.
    pub(super) fn of_others(&self, client: ClientId) -> String {
        let mut all = Vec::new();
        for (&other, known) in self.broker.clients.iter().filter(|(other, _)| **other != client) {
            for (&object, what) in &known.objects {
                let stands = match what {
                    Owned::Fence => format!("{:?}", self.broker.fences[&object].state),
                    Owned::FenceImport => {
                        let fence = self.broker.fence_imports[&object];
                        format!("{fence} {:?}", self.broker.fences[&fence].state)
                    }
                    Owned::Timeline => format!("{:?}", self.broker.timelines[&object].lost),
                    Owned::TimelineImport => {
                        let timeline = self.broker.timeline_imports[&object];
                        format!("{timeline} {:?}", self.broker.timelines[&timeline].lost)
                    }
                    Owned::Buffer => format!("{:?}", self.broker.buffers[&object].device),
                    Owned::Import => {
                        let import = &self.broker.imports[&object];
                        let buffer = self.broker.buffers.contains_key(&import.buffer);
                        format!("{:?} {buffer}", import.device)
                    }
                    Owned::Inhibitor | Owned::Lost(_) => String::new(),
                };
                all.push((other, object, format!("{what:?} {stands}")));
            }
        }
        all.sort();
        format!("{all:?}")
    }

    pub(super) fn objects_of(&self, client: ClientId) -> Vec<ObjectId> {
        let mut objects: Vec<_> = self.broker.clients[&client].objects.keys().copied().collect();
        objects.sort_unstable();
        objects
    }

    pub(super) fn timelines_of(&self, client: ClientId) -> Vec<ObjectId> {
        let objects = &self.broker.clients[&client].objects;
        let mut timelines: Vec<_> = objects
            .iter()
            .filter(|(_, what)| matches!(what, Owned::Timeline | Owned::TimelineImport))
            .map(|(&object, _)| object)
            .collect();
        timelines.sort_unstable();
        timelines
    }

    pub(super) fn uid(&self, client: ClientId) -> u32 {
        self.broker.clients[&client].creds.uid
    }
}
