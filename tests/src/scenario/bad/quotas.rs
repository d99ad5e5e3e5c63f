//! More objects, tokens and pending fences than one may have.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use dmashare_proto::ErrorCode;
use dmashare_proto::message::Policy;

use crate::hostile::objects::{export, grant, import, share_fence};
use crate::hostile::{Bystanders, Raw, as_user, expect};
use crate::{Buffer, Role, Source, World};

pub(super) const LIMITS: &str =
    "[limits]\nobjects_per_client = 12\ntokens_per_client = 5\npending_fences_per_uid = 7\n";
const OBJECTS: usize = 12;
const TOKENS: usize = 5;
const FENCES: usize = 7;
const HOARDER: u32 = 54_321;

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    pair.meanwhile(|| objects(world, &buffer))?;
    pair.undisturbed(world)?;
    pair.meanwhile(|| tokens(world, &buffer))?;
    pair.undisturbed(world)?;
    pair.meanwhile(|| as_user(HOARDER, || fences(world, &buffer)))?;
    pair.undisturbed(world)
}

fn objects(world: &World, buffer: &Buffer) -> Result<()> {
    let mut raw = Raw::hello(&world.socket(), "hoarder")?;
    let fds = [buffer.node.as_fd(), buffer.dma_buf.as_fd()];
    let first = raw.export(buffer)?.buffer;
    let token = raw.grant(first, u32::MAX)?;
    let mut mine = vec![first];
    while mine.len() < OBJECTS {
        mine.push(match mine.len() % 2 {
            0 => raw.export(buffer)?.buffer,
            _ => raw.import(token)?.0.import,
        });
    }
    let source = Source::endless(world.is_simulated())?;
    for (request, fds) in [
        (export(&buffer.layout), &fds[..]),
        (import(token), &[]),
        (share_fence(Policy::Auto), &[buffer.node.as_fd(), source.fd()]),
    ] {
        let error = raw.refused(&request, fds)?;
        expect(&error, ErrorCode::OVER_QUOTA, &["limits.objects_per_client = 12"])
            .context(request.name())?;
    }
    raw.release(mine.pop().context("the last")?)?;
    raw.export(buffer).context("after one was released")?;
    // Another connection has its own.
    Raw::hello(&world.socket(), "other")?.import(token).context("another client")?;
    Ok(())
}

fn tokens(world: &World, buffer: &Buffer) -> Result<()> {
    let mut raw = Raw::hello(&world.socket(), "hoarder")?;
    let object = raw.export(buffer)?.buffer;
    let mine = (0..TOKENS).map(|_| raw.grant(object, 1)).collect::<Result<Vec<_>>>()?;
    for _ in 0..20 {
        let error = raw.refused(&grant(object, 1, 60_000), &[])?;
        expect(&error, ErrorCode::OVER_QUOTA, &["limits.tokens_per_client = 5"])?;
    }
    raw.import(mine[0])?;
    let token = raw.grant(object, 1).context("after one was used")?;
    raw.import(token).context("the new one")?;
    for &token in &mine[1..] {
        raw.import(token).context("the others are as they were")?;
    }
    Ok(())
}

/// Released or not, and whoever has left: a pending fence costs the broker until it ends.
fn fences(world: &World, buffer: &Buffer) -> Result<()> {
    let node = buffer.node.as_fd();
    let mut sources = Vec::new();
    for _ in 0..FENCES {
        let source = Source::endless(world.is_simulated())?;
        let mut raw = Raw::hello(&world.socket(), "hoarder")?;
        let fence = raw.share_fence(node, source.fd())?.fence;
        raw.release(fence)?;
        sources.push(source);
    }
    let mut raw = Raw::hello(&world.socket(), "hoarder")?;
    let source = Source::endless(world.is_simulated())?;
    for _ in 0..20 {
        let error = raw.refused(&share_fence(Policy::Auto), &[node, source.fd()])?;
        expect(&error, ErrorCode::OVER_QUOTA, &["limits.pending_fences_per_uid = 7"])?;
    }
    sources.push(source);
    for source in &mut sources {
        source.signal()?;
    }
    let device = world.device(&world.egpu()?)?.id;
    // The pair's own come and go.
    world.wait_device(device, "the hoarder's fences have ended", |device| {
        device.is_some_and(|device| device.fences <= 1)
    })?;
    let mut source = Source::endless(world.is_simulated())?;
    let fence = raw.share_fence(node, source.fd()).context("after they ended")?.fence;
    source.signal()?;
    raw.release(fence)
}
