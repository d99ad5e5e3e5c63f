//! What belongs to no device: neutral buffers, what clients say of themselves, inhibitors.

use dmashare_proto::message::{Allocate, Declare, Inhibit, InhibitMode, LossPolicy};

use super::*;
use crate::core::buffers::{Buffer, Cost};

/// How many descriptors a buffer holds: the planes of a neutral one are one dma-buf.
pub(super) fn descriptors<F>(buffer: &Buffer<F>) -> usize {
    if buffer.device.is_none() { 1 } else { buffer.planes.len() }
}

impl Model {
    /// Asks for one. The memory comes at once, or with a later operation.
    pub(super) fn allocate(&mut self, n: usize, height: u32, how: u8) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let format = if how.is_multiple_of(2) { *b"XR24" } else { *b"NV12" };
        let wanted = Allocate { width: 250, height, fourcc: u32::from_le_bytes(format) };
        self.request += 1;
        let id = self.request;
        let before = self.allocations.len();
        let mut out = Vec::new();
        self.broker.request(self.now_ns, client, id, Checked::Allocate(wanted), &mut out);
        self.carry_out(out);
        let is_planned = self.allocations.len() > before;
        let is_answered = self.replies.contains_key(&id);
        assert_ne!(is_planned, is_answered, "it is under way, or refused");
        if is_planned && how < 2 {
            self.memory_comes(before, how == 0);
        }
    }

    pub(super) fn memory_comes(&mut self, n: usize, ok: bool) {
        if self.allocations.is_empty() {
            return;
        }
        let allocation = self.allocations.remove(n % self.allocations.len());
        let (client, id, size) = (allocation.client, allocation.id, allocation.size);
        let made = if ok {
            let fd = Counted::new(&self.open);
            Ok((CheckedPlane { fd, inode: id, size, exporter: "model".to_owned() }, false))
        } else {
            Err(WireError::new(ErrorCode::INTERNAL, "no memory"))
        };
        let mut out = Vec::new();
        self.broker.allocated(allocation, made, &mut out);
        self.carry_out(out);
        let answers = usize::from(self.clients.contains(&client));
        assert_eq!(self.replies.get(&id).copied().unwrap_or(0), answers, "who is there is told");
    }

    pub(super) fn declare(&mut self, n: usize, m: usize, survives: bool) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let on_loss = LossPolicy::ALL[m % LossPolicy::ALL.len()];
        let declare = Declare { on_loss, survives };
        assert_eq!(self.ask(client, Checked::Declare(declare)), Reply::Done(()));
        assert_eq!(self.broker.client_view(client).unwrap().declared, declare);
    }

    fn inhibition(&self, m: usize, how: u8) -> Inhibit {
        let mut devices: Vec<_> = self.gates.keys().copied().collect();
        devices.sort_unstable();
        let device = if how == 0 { None } else { Self::pick(&devices, m) };
        let mode = if how == 1 { InhibitMode::Delay } else { InhibitMode::Block };
        let why = if how == 3 { String::new() } else { "the model".to_owned() };
        Inhibit { device, mode, why }
    }

    pub(super) fn inhibit(&mut self, n: usize, m: usize, how: u8) {
        let Some(client) = Self::pick(&self.clients, n) else { return };
        let inhibit = self.inhibition(m, how);
        // As the client knows it.
        let device = inhibit.device.map(|device| self.named(client, device));
        let reply = self.ask(client, Checked::Inhibit(Inhibit { device, ..inhibit.clone() }));
        match reply {
            Reply::Inhibited(id) => {
                assert_ne!(how, 3, "one says why");
                let mut views = self.broker.inhibitor_views().into_iter();
                let view = views.find(|view| view.id == id).expect("it is shown");
                assert_eq!((view.device, view.mode), (inhibit.device, inhibit.mode));
            }
            Reply::Error(_) => {}
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn inhibit_by_bus(&mut self, n: usize, how: u8) {
        if how == 0 {
            if !self.held.is_empty() {
                let id = self.held.remove(n % self.held.len());
                self.broker.inhibitor_released(id);
            }
            return;
        }
        let inhibit = self.inhibition(n, how);
        let creds = Credentials { pid: 2, uid: 5, unit: String::new() };
        let mut out = Vec::new();
        let taken = self.broker.inhibit_by_bus(creds, "bus".to_owned(), inhibit, &mut out);
        self.carry_out(out);
        if let Ok(id) = taken {
            self.fresh(id.0);
            self.held.push(id);
        }
        assert!(self.held.len() <= 64, "I8: inhibitors of a user on the bus");
    }

    /// Nothing is kept for nobody.
    pub(super) fn check_neutral(&self) {
        let broker = &self.broker;
        for buffer in broker.buffers.values() {
            let is_used = buffer.exporter.is_some() || !buffer.imports.is_empty();
            assert!(is_used, "a buffer is kept for nobody");
            if let Cost::Neutral([bytes, _]) = &buffer.cost {
                assert_eq!(bytes.of().1, buffer.planes[0].size, "its bytes are its user's");
            }
        }
        let mine = broker.clients.values().flat_map(|client| client.objects.values());
        let mine = mine.filter(|what| matches!(what, Owned::Inhibitor)).count();
        assert_eq!(broker.inhibitors.len(), mine + self.held.len(), "I1 inhibitors");
    }

    /// Everyone has left, and every card was pulled.
    pub(super) fn nothing_neutral_is_left(&mut self) {
        while !self.allocations.is_empty() {
            self.memory_comes(0, true);
        }
        for id in std::mem::take(&mut self.held) {
            self.broker.inhibitor_released(id);
        }
        self.check_neutral();
        super::super::accounts::check::settled(&self.broker);
        assert!(self.broker.inhibitors.is_empty());
    }
}
