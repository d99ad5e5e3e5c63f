//! An exporter and an importer, as most scenarios have them: two processes of two users.

use anyhow::Result;
use dmashare::DeviceId;

use crate::actor::{Key, Task};
use crate::{Actor, BOUND, Backend, Card, Source, User, World};

/// The two, and the card that is shared between them.
pub(super) struct Pair {
    pub card: Card,
    pub device: DeviceId,
    pub exporter: Actor,
    pub importer: Actor,
}

/// A buffer: the exporter's key, the importer's key.
#[derive(Clone, Copy)]
pub(super) struct SharedBuffer {
    pub exported: Key,
    pub imported: Key,
}

/// A fence, likewise.
#[derive(Clone, Copy)]
pub(super) struct SharedFence {
    pub shared: Key,
    pub imported: Key,
}

/// The longest deadline that every backend takes: the kernel ends a vgem fence after 10 s.
pub(super) fn long_deadline_ms(world: &World) -> u64 {
    if world.backend() == Backend::Vgem { 0 } else { 60_000 }
}

/// How long a fence is waited for.
pub(super) const WAIT_MS: u64 = 60_000;

impl Pair {
    pub fn new(world: &World) -> Result<Self> {
        let card = world.egpu()?;
        let device = world.device(&card)?.id;
        let exporter = world.client("exporter", User::Alice)?;
        let importer = world.client("importer", User::Bob)?;
        Ok(Self { card, device, exporter, importer })
    }

    /// A buffer of the eGPU that the importer has on its own GPU and in a mapping.
    pub fn share_buffer(&self, world: &World, width: u32, height: u32) -> Result<SharedBuffer> {
        let card = self.card.clone();
        let exported = self.exporter.call(Task::Export { card, width, height })?.key()?;
        let token = self.token_for(&self.importer, exported)?;
        let by = Some(world.igpu()?);
        let imported = self.importer.call(Task::Import { token, by })?.key()?;
        Ok(SharedBuffer { exported, imported })
    }

    /// A source fence of the test's, shared by the exporter and imported by the importer.
    pub fn share_fence(&self, source: &Source, deadline_ms: u64) -> Result<SharedFence> {
        let task = Task::ShareFence { card: self.card.clone(), deadline_ms };
        let shared = self.exporter.begin_with(task, &[source.fd()])?.wait(BOUND)?.key()?;
        let imported = self.import_fence(&self.importer, shared)?;
        Ok(SharedFence { shared, imported })
    }

    /// Has another process import a shared fence.
    pub fn import_fence(&self, by: &Actor, shared: Key) -> Result<Key> {
        let token = self.token_for(by, shared)?;
        by.call(Task::ImportFence { token })?.key()
    }

    /// A token of the exporter's that only the user of `who` can use.
    pub fn token_for(&self, who: &Actor, key: Key) -> Result<String> {
        let uid = Some(who.process().uid()?);
        self.exporter.call(Task::Grant { key, uid, uses: 1 })?.token()
    }
}
