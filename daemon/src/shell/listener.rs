//! The listening socket: systemd's, or one of our own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::codec::encode;
use dmashare_proto::transport::send;
use dmashare_proto::{ErrorCode, Reply, WireError};
use dmashare_uapi::pidfd;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};
use tokio::io::unix::AsyncFd;

use super::Shared;
use super::connection::{Peer, accept};

/// How long no connection is taken when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The name of the connection to the keeper in systemd's store of descriptors.
pub(super) const KEEPER: &str = "keeper";

/// What systemd passed.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    /// The clients' socket.
    pub socket: Option<OwnedFd>,
    /// A former life's connection to the keeper.
    pub keeper: Option<OwnedFd>,
}

/// The descriptors that systemd passed, by their names (sd_listen_fds(3)).
pub(super) fn inherited() -> io::Result<Inherited> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let is_keeper: Vec<bool> = names.split(':').map(|name| name == KEEPER).collect();
    let mut passed = listenfd::ListenFd::from_env();
    let mut inherited = Inherited::default();
    for i in 0..passed.len() {
        let Some(raw) = passed.take_raw_fd(i)? else { continue };
        // SAFETY: systemd passed it to this process (LISTEN_PID was checked), and it was taken out of
        // the list just now, so nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let flags = nix::fcntl::FdFlag::FD_CLOEXEC;
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(flags))?;
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        let place = match is_keeper.get(i) {
            Some(true) => &mut inherited.keeper,
            _ => &mut inherited.socket,
        };
        if place.is_none() {
            *place = Some(fd);
        }
    }
    Ok(inherited)
}

/// Binds `path`. A socket that a former run has left is replaced; one that somebody listens on is
/// not.
pub(super) fn bound(path: &Path) -> io::Result<OwnedFd> {
    if dmashare_proto::transport::connect_to(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another dmashared listens on {}", path.display()),
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(path, everyone)?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

/// Takes connections for ever, from a socket that is registered.
pub(super) async fn serve(shell: Shared, socket: AsyncFd<Arc<OwnedFd>>) -> io::Result<()> {
    loop {
        let mut ready = socket.readable().await?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(socket.get_ref().as_raw_fd(), flags) {
            // SAFETY: accept4 has just made it, and nobody else knows it.
            Ok(raw) => take_in(&shell, unsafe { OwnedFd::from_raw_fd(raw) }),
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno @ (Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP)) => {
                return Err(errno.into());
            }
            Err(errno) => {
                // Too few descriptors or too little memory, or a security module that refuses this one
                // (EPERM, EACCES). The connection may stay in the backlog, and there is no event for "a
                // descriptor is free", so this is tried again while the shortage lasts.
                tracing::error!(%errno, "no connection can be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn take_in(shell: &Shared, socket: OwnedFd) {
    let peer = match pidfd::peer(socket.as_fd()) {
        Ok(peer) => Peer { pid: peer.pid, uid: peer.uid, pidfd: peer.pidfd },
        Err(error) => {
            tracing::warn!(%error, "a peer whose credentials cannot be had");
            return refuse(socket.as_fd(), "who you are cannot be found out", &error);
        }
    };
    if let Err(error) = accept(&Rc::clone(shell), socket, peer) {
        tracing::error!(%error, "a connection could not be served");
    }
}

/// Says why before it is closed; one that does not take it has gone.
fn refuse(socket: BorrowedFd<'_>, what: &str, error: &io::Error) {
    let error = WireError::new(ErrorCode::INTERNAL, format!("{what}: {error}")).errno(error);
    if let Ok(bytes) = encode(&Reply::Error(error), 0, 0)
        && let Err(error) = send(socket, &bytes, &[])
    {
        tracing::debug!(%error, "a peer that was refused was not told why");
    }
}
