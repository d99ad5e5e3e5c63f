//! What must be true after every operation: all of it is listed in [`Model::check`].

use super::*;

/// Minors that cards are plugged in at.
const CARDS: usize = 3;

impl Model {
    pub(super) fn check(&mut self) {
        self.check_activity();
        self.check_causes();
        self.check_draining();
        self.check_neutral();
        self.check_losses();
        self.check_tables();
        assert_eq!(self.broker.agree(), Ok(()), "a restart would forget all");
        self.check_privacy();
        // Who has left is not answered.
        let clients = &self.broker.clients;
        self.waits.retain(|_, client| clients.contains_key(client));
        let broker = &self.broker;
        for (id, device) in &broker.devices {
            let counts = device.gate.counts();
            let is_clear = counts.buffers + counts.fences + counts.timelines == 0;
            assert!(device.lost.is_none() || is_clear, "{id} is lost and has more than imports");
            let count = |n: usize| u32::try_from(n).unwrap();
            let buffers = broker.buffers.values().filter(|it| it.device == Some(*id)).count();
            let imports = broker.imports.values().filter(|it| it.device == Some(*id)).count();
            let fences = broker
                .fences
                .values()
                .filter(|it| it.at.device == *id && it.pending.is_some())
                .count();
            assert_eq!(counts.buffers, count(buffers), "I1 buffers of {id}");
            assert_eq!(counts.imports, count(imports), "I1 imports of {id}");
            assert_eq!(counts.fences, count(fences), "I1 fences of {id}");
            let timelines = broker
                .timelines
                .values()
                .filter(|it| it.at.device == *id && it.lost.is_none())
                .count();
            assert_eq!(counts.timelines, count(timelines), "I1 timelines of {id}");
            assert_eq!(device.timelines.len(), timelines);
            assert_eq!(device.buffers.len(), buffers);
            assert_eq!(device.imports.len(), imports);
            assert_eq!(device.fences.len(), fences);
            if device.lost.is_some() {
                assert_eq!(
                    counts.buffers + counts.fences + counts.timelines,
                    0,
                    "a lost device has only imports"
                );
                assert_ne!(counts.imports, 0, "a lost device with nothing is gone");
            }
        }
        for object in broker.tokens.usable() {
            let buffer = broker.buffers.get(&object);
            if buffer.is_some_and(|buffer| buffer.device.is_none()) {
                continue;
            }
            let device = buffer
                .and_then(|buffer| buffer.device)
                .or_else(|| broker.fences.get(&object).map(|fence| fence.at.device))
                .or_else(|| broker.timelines.get(&object).map(|it| it.at.device));
            let device = device.expect("a usable token is of something");
            let is_lost = broker.devices.get(&device).is_none_or(|it| it.lost.is_some());
            let is_ended = broker.fences.get(&object).is_some_and(|it| it.pending.is_none());
            assert!(!is_lost || is_ended, "a lost device has no usable token");
        }
        for fence in broker.fences.values() {
            assert!(
                !fence.handles.is_empty() || fence.pending.is_some(),
                "nothing is kept for nobody"
            );
        }
        // I5: descriptors in the tables, the fake reactor's, and the state page are all there is.
        let planes: usize = broker.buffers.values().map(neutral::descriptors).sum();
        let given = broker.fences.values().filter_map(|fence| fence.pending.as_ref());
        let given = given.filter(|pending| pending.fd.is_some()).count();
        let of_lines = 2 * broker.timelines.len() + self.lines.len();
        assert_eq!(
            self.lines.len(),
            broker.timelines.len(),
            "the reactor knows the same timelines"
        );
        let enders = self.watched.values().filter(|(_, ender)| ender.is_some()).count();
        assert_eq!(self.open.get(), 1 + planes + given + enders + of_lines, "I5: open descriptors");
        accounts::check::agree(broker, &self.allocations);
        for timeline in broker.timelines.values() {
            let pending = broker.fences.values().filter(|fence| fence.pending.is_some());
            let pending = pending.filter(|fence| {
                fence.point.is_some_and(|(of, _)| std::ptr::eq(&broker.timelines[&of], timeline))
            });
            assert_eq!(timeline.points.pending(), pending.count(), "a point a pending fence");
            assert!(
                timeline.maker.is_some()
                    || !timeline.importers.is_empty()
                    || timeline.points.pending() > 0,
                "a timeline is kept for nobody"
            );
        }
        for (client, known) in &broker.clients {
            let made = self.allocations.iter().filter(|it| it.client == *client).count();
            let waits = made + self.waits.values().filter(|of| *of == client).count();
            assert_eq!(known.waits, waits, "waits of {client}");
            assert!(waits <= 4, "I8: {client} waits too often");

            let handles = broker.fences.values().flat_map(|fence| &fence.handles);
            let objects = known.objects.values();
            assert_eq!(
                handles.filter(|(of, _)| of == client).count(),
                objects.filter(|it| matches!(it, Owned::Fence | Owned::FenceImport)).count(),
                "I1 fences of {client}"
            );
        }
    }

    /// Whatever has failed has a cause, which stays, and which nobody else is told.
    pub(super) fn check_causes(&mut self) {
        for known in self.broker.clients.values() {
            let uid = known.creds.uid;
            for (&object, what) in &known.objects {
                let fence = match what {
                    Owned::Fence => object,
                    Owned::FenceImport => self.broker.fence_imports[&object],
                    _ => continue,
                };
                let FenceState::Failed { cause, at_ns } = self.broker.fences[&fence].state else {
                    assert_eq!(self.broker.cause_of(0, object, 0), None, "{object} is well");
                    continue;
                };
                self.failed.insert(object, (uid, Ended { cause, at_ns }));
            }
        }
        for (&object, &(uid, ended)) in &self.failed {
            assert_eq!(self.broker.cause_of(uid, object, 0), Some(ended), "the cause of {object}");
            assert_eq!(self.broker.cause_of(0, object, 0), Some(ended), "root may ask");
            assert_eq!(self.broker.cause_of(7, object, 0), None, "a stranger");
        }
        assert!(self.broker.causes.len() <= 4096, "I8: causes");
    }

    /// What is about to be ejected gets nothing new; its fences run on.
    pub(super) fn check_draining(&mut self) {
        self.draining.retain(|device, had| {
            let Some(gate) = self.gates.get(device) else { return false };
            let has = gate.counts();
            let more = has.buffers > had.buffers
                || has.imports > had.imports
                || has.timelines > had.timelines;
            assert!(!more, "something new is made of {device}, which drains");
            *had = has;
            true
        });
    }

    /// Who watches sees each pending fence once, in the class of its age.
    pub(super) fn check_activity(&self) {
        for it in self.broker.activity(self.now_ns) {
            let counts = self.broker.devices[&DeviceId(it.device)].gate.counts();
            assert_eq!(it.ages.iter().sum::<u32>(), counts.fences, "ages of {}", it.device);
            assert!(it.oldest_ns < self.now_ns && it.fences >= counts.fences.into());
            assert!(it.buffers >= counts.buffers.into());
        }
    }

    /// Of a lost device nothing is left but imports, each of a client that was told and is awaited.
    fn check_losses(&self) {
        let broker = &self.broker;
        for (fence, known) in broker.fences.iter() {
            let is_watched = self.watched.contains_key(fence);
            let is_closed = self.gates.get(&known.at.device).is_none_or(|gate| gate.is_lost());
            match known.pending.is_some() {
                true => assert!(is_watched || is_closed, "nobody ends {fence}"),
                false => assert!(!is_watched, "{fence} has ended, and its guard is kept"),
            }
        }
        for (fence, (device, _)) in &self.watched {
            assert!(!self.gates[device].is_lost(), "the guard of {fence} outlived its device");
            assert!(broker.fences.contains_key(fence), "{fence} is watched for nobody");
        }
        for (id, import) in broker.imports.iter() {
            let Some(device) = import.device else { continue };
            let Some(known) = broker.devices.get(&device) else { panic!("{id} is of no device") };
            if known.lost.is_none() {
                continue;
            }
            // By its own name: for an epoch that is what it had lost.
            let told = (import.client, self.named(import.client, device));
            assert!(self.told.contains(&told), "{id} was lost, and its client is not told");
            assert!(known.ack_deadline_ns.is_some(), "nobody waits for {id}");
        }
    }

    /// Tables that are no object's own have a bound, or are empty between events.
    fn check_tables(&self) {
        let broker = &self.broker;
        assert!(broker.moved.is_empty(), "timelines are settled");
        assert!(broker.lost_nodes.len() <= CARDS, "I8: nodes of lost devices");
        assert!(broker.reports.len() <= REPORTS, "I8: reports");
        let present = broker.devices.values().filter(|it| !it.gate.is_lost()).count();
        assert!(broker.by_node.len() >= present && broker.by_node.len() <= CARDS, "nodes");
        assert!(broker.by_node.values().all(|id| broker.devices.contains_key(id)), "nodes");
        let mut tokens = HashMap::<ClientId, usize>::new();
        for owner in broker.tokens.owners() {
            *tokens.entry(owner).or_default() += 1;
        }
        for (client, known) in &broker.clients {
            let made = tokens.remove(client).unwrap_or(0);
            let used = known.account.used(accounts::Kind::Tokens);
            assert_eq!(used, made as u64, "I1 tokens of {client}");
        }
        assert!(tokens.is_empty(), "tokens of who has left");
    }

    /// Everyone leaves, every card is pulled: nothing is left. A table that is added to the core is to
    /// be named here.
    pub(super) fn nothing_is_left(&mut self) {
        while let Some(client) = self.clients.pop() {
            let mut out = Vec::new();
            self.broker.disconnect(client, &mut out);
            self.carry_out(out);
        }
        self.rehearsed.clear();
        while self.gates.values().any(|gate| !gate.is_lost()) {
            self.close_gate(0);
        }
        while !self.closed.is_empty() {
            self.lose(0);
        }
        self.nothing_neutral_is_left();
        self.nothing_is_kept();
        self.check();
        let Broker {
            // What it was made with.
            limits: _,
            ids: _,
            instance: _,
            backend: _,
            state_page: _,
            devices,
            by_node,
            // For who comes late: bounded, see above.
            lost_nodes: _,
            slots,
            clients,
            buffers,
            imports,
            fences,
            fence_imports,
            unused: _,
            timelines,
            timeline_imports,
            moved: _,
            // See there.
            accounts: _,
            inhibitors: _,
            tokens,
            // Rings.
            causes: _,
            reports: _,
            // For the bus, which takes them; of ids alone.
            dirty_devices: _,
            dirty_clients: _,
            reports_dirty: _,
            neutral_dirty: _,
            inhibitors_dirty: _,
            // Taken just now.
            notes: _,
        } = &self.broker;
        assert!(devices.is_empty() && by_node.is_empty() && slots.all_free(), "devices");
        assert!(clients.is_empty() && tokens.is_empty(), "clients");
        assert!(buffers.is_empty() && imports.is_empty(), "buffers");
        assert!(fences.is_empty() && fence_imports.is_empty(), "fences");
        assert!(timelines.is_empty() && timeline_imports.is_empty(), "timelines");
        assert!(self.watched.is_empty() && self.lines.is_empty(), "the reactor's tables");
        assert_eq!(self.open.get(), 1, "I5: the state page alone is open");
    }
}
