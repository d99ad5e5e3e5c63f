//! A client that sends whatever it is told to: any bytes, any number of descriptors, in any order.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dmashare_proto::codec::{Incoming, decode_header, decode_incoming, encode};
use dmashare_proto::message::{Hello, Reply, Request};
use dmashare_proto::transport::{Buffer, Received, connect_to};
use dmashare_proto::{ErrorCode, Event, WireError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// How long an answer may take: it means a broker that hangs, on a machine however slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The most descriptors that the kernel passes with one message (SCM_MAX_FD).
pub const SCM_MAX_FD: usize = 253;

/// What came: a message with its descriptors, or the end.
#[derive(Debug)]
pub enum Came {
    /// A message.
    Message(Incoming, Vec<OwnedFd>),
    /// The broker closed the connection.
    End,
}

/// A connection without a library around it.
pub struct Raw {
    socket: OwnedFd,
    buffer: Buffer,
    last_id: u64,
    events: VecDeque<Event>,
}

impl Raw {
    /// Connects, and says nothing.
    pub fn connect(socket: &Path) -> Result<Self> {
        let fd = connect_to(socket).with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Self::from_fd(fd))
    }

    /// A connection that somebody else made.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket, buffer: Buffer::default(), last_id: 0, events: VecDeque::new() }
    }

    /// Connects and is welcomed.
    pub fn hello(socket: &Path, name: &str) -> Result<Self> {
        let mut raw = Self::connect(socket)?;
        match raw.request(&Self::hello_named(name), &[])? {
            (Reply::Welcome(_), _) => Ok(raw),
            (other, _) => bail!("Hello was answered by {other:?}"),
        }
    }

    /// A good `Hello`.
    #[must_use]
    pub fn hello_named(name: &str) -> Request {
        Request::Hello(Hello { version_min: 1, version_max: 1, features: 0, name: name.to_owned() })
    }

    /// Sends a datagram as it is. The kernel is the only bound.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_some(self.socket.as_fd(), bytes, fds, MsgFlags::empty())
    }

    /// Sends a datagram if it can be sent now: false where the queue is full.
    pub fn try_send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        match send_some(self.socket.as_fd(), bytes, fds, MsgFlags::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// A request's datagram, with an id that was not used before.
    pub fn encoded(&mut self, request: &Request, fds: usize) -> Result<(u64, Vec<u8>)> {
        self.last_id += 1;
        Ok((self.last_id, encode(request, self.last_id, fds)?))
    }

    /// Sends a request and waits for its answer. Events that come before it are kept.
    pub fn request(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        let (id, bytes) = self.encoded(request, fds.len())?;
        self.send_bytes(&bytes, fds).with_context(|| format!("send {}", request.name()))?;
        self.answer(id).with_context(|| format!("the answer to {}", request.name()))
    }

    /// Sends a request that is to be refused; gives the error.
    pub fn refused(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<WireError> {
        match self.request(request, fds)? {
            (Reply::Error(error), fds) if fds.is_empty() => Ok(error),
            (other, _) => bail!("{} was not refused: {other:?}", request.name()),
        }
    }

    /// Waits for the answer with this id.
    pub fn answer(&mut self, id: u64) -> Result<(Reply, Vec<OwnedFd>)> {
        loop {
            match self.came()? {
                Came::Message(Incoming::Reply(to, reply), fds) => {
                    ensure!(to == id, "an answer to {to} came, not to {id}: {reply:?}");
                    return Ok((reply, fds));
                }
                Came::Message(Incoming::Event(event), _) => self.events.push_back(event),
                Came::End => bail!("the broker closed the connection"),
            }
        }
    }

    /// Sends bytes that are to be refused with an error to `id`.
    pub fn bytes_refused(
        &mut self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        id: u64,
    ) -> Result<WireError> {
        self.send_bytes(bytes, fds)?;
        self.error(id)
    }

    /// Waits for the answer with this id, which is to be an error.
    pub fn error(&mut self, id: u64) -> Result<WireError> {
        match self.answer(id)? {
            (Reply::Error(error), fds) if fds.is_empty() => Ok(error),
            (other, _) => bail!("it was not refused: {other:?}"),
        }
    }

    /// The next event.
    pub fn event(&mut self) -> Result<Event> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.came()? {
            Came::Message(Incoming::Event(event), _) => Ok(event),
            other => bail!("no event came but {other:?}"),
        }
    }

    /// Waits for whatever comes next.
    pub fn came(&mut self) -> Result<Came> {
        let until = Instant::now() + PATIENCE;
        let left = until.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        ensure!(poll(&mut ready, timeout)? > 0, "the broker was silent for {PATIENCE:?}");
        match self.buffer.receive(self.socket.as_fd()) {
            Ok(Received::Datagram(len, fds)) => {
                let bytes = self.buffer.bytes(len);
                let incoming = decode_incoming(bytes, fds.len()).map_err(|error| {
                    let header = decode_header(bytes);
                    anyhow::anyhow!("the broker sent nonsense ({header:?}): {}", error.error)
                })?;
                Ok(Came::Message(incoming, fds))
            }
            Ok(Received::Closed) => Ok(Came::End),
            Ok(Received::Truncated) => bail!("the broker sent more than it may"),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Came::End),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until there is room to send or something to read.
    pub fn room_or_word(&self) -> Result<()> {
        let both = PollFlags::POLLIN | PollFlags::POLLOUT;
        let mut ready = [PollFd::new(self.socket.as_fd(), both)];
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        ensure!(poll(&mut ready, timeout)? > 0, "the broker neither reads nor hangs up");
        Ok(())
    }

    /// Reads all that has come, and does not wait for more; false at the end of the connection.
    pub fn read_all(&mut self) -> Result<bool> {
        while is_readable(self.socket.as_fd())? {
            if matches!(self.came()?, Came::End) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads until the broker has closed the connection; gives the last error that it sent.
    pub fn end(&mut self) -> Result<Option<WireError>> {
        let mut last = None;
        loop {
            match self.came()? {
                Came::End => return Ok(last),
                Came::Message(Incoming::Reply(_, Reply::Error(error)), _) => last = Some(error),
                Came::Message(..) => {}
            }
        }
    }

    /// Waits for the broker to hang up, and reads nothing of what it has sent.
    pub fn hung_up(&self) -> Result<()> {
        let mut hang = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        ensure!(poll(&mut hang, timeout)? > 0, "not disconnected within {PATIENCE:?}");
        Ok(())
    }
}

fn is_readable(socket: BorrowedFd<'_>) -> Result<bool> {
    let mut ready = [PollFd::new(socket, PollFlags::POLLIN)];
    Ok(poll(&mut ready, PollTimeout::ZERO)? > 0)
}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends a datagram on any socket, if it can be sent now.
pub fn send_some_now(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    send_some(socket, bytes, fds, MsgFlags::MSG_DONTWAIT)
}

fn send_some(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Checks a refusal: its code, and that its sentence says what it is about.
pub fn expect(error: &WireError, code: ErrorCode, words: &[&str]) -> Result<()> {
    ensure!(error.code == code, "refused as {}, not {}: {error}", error.code.name(), code.name());
    for word in words {
        ensure!(error.message.contains(word), "the sentence does not say {word:?}: {error}");
    }
    Ok(())
}

/// The bytes of a header.
#[must_use]
pub fn header(kind: u16, fds: u16, reserved: u32, id: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(fds.to_le_bytes());
    bytes.extend(reserved.to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes
}
