//! Datagrams that are no messages, from a client that was welcomed.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use dmashare_proto::limits::MAX_MESSAGE;
use dmashare_proto::message::{Layout, Plane, Policy, Request};
use dmashare_proto::{ErrorCode, ObjectId, Token};

use crate::hostile::objects::{export, grant, import, share_fence};
use crate::hostile::raw::{SCM_MAX_FD, header};
use crate::hostile::{Bystanders, Came, Raw, expect};
use crate::scenario::figures::show;
use crate::{Role, World};

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let mut raw = Raw::hello(&world.socket(), "messages")?;
        let (reader, _writer) = std::io::pipe()?;
        bodies(&mut raw)?;
        kinds(&mut raw)?;
        descriptors(&mut raw, reader.as_fd())?;
        let error = raw.bytes_refused(&header(2, 0, 0, 0), &[], 0)?;
        expect(&error, ErrorCode::MALFORMED, &["id is not 0"])?;
        raw.devices().context("after all that")?;
        ends(world, reader.as_fd())
    })?;
    pair.undisturbed(world)
}

fn every_request() -> Vec<Request> {
    let plane = Plane { offset: 1 << 20, stride: 1 << 10 };
    let planes = vec![plane; 4];
    let layout = Layout { width: 300, height: 300, fourcc: 1 << 30, modifier: 1 << 60, planes };
    vec![
        export(&layout),
        grant(ObjectId(1 << 40), 300, 1 << 20),
        import(Token([9; 16])),
        Request::Release(ObjectId(1 << 40)),
        share_fence(Policy::Guard),
        Request::ImportFence(Token([9; 16])),
        Request::QueryFence(ObjectId(1 << 40)),
        Request::Acknowledge(dmashare_proto::DeviceId(1 << 40)),
    ]
}

/// Cut at every byte, and with bytes behind.
fn bodies(raw: &mut Raw) -> Result<()> {
    let mut sent = 0;
    for request in every_request() {
        let (_, whole) = raw.encoded(&request, 0)?;
        for len in 16..whole.len() {
            let (id, bytes) = raw.encoded(&request, 0)?;
            let error = raw.bytes_refused(&bytes[..len], &[], id)?;
            expect(&error, ErrorCode::MALFORMED, &["does not decode"])
                .with_context(|| format!("{} cut to {len} bytes", request.name()))?;
            sent += 1;
        }
        for behind in [1, 100, MAX_MESSAGE - whole.len()] {
            let (id, mut bytes) = raw.encoded(&request, 0)?;
            bytes.resize(bytes.len() + behind, 0xee);
            let error = raw.bytes_refused(&bytes, &[], id)?;
            expect(&error, ErrorCode::MALFORMED, &[&format!("{behind} bytes are left")])
                .with_context(|| format!("{} with {behind} bytes more", request.name()))?;
            sent += 1;
        }
    }
    // A variant that is none; a varint that never ends; as many planes as numbers go.
    for (kind, body) in [
        (4, vec![1, 9, 1, 1]),
        (5, [vec![0; 16], vec![2]].concat()),
        (7, vec![3, 0]),
        (6, vec![0xff; 11]),
        (3, [vec![1, 1, 1, 1], vec![0xff; 9], vec![1]].concat()),
    ] {
        let (id, _) = raw.encoded(&Request::ListDevices(()), 0)?;
        let bytes = [header(kind, 0, 0, id), body].concat();
        let error = raw.bytes_refused(&bytes, &[], id)?;
        expect(&error, ErrorCode::MALFORMED, &[&format!("{kind:#06x}")])?;
        sent += 1;
    }
    show(format_args!("{sent} malformed bodies refused"));
    Ok(())
}

fn kinds(raw: &mut Raw) -> Result<()> {
    for kind in [0, 0x7ffe, 0x7fff, 0x8001, 0x8009, 0xbfff, 0xc001, 0xfffe, 0xffff] {
        let (id, _) = raw.encoded(&Request::ListDevices(()), 0)?;
        let error = raw.bytes_refused(&header(kind, 0, 0, id), &[], id)?;
        expect(&error, ErrorCode::UNKNOWN_MESSAGE, &[&format!("{kind:#06x}")])?;
    }
    Ok(())
}

/// Another number than the header says; another than the message takes; as many as the kernel lets
/// through.
fn descriptors(raw: &mut Raw, fd: BorrowedFd<'_>) -> Result<()> {
    for (says, come) in [(0, 1), (1, 0), (2, 1), (0, SCM_MAX_FD), (u16::MAX, 3)] {
        let (id, _) = raw.encoded(&Request::ListDevices(()), 0)?;
        let error = raw.bytes_refused(&header(2, says, 0, id), &vec![fd; come], id)?;
        let words = format!("says {says} file descriptors and {come} came");
        expect(&error, ErrorCode::FD_COUNT, &[&words])?;
    }
    let export = &every_request()[0];
    for (request, count) in [
        (&Request::ListDevices(()), 1),
        (&Request::Release(ObjectId(1)), 1),
        (&import(Token([1; 16])), 1),
        (&share_fence(Policy::Pass), 0),
        (&share_fence(Policy::Pass), 1),
        (&share_fence(Policy::Pass), 3),
        (export, 0),
        (export, 1),
        (export, 6),
        (export, 9),
        (export, SCM_MAX_FD),
    ] {
        let (id, bytes) = raw.encoded(request, count)?;
        let error = raw.bytes_refused(&bytes, &vec![fd; count], id)?;
        expect(&error, ErrorCode::FD_COUNT, &[request.name(), &format!("not {count}")])
            .with_context(|| format!("{} with {count}", request.name()))?;
    }
    Ok(())
}

/// After which the connection is closed.
fn ends(world: &World, fd: BorrowedFd<'_>) -> Result<()> {
    let many = [fd; SCM_MAX_FD];
    for (what, bytes, fds, code, id) in [
        ("one byte", vec![1], &[][..], ErrorCode::MALFORMED, 0),
        ("a header but a byte", header(2, 0, 0, 9)[..15].to_vec(), &[], ErrorCode::MALFORMED, 0),
        ("reserved bytes", header(2, 0, 1 << 31, 9), &[], ErrorCode::MALFORMED, 9),
        ("no bytes and a descriptor", Vec::new(), &many[..1], ErrorCode::MALFORMED, 0),
        ("too long", vec![2; MAX_MESSAGE + 1], &[], ErrorCode::TOO_LARGE, 0),
        ("much too long", vec![2; 8 * MAX_MESSAGE], &many, ErrorCode::TOO_LARGE, 0),
    ] {
        let mut raw = Raw::hello(&world.socket(), "ends")?;
        let error = raw.bytes_refused(&bytes, fds, id).context(what)?;
        expect(&error, code, &[]).context(what)?;
        ensure!(matches!(raw.came()?, Came::End), "{what}: the connection goes on");
    }
    let mut raw = Raw::hello(&world.socket(), "ends")?;
    raw.send_bytes(&[], &[])?;
    ensure!(raw.end()?.is_none(), "an empty datagram is the end, and needs no word");
    Ok(())
}
