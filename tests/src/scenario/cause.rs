//! 13: Why something ended, asked over the bus when it is long gone, by whom it was, and by others.

use std::os::fd::AsFd;

use anyhow::{Context, ensure};
use dmashare_proto::ErrorCode;
use dmashare_proto::message::Policy;

use super::pair::{Pair, WAIT_MS, long_deadline_ms};
use crate::actor::Task;
use crate::clock::now_ns;
use crate::hostile::objects::share_fence;
use crate::hostile::{Raw, expect};
use crate::scenario::figures::show;
use crate::{BOUND, Source, Unplug, User, World};

const UNKNOWN: &str = "org.dmashare.Error.UnknownObject";

pub(super) fn run(world: &mut World) -> anyhow::Result<()> {
    let pair = Pair::new(world)?;
    let source = Source::endless(world.is_simulated())?;
    let task = Task::ShareFence { card: pair.card.clone(), deadline_ms: long_deadline_ms(world) };
    let shared = pair.exporter.begin_with(task, &[source.fd()])?.wait(BOUND)?;
    let (key, fence, device) = shared.object()?;
    let token = pair.token_for(&pair.importer, key)?;
    let (handle_key, handle, _) = pair.importer.call(Task::ImportFence { token })?.object()?;
    let card = pair.card.clone();
    let exported = pair.exporter.call(Task::Export { card, width: 16, height: 16 })?.key()?;
    let token = pair.token_for(&pair.importer, exported)?;
    let (_, import, _) = pair.importer.call(Task::Import { token, by: None })?.object()?;
    for object in [fence, handle, import] {
        let told = world.bus().cause(object)?;
        ensure!(told == Err(UNKNOWN.to_owned()), "{object} has not failed: {told:?}");
    }
    let mut late = Raw::hello(&world.socket(), "late")?;
    let node = pair.card.open_render()?;

    // Whoever was woken by the end is told, though nothing else may know of it yet.
    let waiting = pair.importer.begin(Task::Wait { key: handle_key, bound_ms: WAIT_MS })?;
    waiting.at_it(BOUND)?;
    let begun_ns = now_ns();
    std::thread::scope(|scope| {
        let unplug = scope.spawn(|| world.unplug(Unplug::Remove));
        waiting.wait(BOUND)?.fence()?;
        told(world.bus().cause(fence)?, begun_ns).context("at once")?;
        unplug.join().map_err(|_| anyhow::anyhow!("the unplug panicked"))?
    })?;
    let error = late.refused(&share_fence(Policy::Auto), &[node.as_fd(), source.fd()])?;
    expect(&error, ErrorCode::DEVICE_LOST, &["is gone (unplugged);"])?;

    // Everything and everyone goes.
    drop((pair, late, node, source));
    world.wait_gone(device)?;
    world.bus().until("no clients", BOUND, |bus| Ok(bus.clients()?.is_empty().then_some(())))?;
    let actors = [User::Alice, User::Bob].map(|user| world.actor("who asks", user));
    let [alice, bob] = actors;
    let (alice, bob) = (alice?, bob?);
    for (object, owner, other) in
        [(fence, &alice, &bob), (handle, &bob, &alice), (import, &bob, &alice)]
    {
        told(world.bus().cause(object)?, begun_ns).context("root, or all are one user's")?;
        let ask = Task::AskCause { bus: world.bus_address(), object };
        told(owner.call(ask.clone())?.cause()?, begun_ns).context("its owner")?;
        if owner.process().uid()? != other.process().uid()? {
            let answer = other.call(ask)?.cause()?;
            ensure!(answer == Err(UNKNOWN.to_owned()), "another user was told {answer:?}");
            show(format_args!("user {} is not told of {object}", other.process().uid()?));
        }
    }
    Ok(())
}

fn told(answer: Result<(String, i32, u64), String>, begun_ns: u64) -> anyhow::Result<()> {
    let (cause, errno, at_ns) = answer.map_err(anyhow::Error::msg)?;
    let expected = (cause.as_str(), errno) == ("unplugged", libc::ENODEV);
    ensure!(expected && at_ns >= begun_ns, "{cause} {errno} {at_ns}");
    Ok(())
}
