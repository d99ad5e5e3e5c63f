//! The core under random operations, with its invariants checked after every one.
//!
//! - `ops` lists the operations; each is done by the file of its subject.
//! - `effects` carries out what the core answers, as the shell and the reactor would; `picture` is
//!   what these and the clients know by then.
//! - `invariants` lists what must be true after every operation, and of what nothing is left in the end;
//!   `privacy` is its part that says what clients see of each other.
//!
//! `DMASHARE_MODEL_OPERATIONS` is how many operations are tried (300,000 if it is not set), in sequences of
//! up to 300.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use dmashare_proto::message::{Cause, Event, FenceState, GuardKind, PointState, Reply};
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Token};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::gate::Gate;
use crate::view::Counts;

mod buffers;
mod clients;
mod devices;
mod effects;
mod fences;
mod invariants;
mod neutral;
mod ops;
mod picture;
mod privacy;
mod rehearsals;
mod rehearse;
mod restarts;
mod seeds;
mod timelines;

use ops::{Op, op};

/// A descriptor that counts itself.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(open: &Rc<Cell<usize>>) -> Rc<Self> {
        open.set(open.get() + 1);
        Rc::new(Self(Rc::clone(open)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct Fake;

impl Handles for Fake {
    type Fd = Rc<Counted>;
    type Ender = Rc<Counted>;
    type Line = Rc<Counted>;
}

/// What the shell and the clients know, to hold the core against.
struct Model {
    broker: Broker<Fake>,
    now_ns: u64,
    open: Rc<Cell<usize>>,
    request: u64,
    clients: Vec<ClientId>,
    gates: HashMap<DeviceId, std::sync::Arc<Gate>>,
    closed: Vec<DeviceId>,
    /// The fake reactor's table.
    watched: HashMap<ObjectId, (DeviceId, Option<Rc<Counted>>)>,
    tokens: Vec<Token>,
    next_token: u128,
    /// By the clients' own names of devices: what each was told is lost, and is gone; and knows.
    told: BTreeSet<(ClientId, DeviceId)>,
    told_gone: BTreeSet<(ClientId, DeviceId)>,
    known: BTreeSet<(ClientId, DeviceId)>,
    rehearsed: BTreeSet<DeviceId>,
    gone: BTreeSet<DeviceId>,
    ids: BTreeSet<u64>,
    replies: HashMap<u64, usize>,
    /// Fences that were shared by policy `pass`, and their tokens.
    passed_fences: BTreeSet<ObjectId>,
    passed: HashSet<Token>,
    /// What was failed while somebody could see it, and whose it was.
    failed: HashMap<ObjectId, (u32, Ended)>,
    /// The fake reactor's timelines.
    lines: HashMap<ObjectId, Rc<Counted>>,
    /// Waits that are not answered, and whose they are.
    waits: HashMap<u64, ClientId>,
    asked_to_wait: HashSet<u64>,
    /// Memory that is being made.
    allocations: Vec<Allocation>,
    /// Held by programs on the bus.
    held: Vec<ObjectId>,
    /// What devices have that are about to be ejected.
    draining: BTreeMap<DeviceId, Counts>,
    keeper: restarts::Keeper,
    privacy: privacy::Privacy,
}

impl Model {
    fn new() -> Self {
        Self::beginning_at(privacy::FIRST_ID)
    }

    /// With other ids than those by which privacy is seen.
    fn beginning_at(first_id: u64) -> Self {
        let open = Rc::new(Cell::new(0));
        let limits = Limits {
            quotas: accounts::check::quotas(),
            waits_per_client: 4,
            deadline_ns: 1_000_000_000,
            max_deadline_ns: 10_000_000_000,
            max_deadline_by: "the model".to_owned(),
            ack_timeout_ns: 2_000_000_000,
        };
        let page = Counted::new(&open);
        let mut broker =
            Broker::new(limits, IdSource::new(first_id), [7; 16], GuardKind::Simulated, page);
        broker.first_reservation();
        broker.keep();
        Self {
            broker,
            now_ns: 1,
            open,
            request: 0,
            clients: Vec::new(),
            gates: HashMap::new(),
            closed: Vec::new(),
            watched: HashMap::new(),
            tokens: Vec::new(),
            next_token: 1,
            told: BTreeSet::new(),
            told_gone: BTreeSet::new(),
            known: BTreeSet::new(),
            rehearsed: BTreeSet::new(),
            gone: BTreeSet::new(),
            ids: BTreeSet::new(),
            replies: HashMap::new(),
            passed_fences: BTreeSet::new(),
            passed: HashSet::new(),
            failed: HashMap::new(),
            lines: HashMap::new(),
            waits: HashMap::new(),
            asked_to_wait: HashSet::new(),
            allocations: Vec::new(),
            held: Vec::new(),
            draining: BTreeMap::new(),
            keeper: restarts::Keeper::default(),
            privacy: privacy::Privacy::default(),
        }
    }

    fn pick<T: Copy>(from: &[T], n: usize) -> Option<T> {
        (!from.is_empty()).then(|| from[n % from.len()])
    }

    fn fresh(&mut self, id: u64) {
        assert!(self.ids.insert(id), "I7: id {id} was given out twice");
    }
}

/// Operations that are tried where nobody asks for another number.
const OPERATIONS: usize = 300_000;
/// Sequences between two looks at how many operations there were.
const SEQUENCES: u32 = 50;

/// How many operations are to be tried: [`OPERATIONS`], or what `DMASHARE_MODEL_OPERATIONS` says.
fn wanted() -> usize {
    match std::env::var("DMASHARE_MODEL_OPERATIONS") {
        Ok(number) => number.parse().expect("DMASHARE_MODEL_OPERATIONS is a number"),
        Err(_) => OPERATIONS,
    }
}

#[test]
fn invariants_hold_after_every_operation() {
    let config =
        ProptestConfig { cases: SEQUENCES, failure_persistence: None, ..ProptestConfig::default() };
    let done = Cell::new(0);
    while done.get() < wanted() {
        // One runner runs once.
        let result =
            TestRunner::new(config.clone()).run(&proptest::collection::vec(op(), 1..300), |ops| {
                let mut model = Model::new();
                for op in ops {
                    model.apply(op);
                    model.keep();
                    model.check();
                    done.set(done.get() + 1);
                }
                model.nothing_is_left();
                Ok(())
            });
        if let Err(error) = result {
            panic!("{error}");
        }
    }
}

/// A card goes, comes again, and is rehearsed; of both losses nothing is noted but that everybody was told, when
/// the service is killed (found by the random operations, once in some millions).
#[test]
fn a_card_that_came_again_and_is_rehearsed_comes_back() {
    let mut model = Model::new();
    for op in [
        Op::Connect,
        Op::Plug(0),
        Op::Connect,
        Op::Connect,
        Op::Export(44, 0, 1),
        Op::Import(0, 0),
        Op::Connect,
        Op::CloseGate(0),
        Op::Plug(0),
        Op::Rehearse(0),
        Op::Lose(14),
        Op::Lose(7),
    ] {
        model.apply(op);
        model.keep();
        model.check();
    }
    model.nothing_is_left();
}
