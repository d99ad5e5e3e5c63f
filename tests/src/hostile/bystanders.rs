//! A well-behaved pair of clients beside the hostile ones: they go on, and what they have stays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use dmashare::{DeviceId, ObjectId};

use crate::actor::{Key, Task};
use crate::scenario::figures::show;
use crate::{Actor, BOUND, Backend, Card, Role, User, World};

const SIDE: u32 = 64;
const BYTES: u64 = SIDE as u64 * SIDE as u64 * 4;
const MARK: u8 = 0x5a;

/// A producer and a consumer, in processes of their own.
pub struct Bystanders {
    producer: Actor,
    consumer: Actor,
    card: Card,
    device: DeviceId,
    /// A buffer of the producer's that the consumer keeps all the time.
    kept: Key,
    kept_id: ObjectId,
    /// The broker's descriptors, with these two alone connected.
    before: Vec<String>,
}

impl Bystanders {
    /// Starts them, on a card.
    pub fn start(world: &World, role: Role) -> Result<Self> {
        let producer = world.client("producer", User::Alice)?;
        let consumer = world.client("consumer", User::Bob)?;
        let card = world.card(role)?;
        let device = world.device(&card)?.id;
        let task = Task::Export { card: card.clone(), width: SIDE, height: SIDE };
        let (exported, kept_id, _) = producer.call(task)?.object()?;
        producer.call(Task::Fill { key: exported, byte: MARK })?;
        let token = producer.call(Task::Grant { key: exported, uid: None, uses: 1 })?.token()?;
        let kept = consumer.call(Task::Import { token, by: None })?.key()?;
        let mut this = Self { producer, consumer, card, device, kept, kept_id, before: Vec::new() };
        this.exchange(1)?;
        world.wait_counts(device, (1, 1, 0))?;
        this.before = this.steady(world)?;
        Ok(this)
    }

    /// The device that they share.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The producer's buffer, which is nobody else's to use.
    #[must_use]
    pub fn kept_id(&self) -> ObjectId {
        self.kept_id
    }

    /// A buffer and a fence go from one to the other and are used.
    pub fn exchange(&self, byte: u8) -> Result<()> {
        let task = Task::Export { card: self.card.clone(), width: SIDE, height: SIDE };
        let buffer = self.producer.call(task)?.key()?;
        self.producer.call(Task::Fill { key: buffer, byte })?;
        let token = self.grant(buffer)?;
        let import = self.consumer.call(Task::Import { token, by: None })?.key()?;
        let seen = self.consumer.call(Task::Count { key: import, byte })?.count()?;
        ensure!(seen >= BYTES, "the consumer sees {seen} of {BYTES} bytes");
        let task = Task::ShareFence { card: self.card.clone(), deadline_ms: 0 };
        let fence = self.producer.call(task)?.key()?;
        let token = self.grant(fence)?;
        let waited = self.consumer.call(Task::ImportFence { token })?.key()?;
        let bound_ms = u64::try_from(BOUND.as_millis())?;
        let waiter = self.consumer.begin(Task::Wait { key: waited, bound_ms })?;
        self.producer.call(Task::Signal { key: fence })?;
        let end = waiter.wait(BOUND)?.fence()?;
        ensure!(end.errno == Some(0), "the fence ended with {end:?}");
        for (actor, key) in [
            (&self.consumer, waited),
            (&self.producer, fence),
            (&self.consumer, import),
            (&self.producer, buffer),
        ] {
            actor.call(Task::Release { key })?;
        }
        Ok(())
    }

    fn grant(&self, key: Key) -> Result<String> {
        self.producer.call(Task::Grant { key, uid: None, uses: 1 })?.token()
    }

    /// Does something hostile while they exchange buffers and fences without a pause.
    pub fn meanwhile<R>(&self, hostile: impl FnOnce() -> Result<R>) -> Result<R> {
        let over = AtomicBool::new(false);
        let (result, rounds) = std::thread::scope(|scope| {
            let pair = scope.spawn(|| {
                let mut rounds = 0_u8;
                while !over.load(Ordering::Relaxed) {
                    rounds = rounds.wrapping_add(1).max(1);
                    self.exchange(rounds)?;
                }
                anyhow::Ok(rounds)
            });
            let result = hostile();
            over.store(true, Ordering::Relaxed);
            (result, pair.join().map_err(|_| anyhow!("the pair's thread panicked")))
        });
        let result = result?;
        rounds?.context("the bystanders were disturbed")?;
        self.exchange(77).context("the bystanders were disturbed")?;
        Ok(result)
    }

    /// What must be true when the hostile ones are gone: nothing lost, and nothing left.
    pub fn undisturbed(&self, world: &World) -> Result<()> {
        let seen = self.consumer.call(Task::Count { key: self.kept, byte: MARK })?.count()?;
        ensure!(seen >= BYTES, "the kept buffer has {seen} of {BYTES} bytes");
        world.wait_counts(self.device, (1, 1, 0))?;
        let end = Instant::now() + BOUND;
        loop {
            let now = self.steady(world)?;
            // vgem's guards keep some spare buffers, as many as were needed at one time, to 16.
            let spare = if world.backend() == Backend::Vgem { 16 } else { 0 };
            if (self.before.len()..=self.before.len() + spare).contains(&now.len()) {
                show(format_args!("the broker's descriptors: {}", now.len()));
                return Ok(());
            }
            if Instant::now() > end {
                bail!("the broker's descriptors were {:#?} and are {now:#?}", self.before);
            }
        }
    }

    /// The broker's descriptors when they have stopped changing: a round of the pair's between two
    /// looks is what passes the time.
    fn steady(&self, world: &World) -> Result<Vec<String>> {
        let broker = world.broker()?;
        let end = Instant::now() + BOUND;
        let mut last = broker.descriptors()?;
        loop {
            self.exchange(78)?;
            let now = broker.descriptors()?;
            if now.len() == last.len() {
                return Ok(now);
            }
            ensure!(Instant::now() < end, "the broker's descriptors do not come to rest");
            last = now;
        }
    }
}
