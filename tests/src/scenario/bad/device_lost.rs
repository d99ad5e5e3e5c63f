//! A device that is lost between two messages of a client.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;
use dmashare_proto::message::{Cause, Event, FenceState, Policy, Reply, Request};

use crate::hostile::objects::{export, grant, import, share_fence};
use crate::hostile::{Bystanders, Raw, expect};
use crate::scenario::figures::show;
use crate::{Buffer, Role, Source, Unplug, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Stay)?;
    pair.meanwhile(|| between(world))?;
    pair.undisturbed(world)?;
    world.replug()?;
    pair.undisturbed(world)
}

fn between(world: &World) -> Result<()> {
    let card = world.egpu()?;
    let device = world.device(&card)?.id;
    let buffer = Buffer::make(&card, 16, 16)?;
    let node = buffer.node.as_fd();
    let source = Source::endless(world.is_simulated())?;
    let mut raw = Raw::hello(&world.socket(), "between")?;
    let exported = raw.export(&buffer)?.buffer;
    let token = raw.grant(exported, 9)?;
    let fence = raw.share_fence(node, source.fd())?.fence;
    let fence_token = raw.grant(fence, 9)?;
    let imported = raw.import(token)?.0.import;
    // Given away, and not even known to the client when the device goes.
    let (pending, bytes) = raw.encoded(&import(token), 0)?;
    raw.send_bytes(&bytes, &[])?;
    world.wait_counts(device, (1, 2, 1))?;

    world.unplug(Unplug::Remove)?;

    let (answer, _) = raw.answer(pending)?;
    ensure!(matches!(answer, Reply::Imported(_)), "the last import before the loss: {answer:?}");
    match raw.event()? {
        Event::DeviceLost(lost) => {
            ensure!(lost.device == device, "another device is lost: {lost:?}");
            ensure!((lost.buffers, lost.imports) == (1, 2), "what it had: {lost:?}");
        }
        other => anyhow::bail!("no loss but {other:?}"),
    }
    let planes = [node, buffer.dma_buf.as_fd()];
    let requests: [(Request, &[_]); 6] = [
        (grant(exported, 1, 1000), &[]),
        (import(token), &[]),
        (Request::ImportFence(fence_token), &[]),
        (export(&buffer.layout), &planes),
        (share_fence(Policy::Auto), &[node, source.fd()]),
        (share_fence(Policy::Pass), &[node, source.fd()]),
    ];
    for (request, fds) in &requests {
        // A fence that has ended can be imported: it says how it ended.
        if let Request::ImportFence(_) = request {
            continue;
        }
        let error = raw.refused(request, fds)?;
        expect(&error, ErrorCode::DEVICE_LOST, &[&format!("device {device} is gone")])
            .context(request.name())?;
        ensure!(error.object == device.0, "{}: about {}", request.name(), error.object);
    }
    let (reply, _) = raw.request(&Request::QueryFence(fence), &[])?;
    let Reply::FenceState(FenceState::Failed { cause: Cause::Unplugged, .. }) = reply else {
        anyhow::bail!("the fence is {reply:?}");
    };
    // Ids of what was lost can be given back, once; acknowledging twice does no harm.
    for object in [exported, imported, fence] {
        raw.release(object)?;
        let error = raw.refused(&Request::Release(object), &[])?;
        expect(&error, ErrorCode::UNKNOWN_OBJECT, &[&object.to_string()])?;
    }
    for _ in 0..2 {
        let (reply, _) = raw.request(&Request::Acknowledge(device), &[])?;
        ensure!(matches!(reply, Reply::Done(())), "acknowledging: {reply:?}");
    }
    drop((raw, buffer));
    world.wait_gone(device)?;
    show("refused as lost, and gone");
    Ok(())
}
