//! The door of the fuzz target `snapshot`: records, as a former life of the service may or may never have
//! left them. They are refused with a reason, or the broker that is made of them holds together, can be
//! kept and restored again, and ends with nothing left.

use std::cell::Cell;
use std::rc::Rc;

use dmashare_proto::message::{Cause, GuardKind};

use super::accounts::{Quotas, check};
use super::{Broker, Effects, Handles, IdSource, Kept, Limits, RecordKind, Records, Sweep};

/// Ids below this one were given out.
const GIVEN: u64 = 4096;

/// A descriptor that counts itself.
#[derive(Debug)]
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
    type Ender = ();
    type Line = ();
}

impl<H: Handles> Broker<H> {
    /// The tables that are not empty, of what clients have made.
    #[must_use]
    pub fn left(&self) -> Vec<&'static str> {
        let tables = [
            ("clients", self.clients.is_empty()),
            ("buffers", self.buffers.is_empty()),
            ("imports", self.imports.is_empty()),
            ("fences", self.fences.is_empty()),
            ("handles on fences", self.fence_imports.is_empty()),
            ("timelines", self.timelines.is_empty()),
            ("handles on timelines", self.timeline_imports.is_empty()),
            ("inhibitors", self.inhibitors.is_empty()),
            ("tokens", self.tokens.is_empty()),
            ("accounts", self.accounts.users().is_empty()),
        ];
        let left = tables.into_iter().filter(|(_, is_empty)| !is_empty);
        left.map(|(name, _)| name).collect()
    }
}

/// Records one after the other: the kind, the id in two bytes (little endian, as all here), the second
/// number in two, how many descriptors, the length in two bytes, the bytes.
fn read(mut input: &[u8], open: &Rc<Cell<usize>>) -> Records<Rc<Counted>> {
    let mut records = Records::new();
    while let [kind, id0, id1, at0, at1, fds, len0, len1, rest @ ..] = input {
        let len = usize::from(u16::from_le_bytes([*len0, *len1])).min(rest.len());
        let (bytes, after) = rest.split_at(len);
        input = after;
        let Some(&kind) = RecordKind::ALL.get(usize::from(*kind)) else { continue };
        let number = |bytes| u64::from(u16::from_le_bytes(bytes));
        let key = (kind, number([*id0, *id1]), number([*at0, *at1]));
        let fds = (0..fds % 8).map(|_| Counted::new(open)).collect();
        records.insert(key, (bytes.to_vec(), fds));
    }
    records
}

/// Writes what [`read`] reads; `None` for a number that does not fit.
#[cfg(test)]
pub(super) fn write<F>(records: &Records<F>) -> Option<Vec<u8>> {
    let mut output = Vec::new();
    for (&(kind, id, at), (bytes, fds)) in records {
        output.push(u8::try_from(RecordKind::ALL.iter().position(|it| *it == kind)?).ok()?);
        for number in [id, at] {
            output.extend(u16::try_from(number).ok()?.to_le_bytes());
        }
        output.push(u8::try_from(fds.len()).ok()?);
        output.extend(u16::try_from(bytes.len()).ok()?.to_le_bytes());
        output.extend(bytes);
    }
    Some(output)
}

fn restore(
    records: Records<Rc<Counted>>,
    next: u64,
    open: &Rc<Cell<usize>>,
) -> Result<Broker<Fake>, String> {
    let limits = Limits {
        quotas: Quotas::default(),
        waits_per_client: 4,
        deadline_ns: 1_000_000_000,
        max_deadline_ns: 10_000_000_000,
        max_deadline_by: "the fuzzer".to_owned(),
        ack_timeout_ns: 2_000_000_000,
    };
    let page = Counted::new(open);
    Broker::restore(limits, IdSource::new(next), GuardKind::Simulated, page, |_| 7, records)
}

/// One input.
///
/// # Panics
/// Something is wrong with the broker.
pub fn snapshot(input: &[u8]) {
    let open = Rc::new(Cell::new(0));
    match restore(read(input, &open), GIVEN, &open) {
        Ok(broker) => goes_on(broker, &open),
        Err(reason) => assert!(!reason.is_empty(), "a refusal has a reason"),
    }
    assert_eq!(open.get(), 0, "I5: open descriptors");
}

/// Whether what was written by a real broker is taken back.
#[cfg(test)]
pub(super) fn is_taken(input: &[u8]) -> Result<(), String> {
    let open = Rc::new(Cell::new(0));
    restore(read(input, &open), GIVEN, &open).map(drop)
}

fn goes_on(mut broker: Broker<Fake>, open: &Rc<Cell<usize>>) {
    agrees(&broker);
    broker.keep();
    let mut out = Effects::new();
    broker.first_reservation();
    broker.rearm(&mut out);
    drop(out);
    agrees(&broker);
    let (pending, lines) = (broker.rewatch(), broker.reline());
    assert!(pending.iter().all(|it| broker.is_pending(it.fence.0)));

    // Another restart finds the same.
    let again = restore(records(&mut broker), broker.next_id(), open).expect("its own records");
    assert_eq!((again.rewatch(), again.reline().len()), (pending, lines.len()));
    assert_eq!(again.clients(), broker.clients());
    drop(again);

    drop(broker.take_updates());
    for account in broker.usage(0).users {
        assert!(!account.rows.is_empty());
    }
    drop(broker.activity(u64::MAX));
    let mut out = Effects::new();
    broker.tick(u64::MAX, &mut out);
    agrees(&broker);
    ends(broker);
}

fn records(broker: &mut Broker<Fake>) -> Records<Rc<Counted>> {
    let kept = broker.take_records().into_iter().filter_map(|record| {
        let Kept { bytes, fds } = record.kept?;
        Some(((record.kind, record.id, record.at), (bytes, fds.unwrap_or_default())))
    });
    kept.collect()
}

fn agrees(broker: &Broker<Fake>) {
    assert_eq!(broker.agree(), Ok(()));
    check::agree(broker, &[]);
}

/// Every device is lost, everybody leaves: nothing is left.
fn ends(mut broker: Broker<Fake>) {
    let mut out = Effects::new();
    let present: Vec<_> = broker.present().collect();
    for (i, device) in present.into_iter().enumerate() {
        // Some only after who had them has left.
        if i % 2 == 0 {
            lose(&mut broker, device, &mut out);
            agrees(&broker);
        }
    }
    for client in broker.clients() {
        while broker.let_go_of_some(client, 3, &mut out) {}
        broker.disconnect(client, &mut out);
        agrees(&broker);
    }
    for device in broker.present().collect::<Vec<_>>() {
        lose(&mut broker, device, &mut out);
    }
    for inhibitor in broker.held_by_bus() {
        broker.inhibitor_released(inhibitor);
    }
    drop(out);
    check::settled(&broker);
    assert!(broker.left().is_empty(), "{:?}", broker.left());
    let devices: Vec<_> = broker.devices.iter().map(|(id, it)| (id, it.lost.is_some())).collect();
    assert!(devices.is_empty(), "devices, and whether they are lost: {devices:?}");
    assert!(broker.by_node.is_empty(), "nodes of no device: {:?}", broker.by_node);
}

fn lose(broker: &mut Broker<Fake>, device: dmashare_proto::DeviceId, out: &mut Effects<Fake>) {
    let cause = Cause::Unplugged;
    let sweep = Sweep { cause, uevent_ns: 1, wall_clock_s: 0, gate_ns: 2, guards_ns: 3, guards: 0 };
    broker.device_lost(4, device, &sweep, out);
}
