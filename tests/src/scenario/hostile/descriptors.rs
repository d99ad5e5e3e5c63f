//! Floods of descriptors: as many as one may have, more than that on their way, and sockets in which
//! sockets are on their way that nobody but the kernel's collector can find.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Result, bail};
use dmashare_proto::ErrorCode;
use dmashare_proto::message::{Reply, Request};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::hostile::objects::{export, grant};
use crate::hostile::pace::{amount, under_attack};
use crate::hostile::raw::{SCM_MAX_FD, send_some_now};
use crate::hostile::{Raw, expect, new_files_limit};
use crate::{Buffer, World};

/// Less than what all may have together, also where the service may have few descriptors.
pub(super) const FEWER: &str = "[limits]\nobjects_per_client = 4096\n";

/// A client holds as much as it may, is told that it has enough, and goes away with all of it.
pub(super) fn own_limit(world: &mut World) -> Result<()> {
    new_files_limit()?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    let most = amount(world, 20_000, 500)?;
    under_attack(world, || {
        let mut raw = Raw::hello(&world.socket(), "hoards")?;
        let request = export(&buffer.layout);
        let fds = [buffer.node.as_fd(), buffer.dma_buf.as_fd()];
        for _ in 0..most {
            match raw.request(&request, &fds)? {
                (Reply::Exported(_), _) => {}
                (Reply::Error(error), _) => {
                    return expect(&error, ErrorCode::OVER_QUOTA, &["limits.objects_per_client"]);
                }
                (other, _) => bail!("Export was answered by {other:?}"),
            }
        }
        Ok(())
    })
}

/// As many beside each message as the kernel lets through, faster than the broker can close them.
pub(super) fn in_flight(world: &mut World) -> Result<()> {
    let (reader, _writer) = std::io::pipe()?;
    let fds = [reader.as_fd(); SCM_MAX_FD];
    let messages = amount(world, 1000, 100)?;
    under_attack(world, || {
        let mut raw = Raw::hello(&world.socket(), "floods")?;
        let (_, bytes) = raw.encoded(&Request::ListDevices(()), SCM_MAX_FD)?;
        for _ in 0..messages {
            if !sent(&mut raw, &bytes, &fds)? {
                return Ok(());
            }
        }
        Ok(())
    })
}

/// Sends when there is room, and takes out what came meanwhile, so that it is no slow reader; false if
/// the broker has hung up.
fn sent(raw: &mut Raw, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<bool> {
    loop {
        if !raw.read_all()? {
            return Ok(false);
        }
        match raw.try_send_bytes(bytes, fds) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // So many are in flight that the kernel takes no more from this user.
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        raw.room_or_word()?;
    }
}

/// Each of two sockets is on its way in the other one, and so on, many deep; one of them goes to the
/// broker, beside a message that takes none and beside one that wants another thing.
pub(super) fn socket_cycles(world: &mut World) -> Result<()> {
    let rounds = amount(world, 300, 30)?;
    let buffer = Buffer::make(&world.egpu()?, 16, 16)?;
    under_attack(world, || {
        let mut raw = Raw::hello(&world.socket(), "cycles")?;
        for _ in 0..rounds {
            let outer = nested()?;
            let (id, bytes) = raw.encoded(&Request::ListDevices(()), 2)?;
            raw.send_bytes(&bytes, &[outer.0.as_fd(), outer.1.as_fd()])?;
            expect(&raw.error(id)?, ErrorCode::FD_COUNT, &[])?;
            let (id, bytes) = raw.encoded(&export(&buffer.layout), 2)?;
            raw.send_bytes(&bytes, &[buffer.node.as_fd(), outer.1.as_fd()])?;
            expect(&raw.error(id)?, ErrorCode::WRONG_FD, &["a socket"])?;
        }
        raw.refused(&grant(dmashare_proto::ObjectId(u64::MAX), 1, 1000), &[]).map(drop)
    })
}

/// Pairs of sockets in a chain, each of which has the one before in its queue, and itself.
fn nested() -> Result<(OwnedFd, OwnedFd)> {
    let pair =
        || socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let mut inner = pair()?;
    for _ in 0..4 {
        let outer = pair()?;
        // A kernel that limits how deep they are says so.
        let queue = [inner.0.as_fd(), inner.1.as_fd(), outer.0.as_fd(), outer.1.as_fd()];
        for end in [&outer.0, &outer.1] {
            match send_some_now(end.as_fd(), b"x", &queue) {
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {}
                other => other?,
            }
        }
        inner = outer;
    }
    Ok(inner)
}
