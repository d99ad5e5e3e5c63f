//! Each quota exhausted in turn by one user, in several connections, while others go on; what is shown
//! of it, and that it is given back.

use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;
use dmashare_proto::message::{Policy, Reply};
use dmashare_proto::usage::{Row, Usage};

use crate::hostile::objects::{export, grant, import, share_fence};
use crate::hostile::{Bystanders, Raw, as_user, expect};
use crate::scenario::bad::readers::ask_on;
use crate::scenario::figures::show;
use crate::{BOUND, Buffer, Role, Source, World};

pub(super) const LIMITS: &str = "[limits]\n\
    objects_per_client = 12\nobjects_per_uid = 20\n\
    tokens_per_client = 5\ntokens_per_uid = 8\n\
    descriptors_per_client = 30\ndescriptors_per_uid = 40\n";
pub(super) const IN_FLIGHT: &str = "[limits]\nqueue_descriptors_per_client = 100\n";

const HOARDER: u32 = 54_321;

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    for (what, exhaust) in
        [("objects", objects as fn(&World, &Buffer) -> Result<()>), ("tokens", tokens)]
    {
        pair.meanwhile(|| as_user(HOARDER, || exhaust(world, &buffer))).context(what)?;
        settled(world)?;
        pair.undisturbed(world)?;
    }
    pair.meanwhile(|| as_user(HOARDER, || descriptors(world, &buffer))).context("descriptors")?;
    settled(world)?;
    pair.undisturbed(world)
}

/// A client, and a second one that helps it on to the user's limit.
fn two(world: &World) -> Result<(Raw, Raw)> {
    let hello = |name| Raw::hello(&world.socket(), name);
    Ok((hello("hoarder")?, hello("helper")?))
}

fn objects(world: &World, buffer: &Buffer) -> Result<()> {
    let (mut first, mut second) = two(world)?;
    let fds = [buffer.node.as_fd(), buffer.dma_buf.as_fd()];
    let last = (0..12).map(|_| first.export(buffer)).last().context("twelve")??;
    let over = |raw: &mut Raw, limit| {
        let error = raw.refused(&export(&buffer.layout), &fds)?;
        expect(&error, ErrorCode::OVER_QUOTA, &[limit])
    };
    over(&mut first, "limits.objects_per_client = 12")?;
    for _ in 0..8 {
        second.export(buffer)?;
    }
    over(&mut second, "limits.objects_per_uid = 20")?;
    shows(world, "objects", 20, 20)?;
    first.release(last.buffer)?;
    second.export(buffer).context("after one of the other's was released")?;
    over(&mut second, "limits.objects_per_uid = 20")
}

fn tokens(world: &World, buffer: &Buffer) -> Result<()> {
    let (mut first, mut second) = two(world)?;
    let (mine, its) = (first.export(buffer)?.buffer, second.export(buffer)?.buffer);
    let over = |raw: &mut Raw, object, limit| {
        let error = raw.refused(&grant(object, 1, 60_000), &[])?;
        expect(&error, ErrorCode::OVER_QUOTA, &[limit])
    };
    let granted = (0..5).map(|_| first.grant(mine, 1)).collect::<Result<Vec<_>>>()?;
    over(&mut first, mine, "limits.tokens_per_client = 5")?;
    for _ in 0..3 {
        second.grant(its, 1)?;
    }
    over(&mut second, its, "limits.tokens_per_uid = 8")?;
    shows(world, "tokens", 8, 8)?;
    second.import(granted[0]).context("one is used")?;
    second.grant(its, 1).context("and makes room")?;
    Ok(())
}

/// By pending fences, which are on the account also when who shared them has left.
fn descriptors(world: &World, buffer: &Buffer) -> Result<()> {
    let (mut first, mut second) = two(world)?;
    let node = buffer.node.as_fd();
    let mut sources = Vec::new();
    let mut fill = |raw: &mut Raw, limit: &str| -> Result<()> {
        loop {
            let source = Source::endless(world.is_simulated())?;
            match raw.request(&share_fence(Policy::Auto), &[node, source.fd()])? {
                (Reply::Error(error), _) => return expect(&error, ErrorCode::OVER_QUOTA, &[limit]),
                _ => sources.push(source),
            }
            ensure!(sources.len() < 40, "{} fences, and no end", sources.len());
        }
    };
    // A connection is two, and a guarded fence three.
    fill(&mut first, "limits.descriptors_per_client = 30")?;
    // What was passed and is being closed counts too, so how many fences fit is not exact.
    fill(&mut second, "limits.descriptors_per_uid = 40")?;
    drop((first, second));
    shows(world, "descriptors", 3 * sources.len() as u64, 40)?;
    for source in &mut sources {
        source.signal()?;
    }
    Ok(())
}

/// Descriptors that a client does not receive: it is disconnected at its bound, and they stay on its
/// user's account for as long as it keeps them in its socket.
pub(super) fn run_in_flight(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    pair.meanwhile(|| {
        let mut owner = Raw::hello(&world.socket(), "owner")?;
        let object = owner.export(&buffer)?.buffer;
        let token = owner.grant(object, u32::MAX)?;
        as_user(HOARDER, || {
            let mut takes = Raw::hello(&world.socket(), "takes and does not receive")?;
            let asked = ask_on(&mut takes, &import(token))?;
            show(format_args!("disconnected after {asked} imports that it did not take out"));
            pair.exchange(3)?;
            // It is gone from the broker's clients, and what is in its socket is not.
            asked_until(world, "descriptors in flight on the account", |usage| {
                let used = |what: &str| row(usage, what).map_or(0, |row| row.used);
                let there = used("queued descriptors") > 64 && used("connections") == 1;
                let client = usage.users.iter().find(|user| user.uid == HOARDER);
                there && client.is_some_and(|user| user.clients.is_empty())
            })?;
            drop(takes);
            Ok(())
        })
    })?;
    settled(world)?;
    pair.undisturbed(world)
}

fn row<'a>(usage: &'a Usage, resource: &str) -> Option<&'a Row> {
    let user = usage.users.iter().find(|user| user.uid == HOARDER)?;
    user.rows.iter().find(|row| row.resource == resource)
}

fn shows(world: &World, resource: &str, used: u64, most: u64) -> Result<()> {
    asked_until(world, &format!("{used} {resource} of {most}"), |usage| {
        row(usage, resource).is_some_and(|row| (row.used, row.most) == (used, Some(most)))
    })
}

/// Nothing is left on the hoarder's account.
fn settled(world: &World) -> Result<()> {
    asked_until(world, "nothing on the hoarder's account", |usage| {
        usage.users.iter().all(|user| user.uid != HOARDER)
    })
}

/// Asks again and again: no signal tells of accounts.
fn asked_until(world: &World, what: &str, is: impl Fn(&Usage) -> bool) -> Result<()> {
    let end = Instant::now() + BOUND;
    loop {
        let usage = world.bus().usage()?;
        if is(&usage) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{what}: not within {BOUND:?}; shown are {usage:#?}");
    }
}
