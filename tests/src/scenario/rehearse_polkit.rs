//! Who may rehearse for others, by the word of a real polkit.

use anyhow::{Result, ensure};
use dmashare::Cause;

use super::pair::Pair;
use super::polkit::{self, Rule};
use super::rehearse::{as_user, client_of, has_come_back, refused, unharmed};
use crate::actor::Task;
use crate::{BOUND, Bus, World};

const ACTION: &str = "org.dmashare.rehearse";
const ASKS: &str = "polkit would have to ask an administrator";

pub(super) fn run(world: &mut World) -> Result<()> {
    polkit::follow(world)?;
    let pair = Pair::new(world)?;
    let alice = client_of(world, &pair.exporter)?;
    let others = [(alice, "another user's client"), (0, "all clients")];
    let place = world.bus().now();
    // No administrator, and nobody to ask one.
    for (client, what) in others {
        refused("bob", pair.device, client, what, ASKS)?;
    }
    unharmed(world, &pair, place)?;

    let rule = Rule::begin(world, ACTION, "bob")?;
    allowed(&pair, alice)?;
    let loss = pair.exporter.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.cause == Cause::Rehearsed, "alice was told {loss:?}");
    unharmed(world, &pair, place)?;
    // It is bob's alone.
    refused("alice", pair.device, 0, "all clients", ASKS)?;
    unharmed(world, &pair, place)?;
    let place = world.bus().now();
    allowed(&pair, 0)?;
    let loss = pair.importer.call(Task::AwaitLoss { device: pair.device })?.loss()?;
    ensure!(loss.cause == Cause::Rehearsed, "bob was told {loss:?}");
    let path = Bus::device_path(pair.device);
    world.bus().wait("Lost", place, BOUND, |signal| {
        (signal.member == "Lost" && signal.path == path).then_some(())
    })?;
    has_come_back(world, &pair.card, pair.device)?;
    world.wait_gone(pair.device)?;

    rule.end(world)?;
    let pair = Pair::new(world)?;
    let place = world.bus().now();
    refused("bob", pair.device, 0, "all clients", ASKS)?;
    unharmed(world, &pair, place)
}

fn allowed(pair: &Pair, client: u64) -> Result<()> {
    let done = as_user("bob", pair.device, client)?;
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    ensure!(done.status.success(), "bob may not rehearse for {client}, by the rule: {why}");
    Ok(())
}
