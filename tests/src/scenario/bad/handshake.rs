//! Beginnings that are none.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use dmashare_proto::ErrorCode;
use dmashare_proto::message::{Hello, Request};

use crate::hostile::objects::export;
use crate::hostile::raw::header;
use crate::hostile::{Bystanders, Came, Raw, expect};
use crate::{Buffer, Role, World};

fn hello(version_min: u16, version_max: u16, name: &str) -> Request {
    Request::Hello(Hello { version_min, version_max, features: u64::MAX, name: name.to_owned() })
}

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        for version in [(0, 0), (2, 2), (2, u16::MAX), (5, 1), (1, 0)] {
            let refused = first(world, &hello(version.0, version.1, "x"), ErrorCode::VERSION);
            refused.with_context(|| format!("versions {version:?}"))?;
        }
        for name in ["a\nb", "\u{1b}[2J", "\0", "\u{9b}", &"x".repeat(65), &"ü".repeat(33)] {
            first(world, &hello(1, 1, name), ErrorCode::BAD_VALUE)
                .with_context(|| format!("the name {name:?}"))?;
        }
        for request in [Request::ListDevices(()), Request::Release(dmashare_proto::ObjectId(1))] {
            first(world, &request, ErrorCode::HANDSHAKE).context(request.name())?;
        }
        with_descriptors(world)?;
        bytes(world)?;
        // The longest name, and versions beyond ours; the second Hello is the end.
        let mut raw = Raw::connect(&world.socket())?;
        raw.request(&hello(0, u16::MAX, &"x".repeat(64)), &[])?;
        raw.devices()?;
        let error = raw.refused(&hello(1, 1, "again"), &[])?;
        expect(&error, ErrorCode::HANDSHAKE, &["Hello came twice"])?;
        closed(&mut raw)
    })?;
    pair.undisturbed(world)
}

/// A first message that is refused, and ends the connection.
fn first(world: &World, request: &Request, code: ErrorCode) -> Result<()> {
    let mut raw = Raw::connect(&world.socket())?;
    expect(&raw.refused(request, &[])?, code, &[])?;
    closed(&mut raw)
}

fn closed(raw: &mut Raw) -> Result<()> {
    ensure!(matches!(raw.came()?, Came::End), "the connection goes on");
    Ok(())
}

/// Good descriptors are of no use before a Hello, and are closed.
fn with_descriptors(world: &World) -> Result<()> {
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let fds = [buffer.node.as_fd(), buffer.dma_buf.as_fd()];
    let mut raw = Raw::connect(&world.socket())?;
    expect(&raw.refused(&export(&buffer.layout), &fds)?, ErrorCode::HANDSHAKE, &["Hello"])?;
    closed(&mut raw)?;
    let mut raw = Raw::connect(&world.socket())?;
    let error = raw.refused(&hello(1, 1, "x"), &fds)?;
    expect(&error, ErrorCode::FD_COUNT, &["Hello"])?;
    closed(&mut raw)
}

fn bytes(world: &World) -> Result<()> {
    for (what, bytes, code) in [
        ("a name that is not UTF-8", vec![1, 1, 0, 2, 0xc3, 0x28], ErrorCode::MALFORMED),
        ("no name", vec![1, 1, 0], ErrorCode::MALFORMED),
        ("a name longer than the datagram", vec![1, 1, 0, 60, b'x'], ErrorCode::MALFORMED),
        ("a name of no end", [vec![1, 1, 0], vec![0xff; 9]].concat(), ErrorCode::MALFORMED),
        ("something behind the name", vec![1, 1, 0, 1, b'x', 0], ErrorCode::MALFORMED),
    ] {
        let mut raw = Raw::connect(&world.socket())?;
        let bytes = [header(1, 0, 0, 3), bytes].concat();
        expect(&raw.bytes_refused(&bytes, &[], 3)?, code, &[]).context(what)?;
        closed(&mut raw).context(what)?;
    }
    let mut raw = Raw::connect(&world.socket())?;
    let good = [header(1, 0, 0, 0), vec![1, 1, 0, 1, b'x']].concat();
    expect(&raw.bytes_refused(&good, &[], 0)?, ErrorCode::MALFORMED, &["id"])?;
    closed(&mut raw).context("id 0")
}
