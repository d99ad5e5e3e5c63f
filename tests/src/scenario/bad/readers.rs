//! Clients that say nothing, and clients that do not listen.

use std::os::fd::AsFd;

use anyhow::{Result, bail, ensure};
use dmashare_proto::message::Request;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::hostile::objects::import;
use crate::hostile::{Bystanders, Raw};
use crate::scenario::figures::{note, show};
use crate::{BOUND, Buffer, Role, World};

/// Few messages may wait for a client to read.
pub(super) const QUEUE: &str = "[limits]\nqueue_messages = 32\n";
const SILENT: usize = 40;
/// What the broker may grow by, for clients that do not read: no more than their queues.
const GROWTH_KIB: u64 = 8 * 1024;
/// Far more than any queue takes.
const MANY: u32 = 100_000;

pub(super) fn run_silent(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let silent =
            (0..SILENT).map(|_| Raw::connect(&world.socket())).collect::<Result<Vec<_>>>()?;
        let greeted = Raw::hello(&world.socket(), "says no more")?;
        world.bus().until("all of them on the bus", BOUND, |bus| {
            Ok((bus.clients()?.len() == 2 + SILENT + 1).then_some(()))
        })?;
        pair.exchange(3)?;
        for raw in silent.iter().chain([&greeted]) {
            ensure!(!is_closed(raw)?, "one that says nothing was disconnected");
        }
        Ok(())
    })?;
    pair.undisturbed(world)
}

fn is_closed(raw: &Raw) -> Result<bool> {
    let mut look = [PollFd::new(raw.as_fd(), PollFlags::empty())];
    Ok(poll(&mut look, PollTimeout::ZERO)? > 0)
}

pub(super) fn run_never_reads(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    let broker = world.broker()?;
    let before = broker.resident_kib()?;
    pair.meanwhile(|| {
        let mut asks = Raw::hello(&world.socket(), "asks and does not read")?;
        let asked = ask_on(&mut asks, &Request::ListDevices(()))?;
        show(format_args!("disconnected after {asked} requests that it read no answer to"));

        // The answers that wait hold descriptors.
        let mut owner = Raw::hello(&world.socket(), "owner")?;
        let object = owner.export(&Buffer::make(&world.egpu()?, 16, 16)?)?.buffer;
        let token = owner.grant(object, u32::MAX)?;
        let mut takes = Raw::hello(&world.socket(), "takes and does not read")?;
        let taken = ask_on(&mut takes, &import(token))?;
        show(format_args!("disconnected after {taken} imports that it did not take out"));
        Ok(())
    })?;
    pair.undisturbed(world)?;
    let grown = broker.resident_kib()?.saturating_sub(before);
    note("growth by clients that do not read, KiB", grown);
    ensure!(grown < GROWTH_KIB, "the broker has grown by {grown} KiB");
    Ok(())
}

/// Sends a request again and again until the broker has had enough.
pub(super) fn ask_on(raw: &mut Raw, request: &Request) -> Result<u32> {
    for asked in 0..MANY {
        let (_, bytes) = raw.encoded(request, 0)?;
        loop {
            match raw.try_send_bytes(&bytes, &[]) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => return Ok(asked),
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(asked),
                Err(error) => return Err(error.into()),
            }
            // Until there is room again, or nobody to send to.
            let mut room = [PollFd::new(raw.as_fd(), PollFlags::POLLOUT)];
            let timeout = PollTimeout::try_from(BOUND).unwrap_or(PollTimeout::MAX);
            ensure!(poll(&mut room, timeout)? > 0, "the broker neither reads nor hangs up");
        }
    }
    bail!("{MANY} requests, no answer read, and still connected")
}
