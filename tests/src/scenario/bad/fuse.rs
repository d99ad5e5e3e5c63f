//! Files whose server never answers: the broker says at once what they are not, and whoever has to
//! wait for the server, it is not the broker.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;
use dmashare_proto::limits::MAX_MESSAGE;
use dmashare_proto::message::{Policy, Request};

use crate::hostile::fuse::Fuse;
use crate::hostile::objects::{export, share_fence};
use crate::hostile::raw::header;
use crate::hostile::{Bystanders, Raw, expect};
use crate::scenario::Skip;
use crate::scenario::figures::show;
use crate::{BOUND, Buffer, Role, World};

/// Names that pretend to be something.
const NAMES: [&str; 4] =
    ["plain", "dmabuf:forged", "memfd:dmashare-sim-dmabuf (deleted)", "anon_inode:sync_file"];
/// More than one connection may have waiting to be closed.
const MANY: usize = 80;

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    let broker = world.broker()?.0;
    let fuse = Fuse::mount().map_err(Skip)?;
    pair.meanwhile(|| {
        let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
        let mut raw = Raw::hello(&world.socket(), "fuse")?;
        for name in NAMES {
            offer(&mut raw, &fuse, name, &buffer, world.is_simulated()).context(name)?;
        }
        unlooked_at(world, &fuse)?;
        let asked = fuse.asked_by(broker, BOUND);
        ensure!(!asked.is_empty(), "the broker was asked to wait for nothing: no test of anything");
        ensure!(
            asked.iter().all(|name| *name == "FLUSH"),
            "the broker asked the server: {asked:?}"
        );
        show(format_args!("{} threads of the broker's wait, and it goes on", asked.len()));
        raw.devices().context("the one that offered them")?;
        flood(world, &fuse)
    })?;
    drop(fuse);
    pair.undisturbed(world)
}

fn offer(raw: &mut Raw, fuse: &Fuse, name: &str, buffer: &Buffer, simulated: bool) -> Result<()> {
    let node = buffer.node.as_fd();
    let words = ["a regular file"];
    // Each is opened for one message, and closed here at once: see `Fuse::open`.
    let (id, bytes) = raw.encoded(&export(&buffer.layout), 2)?;
    let file = fuse.open(name)?;
    raw.send_bytes(&bytes, &[node, file.as_fd()])?;
    drop(file);
    expect(&raw.error(id)?, ErrorCode::WRONG_FD, &words).context("as a dma-buf")?;

    let (id, bytes) = raw.encoded(&share_fence(Policy::Auto), 2)?;
    let file = fuse.open(name)?;
    raw.send_bytes(&bytes, &[node, file.as_fd()])?;
    drop(file);
    expect(&raw.error(id)?, ErrorCode::WRONG_FD, &words).context("as a sync_file")?;

    let (id, bytes) = raw.encoded(&export(&buffer.layout), 2)?;
    let file = fuse.open(name)?;
    raw.send_bytes(&bytes, &[file.as_fd(), buffer.dma_buf.as_fd()])?;
    drop(file);
    let error = raw.error(id)?;
    // Simulated, any file can be a node.
    let code = if simulated { ErrorCode::UNKNOWN_DEVICE } else { ErrorCode::WRONG_FD };
    expect(&error, code, &[]).context("as a DRM node")
}

/// Beside messages of which nobody gets as far as to look at descriptors.
fn unlooked_at(world: &World, fuse: &Fuse) -> Result<()> {
    let socket = world.socket();
    let list = Request::ListDevices(());
    let (_, one_too_many) = Raw::connect(&socket)?.encoded(&list, 1)?;
    let mut long = one_too_many.clone();
    long.resize(MAX_MESSAGE + 1, 0);
    for (what, bytes) in [
        ("before Hello", one_too_many),
        ("too long a message", long),
        ("no header", vec![1, 2, 3]),
        ("nothing", Vec::new()),
        ("no kind", header(99, 1, 0, 1)),
        ("reserved bytes", header(1, 1, 1, 1)),
    ] {
        let mut raw = Raw::connect(&socket)?;
        let file = fuse.open("plain")?;
        raw.send_bytes(&bytes, &[file.as_fd()])?;
        drop(file);
        ensure!(raw.end().context(what)?.is_some(), "{what}: closed without a word");
    }
    Ok(())
}

/// Who goes on and on with it is given up.
fn flood(world: &World, fuse: &Fuse) -> Result<()> {
    let mut raw = Raw::hello(&world.socket(), "fuse-flood")?;
    let (_, bytes) = raw.encoded(&Request::ListDevices(()), 1)?;
    for _ in 0..MANY {
        let file = fuse.open("plain")?;
        if raw.send_bytes(&bytes, &[file.as_fd()]).is_err() {
            break;
        }
    }
    let error = raw.end()?.context("given up without a word")?;
    expect(&error, ErrorCode::OVER_QUOTA, &["cannot be closed"])
}
