//! What can happen: every operation is listed here, with how often it is tried and who does it.

use super::*;

/// Numbers choose among what is there at that moment.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Connect,
    Disconnect(usize),
    Plug(u8),
    /// The reactor closes a gate; the core hears of it later.
    CloseGate(usize),
    /// The core hears of it.
    Lose(usize),
    /// A driver says that its device hangs, and whether it has recovered.
    Wedge(usize, bool),
    Export(usize, u8, u8),
    Grant(usize, usize, u32),
    Import(usize, usize),
    Share(usize, u8, u8),
    ImportFence(usize, usize),
    EndFence(usize, bool),
    Query(usize, usize),
    Release(usize, usize),
    ReleaseForeign(usize, usize),
    Acknowledge(usize, usize),
    Tick(u64),
    Timeline(usize, u8, u8),
    ImportTimeline(usize, usize),
    Promise(usize, usize, u64),
    Submit(usize, usize, u64, u8),
    Point(usize, usize, u64, bool),
    Attach(usize, usize, usize),
    /// The reactor loses a device that is there, and the core hears of it later.
    Rehearse(usize),
    RehearseFor(usize, usize, bool),
    /// A client, how large, how its memory comes: at once, later, or not at all.
    Allocate(usize, u32, u8),
    /// Memory that was to come later comes.
    Allocated(usize, bool),
    Declare(usize, usize, bool),
    Inhibit(usize, usize, u8),
    /// A program on the bus takes an inhibitor, or closes one.
    InhibitByBus(usize, u8),
    /// An eject of a device begins, or is given up.
    Drain(usize, bool),
    /// The service is killed and started.
    Restart,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let n = 0..64_usize;
    let small = 0..3_u8;
    prop_oneof![
        2 => Just(Op::Connect),
        1 => n.clone().prop_map(Op::Disconnect),
        2 => small.clone().prop_map(Op::Plug),
        1 => n.clone().prop_map(Op::CloseGate),
        1 => n.clone().prop_map(Op::Lose),
        1 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::Wedge(a, b)),
        6 => (n.clone(), small.clone(), 1..5_u8).prop_map(|(a, b, c)| Op::Export(a, b, c)),
        6 => (n.clone(), n.clone(), 1..3_u32).prop_map(|(a, b, c)| Op::Grant(a, b, c)),
        6 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Import(a, b)),
        6 => (n.clone(), small.clone(), 0..4_u8).prop_map(|(a, b, c)| Op::Share(a, b, c)),
        6 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::ImportFence(a, b)),
        4 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::EndFence(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Query(a, b)),
        4 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Release(a, b)),
        1 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::ReleaseForeign(a, b)),
        3 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::Acknowledge(a, b)),
        2 => (1..3_000_000_000_u64).prop_map(Op::Tick),
        4 => (n.clone(), small.clone(), 0..6_u8).prop_map(|(a, b, c)| Op::Timeline(a, b, c)),
        4 => (n.clone(), n.clone()).prop_map(|(a, b)| Op::ImportTimeline(a, b)),
        4 => (n.clone(), n.clone(), 0..12_u64).prop_map(|(a, b, c)| Op::Promise(a, b, c)),
        8 => (n.clone(), n.clone(), 0..12_u64, 0..4_u8)
            .prop_map(|(a, b, c, d)| Op::Submit(a, b, c, d)),
        6 => (n.clone(), n.clone(), 0..14_u64, any::<bool>())
            .prop_map(|(a, b, c, d)| Op::Point(a, b, c, d)),
        2 => (n.clone(), n.clone(), n.clone()).prop_map(|(a, b, c)| Op::Attach(a, b, c)),
        1 => n.clone().prop_map(Op::Rehearse),
        3 => (n.clone(), n.clone(), any::<bool>()).prop_map(|(a, b, c)| Op::RehearseFor(a, b, c)),
        4 => (n.clone(), 1..1500_u32, 0..4_u8).prop_map(|(a, b, c)| Op::Allocate(a, b, c)),
        3 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::Allocated(a, b)),
        1 => (n.clone(), n.clone(), any::<bool>()).prop_map(|(a, b, c)| Op::Declare(a, b, c)),
        2 => (n.clone(), n.clone(), 0..4_u8).prop_map(|(a, b, c)| Op::Inhibit(a, b, c)),
        1 => (n.clone(), 0..4_u8).prop_map(|(a, b)| Op::InhibitByBus(a, b)),
        1 => (n.clone(), any::<bool>()).prop_map(|(a, b)| Op::Drain(a, b)),
        1 => Just(Op::Restart),
    ]
}

impl Model {
    pub(super) fn apply(&mut self, op: Op) {
        self.now_ns += 1;
        match op {
            Op::Connect => self.connect(),
            Op::Disconnect(n) => self.disconnect(n),
            Op::Plug(card) => self.plug(card),
            Op::CloseGate(n) => self.close_gate(n),
            Op::Lose(n) => self.lose(n),
            Op::Wedge(n, has_recovered) => self.wedge(n, has_recovered),
            Op::Export(n, card, planes) => self.export(n, card, planes),
            Op::Grant(n, m, uses) => self.grant(n, m, uses),
            Op::Import(n, m) => self.import(n, m),
            Op::Share(n, card, how) => self.share(n, card, how),
            Op::ImportFence(n, m) => self.import_fence(n, m),
            Op::EndFence(n, ok) => self.end_fence(n, ok),
            Op::Query(n, m) => self.query(n, m),
            Op::Release(n, m) => self.release(n, m),
            Op::ReleaseForeign(n, m) => self.release_foreign(n, m),
            Op::Acknowledge(n, m) => self.acknowledge(n, m),
            Op::Timeline(n, card, how) => self.create_timeline(n, card, how),
            Op::ImportTimeline(n, m) => self.import_timeline(n, m),
            Op::Promise(n, m, point) => self.promise(n, m, point),
            Op::Submit(n, m, point, card) => self.submit(n, m, point, card),
            Op::Point(n, m, point, wait) => self.ask_point(n, m, point, wait),
            Op::Attach(n, m, k) => self.attach(n, m, k),
            Op::Rehearse(n) => self.rehearse(n),
            Op::RehearseFor(n, m, guards_fail) => self.rehearse_for(n, m, guards_fail),
            Op::Allocate(n, height, how) => self.allocate(n, height, how),
            Op::Allocated(n, ok) => self.memory_comes(n, ok),
            Op::Declare(n, m, survives) => self.declare(n, m, survives),
            Op::Inhibit(n, m, how) => self.inhibit(n, m, how),
            Op::InhibitByBus(n, how) => self.inhibit_by_bus(n, how),
            Op::Drain(n, begins) => self.drain(n, begins),
            Op::Restart => self.restart(),
            Op::Tick(by) => self.tick(by),
        }
    }
}
