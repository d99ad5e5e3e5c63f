//! A dma-buf goes from one process to another: through the broker, and through a bare relay, which is the
//! least that a process in the middle can do.
//!
//! Three processes each: this one exports, one is in the middle, one imports and says that it has it. What
//! is measured is the time from the first call here to that word.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use dmashare::{Connection, Grant, Importer, Token};
use dmashare_tests::{Buffer, World};
use nix::cmsg_space;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

use crate::turns::{Contestant, Table, take};

/// Shares a turn.
const BATCH: u32 = 20;
/// A message that says what buffer it is: as long as an answer to Import.
const MESSAGE: usize = 48;

/// One of the other processes. Dropped, it is killed.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It fails where the process has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn other(words: &[&str], stdin: OwnedFd, stdout: OwnedFd) -> Result<Other> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    let child = command.args(words).stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).spawn();
    Ok(Other(child.context("another process of the benchmark")?))
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// The importer's end of what it is spoken to by, and where it says that it has it.
struct Peer {
    _process: Other,
    words: UnixStream,
}

impl Peer {
    /// Its word.
    fn has_it(&mut self) {
        let mut byte = [0];
        self.words.read_exact(&mut byte).expect("the importer's word");
    }
}

/// Measures it.
pub fn measure(world: &World, rounds: usize) -> Result<Table> {
    let buffer = Buffer::make(&world.egpu()?, 64, 64)?;
    // Through the relay: this process, the relay, the importer.
    let (here, relay_in) = pair()?;
    let (relay_out, there) = pair()?;
    let (words, its_words) = UnixStream::pair()?;
    let _relay = other(&["relay"], relay_in, relay_out)?;
    let mut relayed = Peer { _process: other(&["peer-of-relay"], there, its_words.into())?, words };
    // Through the broker: the token goes from here to the importer.
    let (mut tokens, its_tokens) = UnixStream::pair()?;
    let (words, its_words) = UnixStream::pair()?;
    let socket = world.socket();
    let socket = socket.to_str().context("a path in UTF-8")?;
    let process = other(&["peer-of-broker", socket], its_tokens.into(), its_words.into())?;
    let mut brokered = Peer { _process: process, words };
    let exporter = world.connect("exporter")?;
    // Both are there.
    brokered.has_it();
    relayed.has_it();

    let bytes = [7; MESSAGE];
    let by_relay = |times: u32| {
        for _ in 0..times {
            send(here.as_fd(), &bytes, &[buffer.dma_buf.as_raw_fd()]).expect("the relay");
            relayed.has_it();
        }
    };
    let by_broker = |times: u32| {
        for _ in 0..times {
            let planes = [buffer.dma_buf.as_fd()];
            let (export, token) = exporter
                .export_granted(buffer.node.as_fd(), &buffer.layout, &planes, Grant::default())
                .expect("it is a dma-buf of the node's");
            tokens.write_all(token.to_hex().as_bytes()).expect("the importer");
            brokered.has_it();
            drop(export);
        }
    };
    let all = vec![
        Contestant {
            name: "a bare relay (epoll, recvmsg, sendmsg)",
            batch: BATCH,
            run: Box::new(by_relay),
        },
        Contestant {
            name: "dmashared: Export with a token, Import",
            batch: BATCH,
            run: Box::new(by_broker),
        },
    ];
    Ok(take("A share, from the export to the import in another process", rounds, all))
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[i32]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
}

fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for word in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = word {
            // SAFETY: the kernel has just made them for this process, and nobody else knows them.
            fds.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    Ok((message.bytes, fds))
}

/// The process in the middle, between its stdin and its stdout: hands on whatever comes from either.
pub fn relay() -> Result<()> {
    let sides = [
        std::io::stdin().as_fd().try_clone_to_owned()?,
        std::io::stdout().as_fd().try_clone_to_owned()?,
    ];
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (i, side) in sides.iter().enumerate() {
        epoll.add(side, EpollEvent::new(EpollFlags::EPOLLIN, i as u64))?;
    }
    let mut bytes = [0; 1024];
    loop {
        let mut events = [EpollEvent::empty(); 2];
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            let from = usize::try_from(event.data())?;
            let (len, fds) = receive(sides[from].as_fd(), &mut bytes)?;
            if len == 0 {
                return Ok(());
            }
            let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            send(sides[1 - from].as_fd(), &bytes[..len], &raw)?;
        }
    }
}

/// The importer behind the relay.
pub fn peer_of_relay() -> Result<()> {
    let (from, mut words) = (std::io::stdin(), std::io::stdout());
    say(&mut words)?;
    let mut bytes = [0; MESSAGE];
    loop {
        let (len, fds) = receive(from.as_fd(), &mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        ensure!(fds.len() == 1, "{} descriptors", fds.len());
        say(&mut words)?;
    }
}

/// The importer behind the broker.
pub fn peer_of_broker(socket: &std::path::Path) -> Result<()> {
    let connection = Connection::builder().name("importer").connect_to(socket)?;
    let (mut tokens, mut words) = (std::io::stdin(), std::io::stdout());
    say(&mut words)?;
    let mut text = [0; 256];
    loop {
        let len = tokens.read(&mut text)?;
        if len == 0 {
            return Ok(());
        }
        let Ok(token) = std::str::from_utf8(&text[..len])?.parse::<Token>() else {
            bail!("no token came");
        };
        let import = connection.import(token, Importer::Cpu)?;
        say(&mut words)?;
        drop(import);
    }
}

fn say(words: &mut impl Write) -> Result<()> {
    words.write_all(&[1])?;
    Ok(words.flush()?)
}
