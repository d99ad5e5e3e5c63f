//! Ids that were never given out, were given back, or are somebody else's.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare_proto::message::Request;
use dmashare_proto::{DeviceId, ErrorCode, ObjectId};

use crate::hostile::objects::grant;
use crate::hostile::{Bystanders, Raw, expect};
use crate::{Buffer, Role, Source, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let mut raw = Raw::hello(&world.socket(), "ids")?;
        let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
        for (what, id) in [
            ("zero", 0),
            ("one that will never be reached", u64::MAX),
            ("another", u64::MAX / 2),
            ("another client's", pair.kept_id().0),
            ("a device's", pair.device().0),
        ] {
            unknown(&mut raw, ObjectId(id)).context(what)?;
        }
        let exported = raw.export(&buffer)?.buffer;
        raw.release(exported)?;
        unknown(&mut raw, exported).context("one that was released")?;
        wrong_kinds(world, &mut raw, &buffer)?;
        devices(world, &mut raw)
    })?;
    pair.undisturbed(world)
}

/// Every request that names an object.
fn unknown(raw: &mut Raw, object: ObjectId) -> Result<()> {
    for request in [Request::Release(object), Request::QueryFence(object), grant(object, 1, 1000)] {
        let error = raw.refused(&request, &[])?;
        let words = format!("no object {object}");
        expect(&error, ErrorCode::UNKNOWN_OBJECT, &[&words]).context(request.name())?;
        ensure!(error.object == object.0, "{}: about {}", request.name(), error.object);
    }
    Ok(())
}

fn wrong_kinds(world: &World, raw: &mut Raw, buffer: &Buffer) -> Result<()> {
    let exported = raw.export(buffer)?.buffer;
    let token = raw.grant(exported, 1)?;
    let import = raw.import(token)?.0.import;
    for object in [exported, import] {
        let error = raw.refused(&Request::QueryFence(object), &[])?;
        expect(&error, ErrorCode::WRONG_OBJECT, &["no fence"])?;
        ensure!(error.object == object.0, "it is about {}", error.object);
    }
    let mut source = Source::endless(world.is_simulated())?;
    let fence = raw.share_fence(buffer.node.as_fd(), source.fd())?.fence;
    source.signal()?;
    for object in [exported, import, fence] {
        raw.release(object)?;
        let error = raw.refused(&Request::Release(object), &[])?;
        expect(&error, ErrorCode::UNKNOWN_OBJECT, &[&object.to_string()]).context("twice")?;
    }
    Ok(())
}

/// A loss that did not happen is acknowledged.
fn devices(world: &World, raw: &mut Raw) -> Result<()> {
    for id in [0, u64::MAX] {
        let error = raw.refused(&Request::Acknowledge(DeviceId(id)), &[])?;
        expect(&error, ErrorCode::UNKNOWN_DEVICE, &[&format!("no device {id}")])?;
    }
    let device = world.device(&world.egpu()?)?.id;
    let error = raw.refused(&Request::Acknowledge(device), &[])?;
    expect(&error, ErrorCode::BAD_VALUE, &[&format!("device {device} is not lost")])?;
    ensure!(error.object == device.0, "it is about {}", error.object);
    Ok(())
}
