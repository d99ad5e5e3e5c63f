//! Tokens that give nothing, and rights that nobody has.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dmashare_proto::limits::MAX_TOKEN_TTL_MS;
use dmashare_proto::message::Request;
use dmashare_proto::{ErrorCode, ObjectId, Token};

use crate::hostile::objects::{grant, import};
use crate::hostile::{Bystanders, Raw, as_user, expect};
use crate::{Buffer, Role, Source, Unplug, World};

/// Users of whom no process need be.
const SOMEBODY: u32 = 54_321;
const SOMEBODY_ELSE: u32 = 54_322;

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
        let mut owner = Raw::hello(&world.socket(), "owner")?;
        let mut thief = Raw::hello(&world.socket(), "thief")?;
        let object = owner.export(&buffer)?.buffer;
        no_good(&mut owner, &mut thief, object)?;
        of_another_kind(world, &mut owner, &mut thief, object)?;
        bad_grants(&mut owner, &mut thief, object)?;
        let token = owner.grant(object, 2)?;
        owner.release(object)?;
        bad_token(&mut thief, token).context("of a released buffer")?;
        let object = owner.export(&buffer)?.buffer;
        let token = owner.grant(object, 2)?;
        drop(owner);
        // Its end is seen when it is seen; until then the token is good.
        let end = Instant::now() + crate::BOUND;
        while let Ok((imported, _)) = thief.import(token) {
            thief.release(imported.import)?;
            ensure!(Instant::now() < end, "the token outlives its maker");
        }
        bad_token(&mut thief, token).context("of one who left")
    })?;
    pair.undisturbed(world)?;
    pair.meanwhile(|| other_users(world))?;
    pair.undisturbed(world)
}

fn bad_token(raw: &mut Raw, token: Token) -> Result<()> {
    for request in [import(token), Request::ImportFence(token)] {
        expect(&raw.refused(&request, &[])?, ErrorCode::BAD_TOKEN, &["the token"])?;
    }
    Ok(())
}

fn no_good(owner: &mut Raw, thief: &mut Raw, object: ObjectId) -> Result<()> {
    let good = owner.grant(object, 1)?;
    for (what, token) in [
        ("zeros", Token([0; 16])),
        ("ones", Token([0xff; 16])),
        ("guessed", Token(*b"sixteen letters.")),
        ("almost right", Token(std::array::from_fn(|i| good.0[i] ^ u8::from(i == 15)))),
    ] {
        bad_token(thief, token).context(what)?;
    }
    let (imported, fds) = thief.import(good)?;
    ensure!(fds.len() == 1, "an import with {} descriptors", fds.len());
    bad_token(thief, good).context("used up")?;
    thief.release(imported.import)?;
    bad_token(thief, good).context("used up and released")?;

    // It expires a millisecond after the broker made it, which is before the answer came.
    let (reply, _) = owner.request(&grant(object, 1, 1), &[])?;
    let dmashare_proto::Reply::Granted(short) = reply else { anyhow::bail!("{reply:?}") };
    let end = Instant::now() + Duration::from_millis(2);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    bad_token(thief, short).context("expired")
}

fn of_another_kind(
    world: &World,
    owner: &mut Raw,
    thief: &mut Raw,
    object: ObjectId,
) -> Result<()> {
    let mut source = Source::endless(world.is_simulated())?;
    let node = world.egpu()?.open()?;
    let fence = owner.share_fence(node.as_fd(), source.fd())?.fence;
    let (to_buffer, to_fence) = (owner.grant(object, 1)?, owner.grant(fence, 1)?);
    let error = thief.refused(&Request::ImportFence(to_buffer), &[])?;
    expect(&error, ErrorCode::WRONG_OBJECT, &["for a buffer", "use Import"])?;
    let error = thief.refused(&import(to_fence), &[])?;
    expect(&error, ErrorCode::WRONG_OBJECT, &["for a fence", "use ImportFence"])?;
    // Neither was used up by that.
    let imported = thief.import(to_buffer)?.0.import;
    let waited = thief.import_fence(to_fence)?.0.fence;
    source.signal()?;
    for object in [imported, waited] {
        thief.release(object)?;
    }
    owner.release(fence)
}

fn bad_grants(owner: &mut Raw, thief: &mut Raw, object: ObjectId) -> Result<()> {
    for (uses, ttl_ms) in [(0, 1), (1, 0), (1, MAX_TOKEN_TTL_MS + 1), (u32::MAX, u32::MAX)] {
        let error = owner.refused(&grant(object, uses, ttl_ms), &[])?;
        expect(&error, ErrorCode::BAD_VALUE, &["86400000"])?;
        ensure!(error.object == object.0, "it is about {}, not about {object}", error.object);
    }
    let error = thief.refused(&grant(object, 1, 1), &[])?;
    expect(&error, ErrorCode::UNKNOWN_OBJECT, &[&object.to_string()])?;
    let token = owner.grant(object, 1)?;
    let imported = thief.import(token)?.0.import;
    let error = thief.refused(&grant(imported, 1, 1), &[])?;
    expect(&error, ErrorCode::WRONG_OBJECT, &["this is an import"])?;
    thief.release(imported)
}

/// What is for one user is nobody else's, root's neither.
fn other_users(world: &World) -> Result<()> {
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let socket = world.socket();
    let mut owner = Raw::hello(&socket, "owner")?;
    let object = owner.export(&buffer)?.buffer;
    let token = owner.grant_to(object, SOMEBODY)?;
    bad_token(&mut owner, token).context("the maker's own use")?;
    as_user(SOMEBODY_ELSE, || bad_token(&mut Raw::hello(&socket, "else")?, token))
        .context("another user")?;
    as_user(SOMEBODY, || {
        let mut raw = Raw::hello(&socket, "somebody")?;
        let imported = raw.import(token)?.0.import;
        raw.release(imported)
    })
    .context("the user that it is for")
}

/// What is lost is said to be lost, to who has the right, and to nobody else.
pub(super) fn run_lost(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Stay)?;
    pair.meanwhile(|| {
        let card = world.egpu()?;
        let device = world.device(&card)?.id;
        let mut owner = Raw::hello(&world.socket(), "owner")?;
        let mut other = Raw::hello(&world.socket(), "other")?;
        let object = owner.export(&Buffer::make(&card, 16, 16)?)?.buffer;
        let token = owner.grant(object, 1)?;
        let foreign = owner.grant_to(object, SOMEBODY)?;
        world.unplug(Unplug::Remove)?;
        world.wait_gone(device)?;
        for request in [import(token), Request::ImportFence(token)] {
            let error = other.refused(&request, &[])?;
            expect(&error, ErrorCode::DEVICE_LOST, &[&format!("device {device}")])?;
            ensure!(error.object == device.0, "it is about {}", error.object);
        }
        bad_token(&mut other, foreign).context("another user's")?;
        bad_token(&mut other, Token(*b"sixteen letters.")).context("a wrong one")?;
        owner.release(object)?;
        bad_token(&mut other, token).context("of what its maker has released")?;
        world.replug()?;
        bad_token(&mut other, token).context("after the card came back")
    })?;
    pair.undisturbed(world)
}
