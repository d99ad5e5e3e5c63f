//! Connections: who they are, what they have, and their end.

use dmashare_proto::message::Declare;
use dmashare_proto::{ClientId, DeviceId, ErrorCode, ObjectId, Reply, WireError};
use serde::{Deserialize, Serialize};

use super::accounts::{Account, Charge, Kind, cost};
use super::rehearse::Epochs;
use super::{Broker, Effects, Handles};
use crate::id_map::IdMap;

/// Who a client is, as the kernel (or the bus daemon, for `Connect()`) says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its systemd unit, or empty.
    pub unit: String,
}

/// What a client's id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owned {
    Buffer,
    Import,
    /// A fence that it shared; also after the fence has ended.
    Fence,
    /// A handle on a fence that it imported.
    FenceImport,
    /// A timeline that it made; also after it was lost.
    Timeline,
    /// A handle on a timeline that it imported.
    TimelineImport,
    /// What holds ejects up.
    Inhibitor,
    /// Something of a device that was lost: kept so that the client is told why it is gone.
    Lost(DeviceId),
}

#[derive(Debug)]
pub(super) struct Client {
    pub creds: Credentials,
    pub name: String,
    pub greeted: bool,
    /// What it states of itself.
    pub declared: Declare,
    pub objects: IdMap<ObjectId, Owned>,
    /// As many as there are in `objects`.
    pub counted: Charge,
    pub account: Account,
    pub _connection: [Charge; 2],
    /// Unanswered `WaitPoint`s and `Allocate`s.
    pub waits: usize,
    /// Devices that it knows by other ids, since a loss was rehearsed for it alone.
    pub epochs: Epochs,
}

impl Client {
    /// One of its objects, of a former life of the service's. `true` if it had it already.
    pub fn put_back(&mut self, object: ObjectId, what: Owned) -> bool {
        let known = self.objects.insert(object, what).is_some();
        self.counted.set(self.objects.len() as u64);
        known
    }
}

impl<H: Handles> Broker<H> {
    /// A new connection.
    ///
    /// # Errors
    /// `OVER_QUOTA`: to be sent to the peer before its connection is closed.
    pub fn connect(
        &mut self,
        creds: Credentials,
        out: &mut Effects<H>,
    ) -> Result<ClientId, WireError> {
        let account = self.accounts.client(creds.uid);
        let connection = [
            account.charge(Kind::Clients, 1)?,
            account.charge(Kind::Descriptors, cost::CONNECTION)?,
        ];
        let id = self.ids.client();
        self.clients.insert(
            id,
            Client {
                creds,
                name: String::new(),
                greeted: false,
                declared: Declare::default(),
                objects: IdMap::default(),
                counted: account.take(Kind::Objects, 0),
                account,
                _connection: connection,
                waits: 0,
                epochs: Epochs::default(),
            },
        );
        self.dirty_clients.insert(id);
        self.notes.client(id);
        self.after(out);
        Ok(id)
    }

    /// A connection is closed: what it imported is released; what it exported lives on in others'
    /// imports; its pending fences run on, since a guard may already be on its way in a GPU.
    pub fn disconnect(&mut self, client: ClientId, out: &mut Effects<H>) {
        let Some(mut gone) = self.clients.remove(&client) else { return };
        for (object, what) in gone.objects.drain() {
            self.let_go(client, object, what, out);
        }
        self.tokens.drop_of(client);
        self.dirty_clients.insert(client);
        self.notes.client(client);
        self.after(out);
    }

    /// Lets go of some of what a client has that is about to be disconnected; false if that was all. One
    /// that has much would hold everyone else up if it were done at once.
    pub fn let_go_of_some(&mut self, client: ClientId, most: usize, out: &mut Effects<H>) -> bool {
        let Some(gone) = self.clients.get_mut(&client) else { return false };
        let some: Vec<ObjectId> = gone.objects.keys().copied().take(most).collect();
        for &object in &some {
            let found = self.clients.get_mut(&client).and_then(|gone| gone.objects.remove(&object));
            if let Some(what) = found {
                self.let_go(client, object, what, out);
            }
        }
        self.after(out);
        some.len() == most
    }

    /// Whether a client has been welcomed.
    #[must_use]
    pub fn is_greeted(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| client.greeted)
    }

    /// Makes room for one more object, or says which limit is reached.
    pub(super) fn may_have_one_more(&self, client: ClientId) -> Result<(), WireError> {
        let Some(client) = self.clients.get(&client) else { return Ok(()) };
        Ok(client.account.may(Kind::Objects, 1)?)
    }

    /// Whether the broker may hold so many descriptors more for a client, asked before they are made.
    pub(super) fn may_hold(&self, client: ClientId, descriptors: u64) -> Result<(), WireError> {
        let Some(client) = self.clients.get(&client) else { return Ok(()) };
        Ok(client.account.may(Kind::Descriptors, descriptors)?)
    }

    /// Puts something on a client's account.
    pub(super) fn charge(
        &mut self,
        client: ClientId,
        kind: Kind,
        amount: u64,
    ) -> Result<Charge, WireError> {
        Ok(match self.clients.get(&client) {
            Some(client) => client.account.charge(kind, amount)?,
            // Nobody asks who is not there.
            None => self.accounts.user(u32::MAX).charge(kind, amount)?,
        })
    }

    /// What a client is charged to.
    #[must_use]
    pub fn account(&self, client: ClientId) -> Option<&Account> {
        self.clients.get(&client).map(|client| &client.account)
    }

    /// Makes room for one more request that is answered later, and counts it.
    pub(super) fn one_more_wait(&mut self, client: ClientId) -> Result<(), WireError> {
        let limit = self.limits.waits_per_client;
        let Some(client) = self.clients.get_mut(&client) else { return Ok(()) };
        if client.waits >= limit {
            return Err(WireError::new(
                ErrorCode::OVER_QUOTA,
                format!("limits.waits_per_client = {limit} waits are unanswered; await some first"),
            ));
        }
        client.waits += 1;
        Ok(())
    }

    /// `Declare`.
    pub(super) fn declare(&mut self, client: ClientId, declare: Declare) -> Reply {
        if let Some(client) = self.clients.get_mut(&client) {
            client.declared = declare;
        }
        self.notes.client(client);
        self.dirty_clients.insert(client);
        Reply::Done(())
    }

    pub(super) fn note(&mut self, client: ClientId, object: ObjectId, what: Owned) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.objects.insert(object, what);
            client.counted.set(client.objects.len() as u64);
        }
        // All else follows from the objects.
        if matches!(what, Owned::Lost(_)) {
            self.notes.client(client);
        }
        self.dirty_clients.insert(client);
    }

    /// Drops one handle of a client's from the tables (it is out of the client's own already).
    pub(super) fn let_go(
        &mut self,
        client: ClientId,
        object: ObjectId,
        what: Owned,
        out: &mut Effects<H>,
    ) {
        match what {
            Owned::Buffer => self.exporter_lets_go(object),
            Owned::Import => self.drop_import(object),
            Owned::Fence => self.drop_fence_handle(client, object, object),
            Owned::FenceImport => {
                if let Some(fence) = self.fence_imports.remove(&object) {
                    self.drop_fence_handle(client, object, fence);
                }
            }
            Owned::Timeline | Owned::TimelineImport => {
                self.drop_timeline_handle(client, object, out);
            }
            Owned::Inhibitor => self.drop_inhibitor(object),
            Owned::Lost(_) => {}
        }
    }

    /// `Release`: also of what was lost, whose id is then forgotten.
    pub(super) fn release(
        &mut self,
        client: ClientId,
        object: ObjectId,
        out: &mut Effects<H>,
    ) -> Result<Reply, WireError> {
        let what = self.owned(client, object)?;
        if let Some(client) = self.clients.get_mut(&client) {
            client.objects.remove(&object);
            client.counted.set(client.objects.len() as u64);
        }
        if matches!(what, Owned::Lost(_)) {
            self.notes.client(client);
        }
        if matches!(what, Owned::Buffer | Owned::Fence | Owned::Timeline | Owned::Lost(_)) {
            self.tokens.drop_for(object);
        }
        self.let_go(client, object, what, out);
        self.dirty_clients.insert(client);
        Ok(Reply::Done(()))
    }
}
