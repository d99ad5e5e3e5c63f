//! Bare relays: a loop of epoll, recvmsg and sendmsg, and no checks.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::cmsg_space;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, listen, recvmsg, sendmsg, socket,
};

use crate::other::{Other, Peer, say};

/// A message that says what buffer it is: as long as an answer to Import.
const MESSAGE: usize = 48;
/// One that names it.
const TOKEN: usize = 16;

/// How a relay is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// What comes from one side goes to the other, unasked.
    One,
    /// It keeps what comes, and says its number; who says that number gets it. So the broker is used.
    Two,
}

/// This process, a relay, and an importer behind it.
pub struct Relayed {
    calls: Calls,
    here: OwnedFd,
    tokens: UnixStream,
    importer: Peer,
    _relay: Other,
}

impl Relayed {
    /// Starts both.
    pub fn start(calls: Calls) -> Result<Self> {
        let (here, relay_in) = pair()?;
        let (relay_out, there) = pair()?;
        let (tokens, its_tokens) = UnixStream::pair()?;
        let (relay, peer) = match calls {
            Calls::One => ("relay", "peer-of-relay"),
            Calls::Two => ("asked-relay", "peer-of-asked-relay"),
        };
        let relay = Other::own(&[relay], relay_in, relay_out)?;
        let mut command = Command::new(std::env::current_exe()?);
        // Its socket is where others have their errors: there are no more standard ones.
        command.arg(peer).stdin(OwnedFd::from(its_tokens)).stderr(Stdio::from(there));
        let importer = Peer::start(&mut command)?;
        Ok(Self { calls, here, tokens, importer, _relay: relay })
    }

    /// One buffer goes there.
    pub fn share(&mut self, buffer: BorrowedFd<'_>) {
        send(self.here.as_fd(), &[7; MESSAGE], &[buffer.as_raw_fd()]).expect("the relay");
        if self.calls == Calls::Two {
            let mut token = [0; TOKEN];
            let (len, _) = receive(self.here.as_fd(), &mut token).expect("the relay");
            assert_eq!(len, TOKEN, "the relay's answer");
            self.tokens.write_all(&token).expect("the importer");
        }
        self.importer.has_it();
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let kind = SockType::SeqPacket;
    Ok(nix::sys::socket::socketpair(AddressFamily::Unix, kind, None, flags)?)
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[i32]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
}

fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut control = cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fd = None;
    for word in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = word {
            // SAFETY: the kernel has just made them for this process, and nobody else knows them.
            fd = raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }).next_back();
        }
    }
    Ok((message.bytes, fd))
}

/// The process in the middle, between its stdin and its stdout: hands on whatever comes from either.
pub fn relay() -> Result<()> {
    let sides = sides()?;
    let epoll = watch(&sides)?;
    let mut bytes = [0; 1024];
    loop {
        let mut events = [EpollEvent::empty(); 2];
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            let from = usize::try_from(event.data())?;
            let (len, fd) = receive(sides[from].as_fd(), &mut bytes)?;
            if len == 0 {
                return Ok(());
            }
            let raw: Vec<i32> = fd.iter().map(AsRawFd::as_raw_fd).collect();
            send(sides[1 - from].as_fd(), &bytes[..len], &raw)?;
        }
    }
}

fn sides() -> Result<[OwnedFd; 2]> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    Ok([stdin.as_fd().try_clone_to_owned()?, stdout.as_fd().try_clone_to_owned()?])
}

fn watch(sockets: &[OwnedFd]) -> Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (place, socket) in sockets.iter().enumerate() {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
    }
    Ok(epoll)
}

/// What an asked relay keeps for who comes with its number.
#[derive(Default)]
struct Kept {
    buffers: Vec<Option<OwnedFd>>,
    free: Vec<usize>,
}

impl Kept {
    /// Answers one message; false at the end of its connection.
    fn answer(&mut self, socket: BorrowedFd<'_>) -> Result<bool> {
        let mut bytes = [0; 1024];
        let (len, fd) = receive(socket, &mut bytes)?;
        if len == 0 {
            return Ok(false);
        }
        if let Some(fd) = fd {
            let place = self.free.pop().unwrap_or_else(|| {
                self.buffers.push(None);
                self.buffers.len() - 1
            });
            self.buffers[place] = Some(fd);
            let mut token = [0; TOKEN];
            token[..8].copy_from_slice(&(place as u64).to_le_bytes());
            send(socket, &token, &[])?;
            return Ok(true);
        }
        let place = usize::try_from(u64::from_le_bytes(bytes[..8].try_into()?))?;
        let buffer = self.buffers.get_mut(place).and_then(Option::take);
        let Some(buffer) = buffer else { bail!("nothing is kept as {place}") };
        self.free.push(place);
        send(socket, &bytes[..MESSAGE], &[buffer.as_raw_fd()])?;
        Ok(true)
    }
}

/// The process in the middle, that is asked.
pub fn asked_relay() -> Result<()> {
    let sides = sides()?;
    let epoll = watch(&sides)?;
    let mut kept = Kept::default();
    loop {
        let mut events = [EpollEvent::empty(); 2];
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            let side = &sides[usize::try_from(event.data())?];
            if !kept.answer(side.as_fd())? {
                return Ok(());
            }
        }
    }
}

/// The same for any number of connections to a socket at `path`; says when it listens.
pub fn asked_relay_at(path: &Path) -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::MAXCONN)?;
    say(&mut std::io::stdout())?;
    let epoll = watch(std::slice::from_ref(&listener))?;
    let (mut connections, mut kept) = (Vec::<Option<OwnedFd>>::new(), Kept::default());
    loop {
        let mut events = [EpollEvent::empty(); 64];
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            let Some(place) = usize::try_from(event.data())?.checked_sub(1) else {
                let raw = accept4(listener.as_raw_fd(), flags)?;
                // SAFETY: the kernel has just made it for this process, and nobody else knows it.
                let connection = unsafe { OwnedFd::from_raw_fd(raw) };
                let key = connections.len() as u64 + 1;
                epoll.add(&connection, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
                connections.push(Some(connection));
                continue;
            };
            let connection = connections[place].as_ref().context("it is open")?;
            if !kept.answer(connection.as_fd())? {
                connections[place] = None;
            }
        }
    }
}

/// A client of that relay's.
pub struct AskedClient(OwnedFd);

impl AskedClient {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(fd))
    }

    /// Shares a buffer with itself.
    pub fn share(&self, buffer: BorrowedFd<'_>) -> Result<()> {
        let mut token = [0; TOKEN];
        send(self.0.as_fd(), &[7; MESSAGE], &[buffer.as_raw_fd()])?;
        ensure!(receive(self.0.as_fd(), &mut token)?.0 == TOKEN, "no token came");
        send(self.0.as_fd(), &token, &[])?;
        let (_, fd) = receive(self.0.as_fd(), &mut [0; MESSAGE])?;
        ensure!(fd.is_some(), "no buffer came");
        Ok(())
    }
}

/// The importer behind a relay, whose socket is its standard error.
pub fn peer() -> Result<()> {
    let (from, mut words) = (std::io::stderr(), std::io::stdout());
    say(&mut words)?;
    let mut bytes = [0; MESSAGE];
    loop {
        let (len, fd) = receive(from.as_fd(), &mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        ensure!(fd.is_some(), "no buffer came");
        say(&mut words)?;
    }
}

/// The importer behind an asked relay, whose tokens come on its standard input.
pub fn asked_peer() -> Result<()> {
    let (from, mut words) = (std::io::stderr(), std::io::stdout());
    let mut tokens = std::io::stdin();
    say(&mut words)?;
    let mut token = [0; TOKEN];
    while tokens.read(&mut token)? == TOKEN {
        send(from.as_fd(), &token, &[])?;
        let (_, fd) = receive(from.as_fd(), &mut [0; MESSAGE])?;
        ensure!(fd.is_some(), "no buffer came");
        say(&mut words)?;
    }
    Ok(())
}
