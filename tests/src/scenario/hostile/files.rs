//! Files whose servers do not answer, and buffers whose exporters take their time.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use dmashare_proto::ErrorCode;
use dmashare_proto::message::Policy;

use crate::hostile::Raw;
use crate::hostile::fuse::Fuse;
use crate::hostile::objects::{export, share_fence};
use crate::hostile::pace::{amount, under_attack};
use crate::scenario::Skip;
use crate::scenario::figures::show;
use crate::{BOUND, Buffer, World};

/// Two descriptors each: below what one connection may have waiting to be closed, so that it is not
/// given up.
const OFFERED: usize = 24;
/// Connections that leave such files behind; a user has 64.
const CONNECTIONS: usize = 16;
/// Pixels: 32 MiB.
const LARGE: (u32, u32) = (4096, 2048);

/// In the place of a dma-buf, of a fence and of a node: nothing in the broker waits for them but
/// threads that do nothing else.
pub(super) fn fuse(world: &mut World) -> Result<()> {
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let broker = world.broker()?.0;
    let connections = if world.is_simulated() { CONNECTIONS } else { CONNECTIONS / 4 };
    under_attack(world, || {
        let fuse = Fuse::mount(true).map_err(Skip)?;
        for _ in 0..connections {
            offer(world, &fuse, &buffer)?;
        }
        let asked = fuse.asked_by(broker, BOUND);
        ensure!(asked.iter().all(|name| *name == "FLUSH"), "the broker asked for {asked:?}");
        ensure!(!asked.is_empty(), "no thread of the broker's waits: no test of anything");
        show(format_args!("{} threads of the broker's wait", asked.len()));
        Ok(())
    })
}

fn offer(world: &World, fuse: &Fuse, buffer: &Buffer) -> Result<()> {
    let mut raw = Raw::hello(&world.socket(), "fuse")?;
    for i in 0..OFFERED {
        let (request, place) = match i % 3 {
            0 => (export(&buffer.layout), 1),
            1 => (export(&buffer.layout), 0),
            _ => (share_fence(Policy::Auto), 1),
        };
        let (id, bytes) = raw.encoded(&request, 2)?;
        // Closed here at once: see `Fuse::open`.
        let file = fuse.open("plain")?;
        let mut fds = [buffer.node.as_fd(), buffer.dma_buf.as_fd()];
        fds[place] = file.as_fd();
        raw.send_bytes(&bytes, &fds)?;
        drop(file);
        raw.error(id)?;
    }
    Ok(())
}

/// The broker has the last reference of large buffers, so that all that the exporter does at the end
/// of one (pages given back; of a virtual GPU a command to its device) falls to the broker. A kernel
/// module could make an exporter as slow as one likes; this is the slowest without.
pub(super) fn slow_exporter(world: &mut World) -> Result<()> {
    let rounds = amount(world, 10, 3)?;
    let card = world.egpu()?;
    under_attack(world, || {
        let mut raw = Raw::hello(&world.socket(), "slow")?;
        for round in 0..rounds {
            let buffer = Buffer::make(&card, LARGE.0, LARGE.1)?;
            buffer.fill(7)?;
            let exported = raw.export(&buffer)?.buffer;
            drop(buffer);
            // Half of them end with their client.
            if round % 2 == 0 {
                raw.release(exported)?;
            }
        }
        let small = Buffer::make(&card, 16, 16)?;
        let mut wrong = small.layout.clone();
        wrong.width = LARGE.0;
        let fds = [small.node.as_fd(), small.dma_buf.as_fd()];
        let error = raw.refused(&export(&wrong), &fds)?;
        ensure!(error.code != ErrorCode::INTERNAL, "{error}");
        Ok(())
    })
}
