//! The first two messages of a connection.

use std::os::fd::{AsFd, OwnedFd};

use dmashare_proto::codec::{Incoming, decode_incoming, encode};
use dmashare_proto::limits::VERSION;
use dmashare_proto::message::{Hello, Welcome};
use dmashare_proto::state_page::{LAYOUT, MAGIC, SIZE};
use dmashare_proto::transport::{Buffer, Received, send};
use dmashare_proto::{Reply, Request};
use dmashare_uapi::memfd::ReadOnlyPage;
use nix::poll::PollFlags;

use crate::deadline::{Deadline, wait_for};
use crate::error::Error;

const ID: u64 = 1;

/// Says `Hello`, and waits for the answer. `socket` is non-blocking.
pub(crate) fn handshake(
    socket: &OwnedFd,
    buffer: &mut Buffer,
    name: &str,
    deadline: Deadline,
) -> Result<(Welcome, ReadOnlyPage), Error> {
    say_hello(socket, name)?;
    let ready = wait_for(socket.as_fd(), PollFlags::POLLIN, deadline)
        .map_err(|error| Error::io("cannot wait for the broker's socket", error))?;
    if ready.is_empty() {
        return Err(Error::NoAnswer { request: "Hello" });
    }
    take_welcome(socket, buffer)
}

/// The first message of a connection.
pub(crate) fn say_hello(socket: &OwnedFd, name: &str) -> Result<(), Error> {
    dmashare_proto::message::check_name(name)
        .map_err(|error| Error::InvalidArgument(error.message))?;
    let hello =
        Hello { version_min: VERSION, version_max: VERSION, features: 0, name: name.to_owned() };
    let bytes = encode(&Request::Hello(hello), ID, 0)
        .map_err(|error| Error::InvalidArgument(error.message))?;
    send(socket.as_fd(), &bytes, &[]).map_err(|error| Error::io("cannot say hello", error))
}

/// The second one, which is there: takes the state page.
pub(crate) fn take_welcome(
    socket: &OwnedFd,
    buffer: &mut Buffer,
) -> Result<(Welcome, ReadOnlyPage), Error> {
    let (reply, fds) = receive(socket, buffer)?;
    match reply {
        Reply::Welcome(welcome) => {
            let page = open_page(&welcome, fds)?;
            Ok((welcome, page))
        }
        Reply::Error(error) => Err(Error::Broker(error)),
        other => Err(Error::Protocol(format!("{} in answer to Hello", other.name()))),
    }
}

fn receive(socket: &OwnedFd, buffer: &mut Buffer) -> Result<(Reply, Vec<OwnedFd>), Error> {
    match buffer.receive(socket.as_fd()) {
        Err(error) => Err(Error::io("cannot receive", error)),
        Ok(Received::Closed) => Err(Error::Disconnected(None)),
        Ok(Received::Truncated) => Err(Error::Protocol("a datagram came cut short".to_owned())),
        Ok(Received::Datagram(len, fds)) => match decode_incoming(buffer.bytes(len), fds.len()) {
            // A broker that could not even read our header answers with id 0.
            Ok(Incoming::Reply(ID | 0, reply)) => Ok((reply, fds)),
            Ok(_) => Err(Error::Protocol("something else than the answer to Hello".to_owned())),
            Err(error) => Err(Error::Protocol(error.error.message)),
        },
    }
}

fn open_page(welcome: &Welcome, fds: Vec<OwnedFd>) -> Result<ReadOnlyPage, Error> {
    if welcome.version != VERSION {
        return Err(Error::Protocol(format!(
            "the broker chose version {}, which was not offered",
            welcome.version
        )));
    }
    let [page] = <[OwnedFd; 1]>::try_from(fds).map_err(|fds| {
        Error::Protocol(format!("{} file descriptors beside Welcome, not 1", fds.len()))
    })?;
    let page = ReadOnlyPage::map(page.as_fd(), SIZE)
        .map_err(|source| Error::Io { what: "cannot map the broker's state page", source })?;
    if page.load_u64(0) != MAGIC || page.load_u32(8) != LAYOUT {
        return Err(Error::Protocol("the state page has another layout".to_owned()));
    }
    Ok(page)
}
