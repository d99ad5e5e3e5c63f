//! Descriptors that are nothing for the broker, each of a kind that a client can make or open.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A descriptor and what the broker is to call it.
pub struct Beast {
    /// For the test's own messages.
    pub name: &'static str,
    /// The descriptor.
    pub fd: OwnedFd,
    /// A part of the sentence that refuses it.
    pub called: &'static str,
}

/// One of each kind, none of which asks a server that never answers (see [`super::fuse`]).
pub fn all() -> Result<Vec<Beast>> {
    let mut beasts = Vec::new();
    let mut add = |name, called, fd: OwnedFd| beasts.push(Beast { name, fd, called });
    let file = tempfile::tempfile().context("a regular file")?;
    add("a regular file", "a regular file", file.into());
    add("a directory", "a directory", File::open("/").context("a directory")?.into());
    let (reader, writer) = std::io::pipe().context("a pipe")?;
    add("a pipe's reading end", "a pipe", reader.into());
    add("a pipe's writing end", "a pipe", writer.into());
    let (one, other) = UnixStream::pair().context("a socket")?;
    add("a socket", "a socket", one.into());
    add("its other end", "a socket", other.into());
    let memfd = memfd_create(c"dmabuf", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
    add("a memfd", "a memfd", memfd.context("a memfd")?);
    let by_name = |path| OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(path);
    add("an O_PATH of a folder", "an O_PATH descriptor", by_name("/").context("O_PATH")?.into());
    let null = by_name("/dev/null").context("O_PATH")?;
    add("an O_PATH of a device", "an O_PATH descriptor", null.into());
    let null = File::open("/dev/null").context("/dev/null")?;
    add("/dev/null", "that is not a DRM node", null.into());
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("an epoll")?;
    add("an epoll", "an anonymous file (eventpoll)", epoll.0);
    let own = i32::try_from(std::process::id())?;
    let pidfd = dmashare_uapi::pidfd::open(own).context("a pidfd")?;
    add("a pidfd", "an anonymous file", pidfd);
    Ok(beasts)
}
