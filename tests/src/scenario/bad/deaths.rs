//! Clients that die in the middle of anything: by SIGKILL while they are busy, and at points that a
//! kill hits only by luck.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use dmashare_proto::message::{Policy, Request};

use crate::actor::Task;
use crate::hostile::objects::{export, grant, import, share_fence};
use crate::hostile::{Bystanders, Raw};
use crate::scenario::figures::show;
use crate::{BOUND, Buffer, Card, Role, Source, User, World};

/// How often each.
const KILLS: u32 = 6;
const BURST: usize = 40;

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Stay)?;
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    pair.meanwhile(|| {
        for round in 0..KILLS {
            killed(world, &card).with_context(|| format!("kill {round}"))?;
        }
        let mut sources = Vec::new();
        after_each(world, &card, &mut sources)?;
        for unread in [false, true] {
            burst(world, &card, unread)?;
        }
        many_fences(world, &card, &mut sources)?;
        // Fences outlive who shared them, until they end.
        for source in &mut sources {
            source.signal()?;
        }
        world.wait_counts(device, (0, 0, 0))
    })?;
    pair.undisturbed(world)
}

/// Busy with everything that there is to do, until it is killed.
fn killed(world: &World, card: &Card) -> Result<()> {
    let device = world.device(card)?.id;
    let victim = world.client("victim", User::Alice)?;
    let hammer = victim.begin(Task::Hammer { card: card.clone(), rounds: None, foreign: None })?;
    world.wait_device(device, "the victim is busy", |device| {
        device.is_some_and(|device| device.buffers > 0 && device.imports > 0)
    })?;
    drop(hammer);
    let pid = victim.process().0.unsigned_abs();
    victim.kill()?;
    world.bus().until("the victim is forgotten", BOUND, |bus| {
        Ok((!bus.clients()?.contains(&pid)).then_some(()))
    })
}

/// The end comes after so many requests, the last of which is not waited for.
fn after_each(world: &World, card: &Card, sources: &mut Vec<Source>) -> Result<()> {
    let buffer = Buffer::make(card, 16, 16)?;
    let node = buffer.node.as_fd();
    for stage in 0..=7 {
        let mut raw = Raw::connect(&world.socket())?;
        let hello = Raw::hello_named("short-lived");
        if stage == 0 {
            let (_, bytes) = raw.encoded(&hello, 0)?;
            raw.send_bytes(&bytes, &[])?;
            continue;
        }
        raw.request(&hello, &[])?;
        let planes = [node, buffer.dma_buf.as_fd()];
        if stage == 1 {
            let (_, bytes) = raw.encoded(&export(&buffer.layout), 2)?;
            raw.send_bytes(&bytes, &planes)?;
            continue;
        }
        let object = raw.export(&buffer)?.buffer;
        let last = match stage {
            2 => grant(object, 1, 1000),
            3 => Request::Release(object),
            4 => import(raw.grant(object, 1)?),
            5 => {
                let token = raw.grant(object, 2)?;
                raw.import(token)?;
                import(token)
            }
            _ => {
                let source = Source::endless(world.is_simulated())?;
                let (_, bytes) = raw.encoded(&share_fence(Policy::Auto), 2)?;
                if stage == 6 {
                    raw.send_bytes(&bytes, &[node, source.fd()])?;
                    sources.push(source);
                    continue;
                }
                let fence = raw.share_fence(node, source.fd())?.fence;
                sources.push(source);
                let token = raw.grant(fence, 2)?;
                raw.import_fence(token)?;
                Request::QueryFence(fence)
            }
        };
        let (_, bytes) = raw.encoded(&last, 0)?;
        raw.send_bytes(&bytes, &[])?;
    }
    show("it ended after each of the requests");
    Ok(())
}

/// Each of which costs the broker descriptors while it is pending, and none after that.
fn many_fences(world: &World, card: &Card, sources: &mut Vec<Source>) -> Result<()> {
    let node = card.open()?;
    let mut raw = Raw::hello(&world.socket(), "many fences")?;
    for _ in 0..BURST {
        let source = Source::endless(world.is_simulated())?;
        raw.share_fence(node.as_fd(), source.fd())?;
        sources.push(source);
    }
    Ok(())
}

/// Half of what it meant to send; with `unread`, after answers came that hold descriptors.
fn burst(world: &World, card: &Card, unread: bool) -> Result<()> {
    let buffer = Buffer::make(card, 16, 16)?;
    let mut raw = Raw::hello(&world.socket(), "burst")?;
    let object = raw.export(&buffer)?.buffer;
    let token = raw.grant(object, u32::MAX)?;
    for _ in 0..BURST {
        let (_, bytes) = raw.encoded(&import(token), 0)?;
        raw.send_bytes(&bytes, &[])?;
        let (_, bytes) = raw.encoded(&export(&buffer.layout), 2)?;
        raw.send_bytes(&bytes, &[buffer.node.as_fd(), buffer.dma_buf.as_fd()])?;
    }
    if unread {
        let device = world.device(card)?.id;
        let all = u32::try_from(BURST)?;
        world.wait_device(device, "all of the burst is done", |device| {
            device.is_some_and(|device| (device.buffers, device.imports) == (1 + all, all))
        })?;
    }
    Ok(())
}
