//! Clients that try what is not theirs.

use anyhow::{Context, Result, anyhow, bail, ensure};
use dmashare_proto::message::{Access, AttachFence, PointAt, Reply, Request};
use dmashare_proto::{ErrorCode, ObjectId, Token};

use crate::hostile::objects::{grant, import};
use crate::hostile::pace::{amount, under_attack};
use crate::hostile::{Raw, expect};
use crate::{Buffer, World};

/// Tokens by chance, and by changing a bit of one that is good.
pub(super) fn tokens(world: &mut World) -> Result<()> {
    let guesses = amount(world, 10_000, 1_000)?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    under_attack(world, || {
        let mut owner = Raw::hello(&world.socket(), "owner")?;
        let object = owner.export(&buffer)?.buffer;
        let token = owner.grant(object, 1)?;
        let mut raw = Raw::hello(&world.socket(), "guesses")?;
        for guess in 0..guesses {
            let wrong = if guess < 128 {
                let mut bytes = token.0;
                bytes[guess / 8] ^= 1 << (guess % 8);
                Token(bytes)
            } else {
                Token::random().map_err(|error| anyhow!("no random bytes: {error}"))?
            };
            for request in [import(wrong), Request::ImportFence(wrong)] {
                expect(&raw.refused(&request, &[])?, ErrorCode::BAD_TOKEN, &[])?;
            }
        }
        // The good one was not used up by that.
        raw.import(token).context("the token itself").map(drop)
    })
}

/// Each id up to the newest, which somebody has or had, in each request that names one.
pub(super) fn ids(world: &mut World) -> Result<()> {
    let most = amount(world, 1_000, 200)? as u64;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    under_attack(world, || {
        let mut owner = Raw::hello(&world.socket(), "owner")?;
        let object = owner.export(&buffer)?.buffer;
        let mut raw = Raw::hello(&world.socket(), "names others'")?;
        for id in object.0.saturating_sub(most)..object.0 + most / 4 {
            let id = ObjectId(id);
            let at = PointAt { timeline: id, point: 1 };
            for request in [
                Request::Release(id),
                Request::QueryFence(id),
                Request::QueryPoint(at),
                Request::WaitPoint(at),
                Request::PromisePoint(at),
                Request::AttachFence(AttachFence { fence: id, buffer: id, access: Access::Write }),
                grant(id, 1, 1000),
            ] {
                match raw.request(&request, &[])? {
                    (Reply::Error(error), fds) if fds.is_empty() => {
                        expect(&error, ErrorCode::UNKNOWN_OBJECT, &[])
                            .with_context(|| format!("{} of {id}", request.name()))?;
                    }
                    (other, _) => bail!("{} of {id} was answered by {other:?}", request.name()),
                }
            }
        }
        let token = owner.grant(object, 1).context("the owner's object")?;
        let (imported, _) = owner.import(token)?;
        ensure!(imported.import.0 > object.0, "ids go up");
        Ok(())
    })
}
