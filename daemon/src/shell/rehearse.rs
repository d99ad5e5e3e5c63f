//! Rehearsals: asked for over the bus, begun when their time has come.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use dmashare_proto::{ClientId, DeviceId, ObjectId};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::{Shared, Shell};
use crate::bus::{NotScheduled, RehearseRequest};
use crate::clock::{monotonic_ns, wall_clock_s};
use crate::guard::Ender;
use crate::id_map::IdMap;
use crate::reactor::Command;

/// Rehearsals of one user that may wait for their time.
const MOST_WAITING: usize = 32;
/// How long the main thread waits for the reactor, which waits for nobody.
const AT_ONCE: Duration = Duration::from_secs(1);

/// One whose time has not come.
#[derive(Clone, Copy)]
struct Rehearsal {
    device: DeviceId,
    client: Option<ClientId>,
    uid: u32,
}

/// Takes requests in, and begins each rehearsal in its time; sleeps while there is none.
pub(super) async fn run(shell: Shared, mut requests: UnboundedReceiver<RehearseRequest>) {
    let mut waiting = BTreeMap::<(Instant, u64), Rehearsal>::new();
    let mut next = 0;
    loop {
        let first = waiting.keys().next().copied();
        let comes = async {
            match first {
                Some((at, _)) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            request = requests.recv() => {
                let Some(request) = request else { return };
                let RehearseRequest { device, client, after, uid, authorised, answer } = request;
                let of = waiting.values().filter(|it| it.uid == uid).count();
                let result = if of >= MOST_WAITING {
                    Err(NotScheduled::TooMany(MOST_WAITING))
                } else {
                    shell.borrow().may_rehearse(device, client, uid, authorised)
                };
                let is_granted = result.is_ok();
                if answer.send(result).is_err() {
                    tracing::debug!("who asked for a rehearsal is gone");
                } else if is_granted {
                    next += 1;
                    waiting.insert((Instant::now() + after, next), Rehearsal { device, client, uid });
                }
            }
            () = comes => {
                if let Some(rehearsal) = first.and_then(|first| waiting.remove(&first)) {
                    shell.borrow_mut().rehearse(rehearsal);
                }
            }
        }
    }
}

impl Shell {
    /// Everybody may take a device from their own clients; from others', root, and whom polkit lets.
    fn may_rehearse(
        &self,
        device: DeviceId,
        client: Option<ClientId>,
        uid: u32,
        authorised: bool,
    ) -> Result<(), NotScheduled> {
        let owner = self.broker.may_rehearse(device, client).map_err(NotScheduled::Impossible)?;
        if authorised || uid == 0 || owner == Some(uid) {
            return Ok(());
        }
        Err(NotScheduled::NotYours)
    }

    fn rehearse(&mut self, rehearsal: Rehearsal) {
        let Rehearsal { device, client, uid } = rehearsal;
        let possible = self.broker.may_rehearse(device, client);
        let result = match (possible, client) {
            (Err(why), _) => Err(why),
            (Ok(_), None) => {
                tracing::warn!(
                    device = device.0,
                    by_uid = uid,
                    "a loss is rehearsed for all clients; the hardware is untouched"
                );
                self.reactor.send(Command::Rehearse(device));
                Ok(())
            }
            (Ok(_), Some(client)) => self.rehearse_for(device, client, uid),
        };
        if let Err(why) = result {
            let client = client.map(|client| client.0);
            tracing::info!(device = device.0, client, ?why, "a rehearsal does not take place");
        }
    }

    fn rehearse_for(
        &mut self,
        device: DeviceId,
        client: ClientId,
        uid: u32,
    ) -> Result<(), crate::core::NotRehearsed> {
        let mut guards = IdMap::default();
        for fence in self.broker.plan_rehearsal(device, client) {
            match self.backend.as_ref().map(|backend| backend.make()) {
                Some(Ok(guard)) => {
                    guards.insert(fence, (Arc::new(guard.fence), guard.ender));
                }
                Some(Err(error)) => {
                    tracing::warn!(%fence, %error, "no second guard; the fence is left as it is");
                }
                None => {}
            }
        }
        let (now_ns, wall_clock_s) = (monotonic_ns(), wall_clock_s());
        let it = self.event(|broker, out| {
            broker.rehearse_for(now_ns, wall_clock_s, device, client, guards, out)
        })?;
        tracing::warn!(
            device = device.0,
            client = client.0,
            by_uid = uid,
            epoch = it.epoch.0,
            known_as = it.lost.0,
            comes_as = it.comes_as.0,
            buffers = it.buffers,
            imports = it.imports,
            fences = it.fences,
            "a loss is rehearsed for one client; the device goes on"
        );
        Ok(())
    }

    /// Has the reactor end what a rehearsal takes, and waits for that: who is told of the loss can
    /// trust that it has ended.
    pub(super) fn end_rehearsed(
        &self,
        fences: Vec<ObjectId>,
        timelines: Vec<ObjectId>,
        guards: Vec<(ObjectId, Ender)>,
    ) {
        if fences.is_empty() && timelines.is_empty() && guards.is_empty() {
            return;
        }
        let (done, ended) = sync_channel(0);
        self.reactor.send(Command::EndRehearsed { fences, timelines, guards, done });
        // It drops its end when it is through; it sends nothing.
        if ended.recv_timeout(AT_ONCE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the fence reactor does not come to end the fences of a rehearsal");
        }
    }
}
