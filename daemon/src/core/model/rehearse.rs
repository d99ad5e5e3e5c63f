//! Rehearsals for one client.

use super::*;

impl Model {
    /// Rehearses a loss for one client: it is told, and others lose nothing.
    pub(super) fn rehearse_for(&mut self, n: usize, m: usize, guards_fail: bool) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let mut devices: Vec<_> = self.gates.keys().copied().collect();
        devices.sort_unstable();
        let Some(device) = Self::pick(&devices, m) else { return };
        let mut guards = IdMap::default();
        if !guards_fail {
            for fence in self.broker.plan_rehearsal(device, client) {
                let guard = (Counted::new(&self.open), Counted::new(&self.open));
                guards.insert(fence, guard);
            }
        }
        let (holders, others) = (self.holders(), self.of_others(client));
        let imports = self.broker.imports.values();
        let imports = imports.filter(|it| it.client == client && it.device == Some(device)).count();
        let knew = self.named(client, device);
        let mut out = Vec::new();
        let result = self.broker.rehearse_for(self.now_ns, 0, device, client, guards, &mut out);
        let Ok(done) = result else {
            assert!(self.gates[&device].is_lost() && out.is_empty());
            return;
        };
        self.fresh(done.epoch.0);
        self.fresh(done.comes_as.0);
        self.privacy.belongs(done.epoch.0, client);
        self.privacy.belongs(done.comes_as.0, client);
        assert_eq!((done.lost, self.named(client, device)), (knew, done.comes_as));
        for effect in &out {
            let Effect::EndRehearsed { fences, timelines, guards } = effect else { continue };
            for of in fences.iter().chain(timelines).filter_map(|of| holders.get(of)) {
                assert!(of.iter().all(|(other, _)| *other == client), "another one's ended");
            }
            for of in guards.iter().filter_map(|(fence, _)| holders.get(fence)) {
                let mut others = of.iter().filter(|(other, _)| *other != client);
                assert!(others.all(|(_, shares)| *shares), "another importer's guard ended");
            }
        }
        let sent = self.carry_out(out);
        assert_eq!(self.of_others(client), others, "others have what they had");
        assert!(sent.iter().all(|(to, _)| *to == client), "others were told");
        let told = sent.iter().find_map(|(_, message)| match message {
            Outgoing::Event(Event::DeviceLost(lost)) => Some(lost),
            _ => None,
        });
        let told = told.expect("the client is told");
        assert_eq!((told.device, told.cause), (knew, Cause::Rehearsed));
        assert_eq!(told.imports as usize, imports);
        let is_gone = self.told_gone.contains(&(client, knew));
        assert_eq!(is_gone, imports == 0, "what is not awaited is gone");
        assert!(self.known.contains(&(client, done.comes_as)), "it comes back");
    }
}
