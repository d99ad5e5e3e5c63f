//! Files whose server never answers: the broker says at once what they are not, and whoever has to
//! wait for the server, it is not the broker.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare_proto::limits::MAX_MESSAGE;
use dmashare_proto::message::{Policy, Request};
use dmashare_proto::{ErrorCode, WireError};

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
    for open_to_all in [true, false] {
        let fuse = Fuse::mount(open_to_all).map_err(Skip)?;
        // Who may not even know what it is: the service, where it has a user of its own.
        let hidden = !open_to_all && !world.is_simulated();
        let called = if hidden { "a file of unknown kind" } else { "a regular file" };
        pair.meanwhile(|| offer_all(world, &fuse, called))?;
        drop(fuse);
        pair.undisturbed(world)?;
    }
    Ok(())
}

fn offer_all(world: &World, fuse: &Fuse, called: &str) -> Result<()> {
    let broker = world.broker()?.0;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let mut raw = Raw::hello(&world.socket(), "fuse")?;
    for name in NAMES {
        Offer { raw: &mut raw, fuse, name, buffer: &buffer }
            .in_each_place(called, world.is_simulated())
            .context(name)?;
    }
    unlooked_at(world, fuse)?;
    let asked = fuse.asked_by(broker, BOUND);
    ensure!(!asked.is_empty(), "the broker was asked to wait for nothing: no test of anything");
    ensure!(asked.iter().all(|name| *name == "FLUSH"), "the broker asked the server: {asked:?}");
    show(format_args!("{} threads of the broker's wait, and it goes on", asked.len()));
    raw.devices().context("the one that offered them")?;
    flood(world, fuse)
}

struct Offer<'a> {
    raw: &'a mut Raw,
    fuse: &'a Fuse,
    name: &'a str,
    buffer: &'a Buffer,
}

impl Offer<'_> {
    fn in_each_place(&mut self, called: &str, simulated: bool) -> Result<()> {
        let request = export(&self.buffer.layout);
        let error = self.answer(&request, 1)?;
        expect(&error, ErrorCode::WRONG_FD, &[called]).context("as a dma-buf")?;
        let error = self.answer(&share_fence(Policy::Auto), 1)?;
        expect(&error, ErrorCode::WRONG_FD, &[called]).context("as a sync_file")?;
        let error = self.answer(&request, 0)?;
        // Simulated, any file can be a node.
        let code = if simulated { ErrorCode::UNKNOWN_DEVICE } else { ErrorCode::WRONG_FD };
        expect(&error, code, &[]).context("as a DRM node")
    }

    /// The file is opened for one message, and closed here at once: see [`Fuse::open`].
    fn answer(&mut self, request: &Request, place: usize) -> Result<WireError> {
        let (id, bytes) = self.raw.encoded(request, 2)?;
        let file = self.fuse.open(self.name)?;
        let mut fds = [self.buffer.node.as_fd(), self.buffer.dma_buf.as_fd()];
        fds[place] = file.as_fd();
        self.raw.send_bytes(&bytes, &fds)?;
        drop(file);
        self.raw.error(id)
    }
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
