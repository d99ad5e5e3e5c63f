//! Scenario 7: Calls that race with the unplug: each is swept or refused.

use anyhow::{Result, ensure};
use dmashare_proto::report::Step;

use crate::actor::{Tally, Task};
use crate::process::eventually;
use crate::scenario::figures::{note, show};
use crate::{BOUND, Unplug, User, World};

/// Rounds of each before the race, of up to six calls each.
const BEFORE: u32 = 20;

pub(super) fn run(world: &mut World) -> Result<()> {
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    let users = [User::Alice, User::Bob, User::Alice, User::Own];
    let names = ["hammer 1", "hammer 2", "hammer 3", "hammer 4"];
    let mut actors = Vec::new();
    for (name, user) in names.into_iter().zip(users) {
        actors.push(world.client(name, user)?);
    }
    // Each imports a buffer of the next one's too.
    let mut tokens = Vec::new();
    for actor in &actors {
        let export = Task::Export { card: card.clone(), width: 16, height: 16 };
        let key = actor.call(export)?.key()?;
        tokens.push(actor.call(Task::Grant { key, uid: None, uses: u32::MAX })?.token()?);
    }
    tokens.rotate_left(1);
    let hammer = |rounds| {
        let begun = actors.iter().zip(&tokens).map(|(actor, token)| {
            let foreign = Some(token.clone());
            actor.begin(Task::Hammer { card: card.clone(), rounds, foreign })
        });
        begun.collect::<Result<Vec<_>>>()
    };

    let mut sum = Tally::default();
    let mut add = |tally: &Tally| {
        sum.succeeded += tally.succeeded;
        sum.lost += tally.lost;
        sum.swept += tally.swept;
        sum.ended += tally.ended;
    };
    for begun in hammer(Some(BEFORE))? {
        let tally = begun.wait(BOUND)?.tally()?;
        ensure!(tally.lost == 0, "the device was lost too early: {tally:?}");
        add(&tally);
    }
    let own = u32::try_from(actors.len())?;
    world.wait_device(device, "all but a buffer of each is given back", |device| {
        device.is_some_and(|device| (device.buffers, device.imports) == (own, 0))
    })?;
    let begun = hammer(None)?;
    // They are at it when there is a good deal to be swept.
    world.wait_device(device, "the race has begun", |device| {
        device.is_some_and(|device| device.buffers > 8 * own)
    })?;
    world.unplug(Unplug::Remove)?;
    for begun in begun {
        let tally = begun.wait(BOUND)?.tally()?;
        ensure!(tally.lost > 0, "a process did not notice the loss: {tally:?}");
        add(&tally);
    }
    show(format_args!(
        "{} processes: {} calls succeeded, {} met the loss; {} objects swept, {} fences had ended",
        actors.len(),
        sum.succeeded,
        sum.lost,
        sum.swept,
        sum.ended
    ));
    note("calls", sum.succeeded + sum.lost);
    ensure!(sum.succeeded + sum.lost >= 300, "that was no race");
    ensure!(sum.swept > 0, "nothing was there to be swept");

    world.wait_gone(device)?;
    let report = world.report_with(device, Step::Gone)?;
    ensure!(report.overdue.is_empty(), "somebody was late: {report:?}");
    show(format_args!(
        "report: {} buffers, {} imports, {} guards; gone after {} µs",
        report.buffers,
        report.imports,
        report.guards,
        report.micros(Step::Gone).unwrap_or(0)
    ));
    for actor in &actors {
        actor.call(Task::AwaitLoss { device })?;
    }
    let broker = world.broker()?;
    eventually("the broker's dma-bufs are closed", BOUND, || {
        Ok(broker.dma_bufs()? == broker.vgem_dma_bufs()?)
    })?;
    eventually("the broker's sync_files are closed", BOUND, || {
        Ok(!broker.descriptors()?.iter().any(|link| link.contains("sync_file")))
    })
}
