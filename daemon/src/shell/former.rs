//! The start of a life of the service that goes on with what a former one has left.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use dmashare_proto::keeper::Key;
use dmashare_proto::message::{Cause, FenceState, GuardKind};
use dmashare_proto::state_page::{DeviceState, Word};
use dmashare_proto::{ClientId, DeviceId, ObjectId};
use dmashare_uapi::pidfd;

use super::connection::{self, Left, Peer};
use super::journal::{
    ENDER, HANDLED, HANGUP, HOLD, LINE, OPEN, OfHandled, OfWatch, PAGE, QUEUED, SOCKET, TOLD, WATCH,
};
use super::outbox::Handled;
use super::{Os, Shared, Shell, inhibit};
use crate::clock::{monotonic_ns, wall_clock_s};
use crate::core::{Broker, IdSource, Limits, RecordKind, Records, Reline, Rewatch, Sweep};
use crate::guard::{Ender, KeptEnder};
use crate::keeper::Given;
use crate::reactor::{Command, OnPoint};
use crate::state_page::StatePage;
use crate::timeline::{Line, NewLine, hangup};

/// What the shell itself had.
type Beside = HashMap<Key, (Vec<u8>, Vec<OwnedFd>)>;

/// What a former life has left.
pub(super) struct Former {
    state_page: Option<StatePage>,
    records: Records<Arc<OwnedFd>>,
    beside: Beside,
}

impl Former {
    /// Sorts what was kept; `None` if that is nothing.
    ///
    /// # Errors
    /// It is not complete.
    pub fn of(given: Vec<Given>) -> io::Result<Option<Self>> {
        if given.is_empty() {
            return Ok(None);
        }
        let kinds: BTreeMap<u8, RecordKind> =
            RecordKind::ALL.iter().map(|&kind| (kind as u8, kind)).collect();
        let (mut records, mut beside) = (Records::new(), Beside::new());
        for (key, bytes, fds) in given {
            match kinds.get(&key.0) {
                Some(&kind) => {
                    let fds = fds.into_iter().map(Arc::new).collect();
                    records.insert((kind, key.1, key.2), (bytes, fds));
                }
                None => drop(beside.insert(key, (bytes, fds))),
            }
        }
        let page = beside.remove(&Key(PAGE, 0, 0)).and_then(|(_, mut fds)| fds.pop());
        let page = page.ok_or_else(|| io::Error::other("the state page is not among it"))?;
        let state_page = Some(StatePage::restore(page)?);
        Ok(Some(Self { state_page, records, beside }))
    }

    /// The broker as it was, and its state page.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn restore(
        &mut self,
        limits: Limits,
        ids: IdSource,
        backend: GuardKind,
    ) -> Result<(Broker<Os>, Arc<StatePage>), String> {
        let page = self.state_page.take().ok_or("the state page is gone")?;
        let for_readers = page.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
        let generation = |slot| page.word(slot).map_or(0, Word::generation);
        let records = std::mem::take(&mut self.records);
        let for_readers = Arc::new(for_readers);
        let broker = Broker::restore(limits, ids, backend, for_readers, generation, records)?;
        Ok((broker, Arc::new(page)))
    }

    fn take(&mut self, kind: u8, id: u64) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        self.beside.remove(&Key(kind, id, 0))
    }

    fn take_ender(&mut self, fence: ObjectId) -> Option<Ender> {
        let (bytes, mut fds) = self.take(ENDER, fence.0)?;
        let kept: KeptEnder = postcard::from_bytes(&bytes).ok()?;
        Ender::restore(kept, fds.pop()?)
    }
}

/// Goes on with it: connections first, so that there is somebody to tell; devices, timelines and fences; then
/// those who wait for them.
pub(super) fn go_on(shell: &Shared, mut former: Former) {
    let began_ns = monotonic_ns();
    let (clients, holds) = {
        let this = shell.borrow();
        let clients: Vec<_> =
            this.broker.connected().map(|(id, creds)| (id, creds.pid, creds.uid)).collect();
        (clients, this.broker.held_by_bus())
    };
    let count = clients.len();
    let (mut open, mut lost) = (Vec::new(), Vec::new());
    for (client, pid, uid) in clients {
        let asked = former.take_all(OPEN, client);
        let again = asked.iter().map(|(key, ..)| key.2).collect();
        open.extend(asked.into_iter().map(|(key, bytes, _)| (client, key.2, bytes)));
        if let Err(error) = go_on_with(shell, &mut former, (client, pid, uid), again) {
            tracing::error!(%client, pid, %error, "a connection cannot be taken over; it ends");
            lost.push(client);
        }
    }
    let mut this = shell.borrow_mut();
    this.event(|broker, out| broker.finish_losses(out));
    this.sweep_vanished(&mut former);
    this.event(|broker, out| broker.rearm(out));
    this.restore_lines(&mut former);
    this.restore_fences(&mut former);
    drop(this);
    for hold in holds {
        let pipe = former.take(HOLD, hold.0).and_then(|(_, mut fds)| fds.pop());
        match pipe {
            Some(pipe) => inhibit::go_on(shell, hold, pipe),
            None => shell.borrow_mut().event(|broker, _| broker.inhibitor_released(hold)),
        }
    }
    let mut this = shell.borrow_mut();
    for client in lost {
        this.event(|broker, out| broker.disconnect(client, out));
    }
    for (client, id, bytes) in open {
        this.journal.reopen(client, id);
        this.ask_again(client, &bytes);
    }
    // What nobody has asked for is of somebody who left in the midst of it.
    this.journal.said(former.beside.into_keys());
    tracing::info!(name: "restored",
        clients = count,
        us = (monotonic_ns() - began_ns) / 1000,
        "a former life's clients, buffers, fences and timelines go on"
    );
}

fn go_on_with(
    shell: &Shared,
    former: &mut Former,
    (client, pid, uid): (ClientId, i32, u32),
    open: Vec<u64>,
) -> io::Result<()> {
    let socket = former.take(SOCKET, client.0).and_then(|(_, mut fds)| fds.pop());
    let handled = former.take(HANDLED, client.0).and_then(|(bytes, fds)| {
        let of: OfHandled = postcard::from_bytes(&bytes).ok()?;
        Some(Handled { id: of.id, bytes: of.bytes, fds: fds.into_iter().map(Arc::new).collect() })
    });
    let told = former.take_all(TOLD, client);
    let queued = former.take_all(QUEUED, client);
    let socket = socket.ok_or_else(|| io::Error::other("its socket was not kept"))?;
    let pidfd = pidfd::peer(socket.as_fd()).ok().and_then(|peer| peer.pidfd);
    let peer = Peer { pid, uid, pidfd };
    let waits = |bytes: &Vec<u8>| queued.iter().any(|(_, queued, _)| queued == bytes);
    let words = told.iter().map(|(_, bytes, _)| bytes).filter(|bytes| !waits(bytes)).cloned();
    let words = words.collect();
    let left = Left {
        queued: queued.into_iter().map(|(key, bytes, fds)| (key.2, bytes, fds)).collect(),
        words,
        handled,
        open,
    };
    connection::go_on(shell, client, socket, peer, left)?;
    let mut this = shell.borrow_mut();
    this.journal.tell_from(told.iter().map(|(key, ..)| key.2).max().unwrap_or(0));
    this.journal.said(told.into_iter().map(|(key, ..)| key));
    Ok(())
}

impl Former {
    /// In their order.
    fn take_all(&mut self, kind: u8, client: ClientId) -> Vec<(Key, Vec<u8>, Vec<OwnedFd>)> {
        let is_it = |key: &Key| key.0 == kind && key.1 == client.0;
        let keys: Vec<Key> = self.beside.keys().copied().filter(is_it).collect();
        let mut all: Vec<_> = keys
            .into_iter()
            .filter_map(|key| self.beside.remove(&key).map(|(bytes, fds)| (key, bytes, fds)))
            .collect();
        all.sort_unstable_by_key(|(key, ..)| key.2);
        all
    }
}

impl Shell {
    /// Devices that went while nobody looked: what they had ends before anything else is done.
    fn sweep_vanished(&mut self, former: &mut Former) {
        let there = |id: &DeviceId| {
            self.broker.device_desc(*id).is_some_and(|desc| self.machine.is_there(desc))
        };
        let gone: Vec<DeviceId> = self.broker.present().filter(|id| !there(id)).collect();
        for device in gone {
            let uevent_ns = monotonic_ns();
            let Some((slot, generation)) = self.broker.close_gate(device) else { continue };
            self.state_page.publish(slot, device, Word::new(generation, DeviceState::Lost));
            let gate_ns = monotonic_ns();
            let fences = self.broker.rewatch().into_iter().filter(|it| it.device == device);
            let fences: Vec<ObjectId> = fences.map(|it| it.fence).collect();
            self.journal.let_go(fences.iter().map(|fence| Key(ENDER, fence.0, 0)));
            let mut guards = 0;
            for fence in fences {
                if let Some(ender) = former.take_ender(fence) {
                    guards += 1;
                    if let Err(error) = ender.end(Err(Cause::Vanished.errno())) {
                        tracing::error!(%fence, %error, "a guard could not be ended as it should");
                    }
                }
            }
            let (cause, guards_ns) = (Cause::Vanished, monotonic_ns());
            let wall_clock_s = wall_clock_s();
            let sweep = Sweep { cause, uevent_ns, wall_clock_s, gate_ns, guards_ns, guards };
            self.event(|broker, out| broker.device_lost(guards_ns, device, &sweep, out));
        }
    }

    fn restore_lines(&mut self, former: &mut Former) {
        for Reline { timeline, device, lost, promised, submitted, ended_early } in
            self.broker.reline()
        {
            let kept = former.take(LINE, timeline.0);
            let Some((bytes, mut fds)) = kept else {
                tracing::error!(%timeline, "a timeline was not kept");
                continue;
            };
            let in_turn = postcard::from_bytes(&bytes).unwrap_or(false);
            let Some(syncobj) = fds.pop().map(Arc::new) else { continue };
            let writer = former.take(HANGUP, timeline.0).and_then(|(_, mut fds)| fds.pop());
            // One that was lost has hung up.
            let writer = match writer.map_or_else(|| hangup().map(|(_, writer)| writer), Ok) {
                Ok(writer) => writer,
                Err(error) => {
                    tracing::error!(%timeline, %error, "a timeline cannot be taken over");
                    continue;
                }
            };
            let line = Arc::new(self.adopt_line(&syncobj).unwrap_or_else(Line::nowhere));
            let new = NewLine { line, hangup: writer, syncobj, in_turn };
            self.timelines.add(timeline, &new);
            self.reactor.send(Command::AddTimeline(timeline, device, new));
            self.reactor.send(Command::Restored { timeline, submitted, ended_early });
            if !lost {
                self.reactor.send(Command::Promise(timeline, promised));
            }
        }
    }

    fn restore_fences(&mut self, former: &mut Former) {
        for Rewatch { fence, device, point } in self.broker.rewatch() {
            let ender = former.take_ender(fence);
            let watch = former.take(WATCH, fence.0).and_then(|(bytes, fds)| {
                let of: OfWatch = postcard::from_bytes(&bytes).ok()?;
                let mut fds = fds.into_iter().map(Arc::new);
                Some((of, fds.next()?, fds.next()))
            });
            let Some((of, source, put)) = watch else {
                // Its end was under way: what is left of it is to be said.
                let at_ns = monotonic_ns();
                let state = FenceState::Failed { cause: Cause::TimedOut, at_ns };
                self.event(|broker, out| broker.fence_ended(fence, state, out));
                continue;
            };
            let point = point.map(|(timeline, point)| {
                let in_turn = of.in_turn
                    || (self.timelines.lacks(timeline, point)
                        && !self.put_to_point(timeline, point, put.as_deref()));
                OnPoint { timeline, point, in_turn }
            });
            let deadline_ns = of.deadline_ns;
            self.reactor.send(Command::Watch { fence, device, source, ender, deadline_ns, point });
        }
    }
}
