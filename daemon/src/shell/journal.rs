//! What the keeper is given after each event, and before anything is said to anybody: the core's records,
//! and beside them what only the shell has, sockets and what the reactor will own.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::codec::encode;
use dmashare_proto::keeper::{Change, IN_PLACE, Key};
use dmashare_proto::{ClientId, DeviceId, ObjectId};
use serde::{Deserialize, Serialize};

use super::{Os, Shell};
use crate::core::{Effect, Effects, Outgoing, Record, RecordKind};
use crate::guard::{Ender, KeptEnder};
use crate::keeper::Keeper;

/// The state page, to be written.
pub(super) const PAGE: u8 = 0x40;
/// A client's connection.
pub(super) const SOCKET: u8 = 0x41;
/// A pending fence: [`OfWatch`] with its source, and what was to be put to its point.
pub(super) const WATCH: u8 = 0x42;
/// A guard's end.
pub const ENDER: u8 = 0x43 | IN_PLACE;
/// A timeline's syncobj, and whether its points are signalled in turn.
pub(super) const LINE: u8 = 0x44;
/// What hangs up when a timeline is lost.
pub const HANGUP: u8 = 0x45 | IN_PLACE;
/// What holds an inhibitor of the bus.
pub(super) const HOLD: u8 = 0x46;
/// A client's request that is not answered: its bytes, by its id.
pub(super) const OPEN: u8 = 0x47;
/// The last request of a client's that changed something: its id, and the answer.
pub(super) const HANDLED: u8 = 0x48;
/// Something that a client is told of just now: bytes, by a number.
pub(super) const TOLD: u8 = 0x49;
/// What waits for a client that does not read: bytes and descriptors, by a number.
pub(super) const QUEUED: u8 = 0x4a;

/// What a pending fence is watched by.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct OfWatch {
    pub device: DeviceId,
    pub deadline_ns: u64,
    pub in_turn: bool,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfHandled {
    pub id: u64,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A request that is being made.
#[derive(Debug)]
pub(super) struct Asked {
    pub client: ClientId,
    pub id: u64,
    pub bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Journal {
    keeper: Option<Arc<Keeper>>,
    /// The request that the next event is.
    pub asked: Option<Asked>,
    /// What comes with the next event's new client, or inhibitor.
    pub arriving: Option<Arc<OwnedFd>>,
    open: HashSet<(ClientId, u64)>,
    /// What has been said by now: dropped with the next that is kept.
    done: Vec<Key>,
    told: u64,
}

impl Journal {
    pub fn new(keeper: Option<Arc<Keeper>>) -> Self {
        Self { keeper, ..Self::default() }
    }

    /// The process that has all of the broker's descriptors too; 0 if there is none.
    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().map_or(0, |keeper| keeper.pid())
    }

    /// Who keeps, if anybody does.
    pub fn keeper(&self) -> Option<Arc<Keeper>> {
        self.keeper.clone().filter(|keeper| keeper.works())
    }

    /// Whether anything is kept.
    pub fn keeps(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.works())
    }

    /// Guards that are about to fail have no end but the broker's.
    pub fn let_go(&self, keys: impl IntoIterator<Item = Key>) {
        if let Some(keeper) = &self.keeper {
            keeper.let_go(keys);
        }
    }

    /// A request that another life of the service was asked, and has not answered.
    pub fn reopen(&mut self, client: ClientId, id: u64) {
        self.open.insert((client, id));
    }

    /// Words that another life was about to say, which are said by now.
    pub fn said(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.done.extend(keys);
    }

    /// The first number of words that none of another life's have.
    pub fn tell_from(&mut self, told: u64) {
        self.told = self.told.max(told);
    }
}

/// One batch on its way.
#[derive(Default)]
struct Pages<'a> {
    entries: Vec<(Key, Change)>,
    fds: Vec<BorrowedFd<'a>>,
}

impl<'a> Pages<'a> {
    fn put(&mut self, key: Key, bytes: Vec<u8>, fds: impl IntoIterator<Item = BorrowedFd<'a>>) {
        let before = self.fds.len();
        self.fds.extend(fds);
        // A message has sixteen descriptors at most, and a record no more than a message.
        let count = u8::try_from(self.fds.len() - before).unwrap_or(u8::MAX);
        self.entries.push((key, Change::Put { bytes, fds: Some(count) }));
    }

    fn drop(&mut self, key: Key) {
        self.entries.push((key, Change::Drop));
    }

    fn ender(&mut self, fence: ObjectId, ender: &'a Ender) {
        let (kept, fd) = ender.kept();
        self.put(Key(ENDER, fence.0, 0), written::<KeptEnder>(&kept), [fd]);
    }
}

/// It is written to memory, which does not fail.
fn written<T: Serialize>(of: &T) -> Vec<u8> {
    postcard::to_extend(of, Vec::with_capacity(128)).unwrap_or_default()
}

impl Shell {
    /// Keeping begins. What there is, a former life has left with the keeper.
    pub(super) fn begin_to_keep(&mut self) {
        let Some(keeper) = self.journal.keeper.clone() else { return };
        self.broker.keep_on();
        let page = (Key(PAGE, 0, 0), Change::Put { bytes: Vec::new(), fds: Some(1) });
        keeper.keep(vec![page], &[self.state_page.writable()]);
        self.keep(&Vec::new());
    }

    /// Keeps what an event has led to, before its effects are carried out.
    pub(super) fn keep(&mut self, effects: &Effects<Os>) {
        let Some(keeper) = self.journal.keeper.clone().filter(|keeper| keeper.works()) else {
            return;
        };
        let records = self.broker.take_records();
        let (asked, arriving) = (self.journal.asked.take(), self.journal.arriving.take());
        let done = std::mem::take(&mut self.journal.done);
        let mut pages = Pages::default();
        for record in &records {
            self.keep_record(record, arriving.as_ref(), &mut pages);
        }
        let mut is_open = asked.is_some();
        for effect in effects {
            match effect {
                Effect::Send { client, message, fds } => {
                    let answers = match (message, &asked) {
                        (Outgoing::Reply(id, _), Some(asked)) => {
                            (*client, *id) == (asked.client, asked.id)
                        }
                        _ => false,
                    };
                    is_open &= !answers;
                    self.keep_message(*client, message, fds, answers, &records, &mut pages);
                }
                _ => self.keep_effect(effect, &mut pages),
            }
        }
        if is_open && let Some(asked) = asked {
            self.journal.open.insert((asked.client, asked.id));
            pages.put(Key(OPEN, asked.client.0, asked.id), asked.bytes, []);
        }
        if pages.entries.is_empty() {
            // What is done can wait for company.
            self.journal.done.splice(0..0, done);
            return;
        }
        // First what is over: the same name may be used again.
        let mut entries: Vec<_> = done.into_iter().map(|key| (key, Change::Drop)).collect();
        entries.append(&mut pages.entries);
        keeper.keep(entries, &pages.fds);
    }

    fn keep_record<'a>(
        &mut self,
        record: &'a Record<Arc<OwnedFd>>,
        arriving: Option<&'a Arc<OwnedFd>>,
        pages: &mut Pages<'a>,
    ) {
        let key = Key(record.kind as u8, record.id, record.at);
        let Some(kept) = &record.kept else {
            pages.drop(key);
            let beside: &[u8] = match record.kind {
                RecordKind::Client => &[SOCKET, HANDLED],
                RecordKind::Fence => &[WATCH, ENDER],
                RecordKind::Timeline => &[LINE, HANGUP],
                RecordKind::Inhibitor => &[HOLD],
                _ => &[],
            };
            for &kind in beside {
                pages.drop(Key(kind, record.id, 0));
            }
            if record.kind == RecordKind::Client {
                let gone = |&(client, _): &(ClientId, u64)| client.0 == record.id;
                for (client, id) in self.journal.open.extract_if(gone) {
                    pages.drop(Key(OPEN, client.0, id));
                }
            }
            return;
        };
        match &kept.fds {
            None => {
                let change = Change::Put { bytes: kept.bytes.clone(), fds: None };
                pages.entries.push((key, change));
            }
            Some(fds) => pages.put(key, kept.bytes.clone(), fds.iter().map(|fd| fd.as_fd())),
        }
        match (record.kind, &kept.fds) {
            // It has ended, or never was pending.
            (RecordKind::Fence, Some(fds))
                if fds.is_empty() && !self.broker.is_pending(record.id) =>
            {
                pages.drop(Key(WATCH, record.id, 0));
                pages.drop(Key(ENDER, record.id, 0));
            }
            (RecordKind::Client, _) => {
                let fd = arriving.map(|fd| fd.as_fd());
                if let Some(fd) = fd {
                    pages.put(Key(SOCKET, record.id, 0), Vec::new(), [fd]);
                }
            }
            (RecordKind::Inhibitor, _) => {
                if let Some(fd) = arriving {
                    pages.put(Key(HOLD, record.id, 0), Vec::new(), [fd.as_fd()]);
                }
            }
            _ => {}
        }
    }

    fn keep_effect<'a>(&self, effect: &'a Effect<Os>, pages: &mut Pages<'a>) {
        match effect {
            Effect::Watch { fence, device, source, ender, deadline_ns } => {
                let (device, deadline_ns) = (*device, *deadline_ns);
                let of = OfWatch { device, deadline_ns, in_turn: false };
                pages.put(Key(WATCH, fence.0, 0), written(&of), [source.as_fd()]);
                if let Some(ender) = ender {
                    pages.ender(*fence, ender);
                }
            }
            Effect::SubmitPoint {
                fence,
                timeline,
                device,
                put,
                source,
                ender,
                deadline_ns,
                ..
            } => {
                let in_turn = put.is_none() || self.timelines.is_in_turn(*timeline);
                let of = OfWatch { device: *device, deadline_ns: *deadline_ns, in_turn };
                let fds = [Some(source), put.as_ref()].into_iter().flatten().map(|fd| fd.as_fd());
                pages.put(Key(WATCH, fence.0, 0), written(&of), fds);
                if let Some(ender) = ender {
                    pages.ender(*fence, ender);
                }
            }
            Effect::AddTimeline { timeline, line, .. } => {
                let in_turn = written(&line.in_turn);
                pages.put(Key(LINE, timeline.0, 0), in_turn, [line.syncobj.as_fd()]);
                pages.put(Key(HANGUP, timeline.0, 0), Vec::new(), [line.hangup.as_fd()]);
            }
            Effect::EndRehearsed { guards, .. } => {
                for (fence, ender) in guards {
                    pages.ender(*fence, ender);
                }
            }
            _ => {}
        }
    }

    /// What is said is said again by another life, if this one dies before it has done so: an answer by
    /// the request, which is made again, or is known as handled; an event by itself.
    fn keep_message<'a>(
        &mut self,
        client: ClientId,
        message: &Outgoing,
        fds: &'a [Arc<OwnedFd>],
        answers: bool,
        records: &[Record<Arc<OwnedFd>>],
        pages: &mut Pages<'a>,
    ) {
        match message {
            Outgoing::Reply(id, _) if !answers => {
                if self.journal.open.remove(&(client, *id)) {
                    self.journal.done.push(Key(OPEN, client.0, *id));
                }
            }
            // Nothing has changed by it, so it can be made again.
            Outgoing::Reply(..) if records.is_empty() => {}
            Outgoing::Reply(id, reply) => {
                let mut message = Outgoing::Reply(*id, reply.clone());
                self.broker.address(client, &mut message);
                let Outgoing::Reply(id, reply) = message else { return };
                if let Ok(bytes) = encode(&reply, id, fds.len()) {
                    let of = written(&OfHandled { id, bytes });
                    pages.put(Key(HANDLED, client.0, 0), of, fds.iter().map(|fd| fd.as_fd()));
                }
            }
            Outgoing::Event(event) => {
                let mut message = Outgoing::Event(event.clone());
                self.broker.address(client, &mut message);
                let Outgoing::Event(event) = message else { return };
                if let Ok(bytes) = encode(&event, 0, 0) {
                    self.journal.told += 1;
                    let key = Key(TOLD, client.0, self.journal.told);
                    self.journal.done.push(key);
                    pages.put(key, bytes, []);
                }
            }
        }
    }
}
