//! One client's connection: a task that reads, and sends what its outbox could not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use dmashare_proto::codec::{decode_header, decode_request};
use dmashare_proto::transport::{Buffer, Got, skip};
use dmashare_proto::{ClientId, ErrorCode, Reply, Request, WireError};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::discard::Lane;
use super::journal::Asked;
use super::outbox::{Flushed, Handled, Kept, Outbox};
use super::{Shared, intake, poll};
use crate::clock::monotonic_ns;
use crate::core::{Credentials, Outgoing};

/// Requests that one client may have answered before the others get their turn.
const TURN: usize = 8;

/// Objects of a client that has left, of which the broker lets go before the others get their turn.
const AT_ONCE: usize = 64;

type Registered = AsyncFd<Arc<OwnedFd>>;

/// Who is at the other end.
pub(super) struct Peer {
    pub pid: i32,
    pub uid: u32,
    pub pidfd: Option<OwnedFd>,
}

/// Takes a connection in: a task serves it from here. One that is over a limit is told so and
/// closed.
pub(super) fn accept(shell: &Shared, socket: OwnedFd, peer: Peer) -> io::Result<()> {
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    let socket = Arc::new(socket);
    let unit = crate::kernel::unit::unit_of(peer.pid);
    let creds = Credentials { pid: peer.pid, uid: peer.uid, unit };
    let outbox = Rc::new(Outbox::new(Arc::clone(&socket), peer.pid, peer.pidfd));
    // Registered before the client is in the tables, so that an error leaves nothing there.
    let socket = poll::register(socket).inspect_err(|error| {
        let text = format!("this connection cannot be served: {error}");
        let error = WireError::new(ErrorCode::INTERNAL, text).errno(error);
        outbox.push(&Outgoing::Reply(0, Reply::Error(error)), Vec::new(), 1);
    })?;
    let mut this = shell.borrow_mut();
    let lane = this.lanes.lane(peer.uid);
    let taken = lane.and_then(|lane| {
        this.journal.arriving = Some(Arc::clone(socket.get_ref()));
        let client = this.event(|broker, out| broker.connect(creds, out));
        this.journal.arriving = None;
        client.map(|client| (client, lane))
    });
    match taken {
        Ok((client, lane)) => {
            drop(this);
            begin(shell, client, socket, outbox, lane);
        }
        Err(error) => {
            tracing::warn!(pid = peer.pid, uid = peer.uid, %error, "a connection is refused");
            outbox.push(&Outgoing::Reply(0, Reply::Error(error)), Vec::new(), 1);
        }
    }
    Ok(())
}

/// What a former life of the service has left of a connection.
pub(super) struct Left {
    /// What waited to be sent: number, bytes, descriptors.
    pub queued: Vec<(u64, Vec<u8>, Vec<OwnedFd>)>,
    /// What it was about to tell, and perhaps has told.
    pub words: Vec<Vec<u8>>,
    /// The last request that has changed something.
    pub handled: Option<Handled>,
    /// Requests that are not answered.
    pub open: Vec<u64>,
}

/// A connection of a former life's goes on: what that may have said is said, and it is served.
pub(super) fn go_on(
    shell: &Shared,
    client: ClientId,
    socket: OwnedFd,
    peer: Peer,
    left: Left,
) -> io::Result<()> {
    let socket = Arc::new(socket);
    let outbox = Rc::new(Outbox::new(Arc::clone(&socket), peer.pid, peer.pidfd));
    outbox.go_on(left.handled, left.open);
    let socket = poll::register(socket)?;
    let mut this = shell.borrow_mut();
    let lane = this.lanes.lane(peer.uid).map_err(io::Error::other)?;
    if let Some(account) = this.broker.account(client) {
        outbox.charge_to(account.clone());
    }
    if let Some(keeper) = this.journal.keeper() {
        let last = left.queued.iter().map(|it| it.0).max().unwrap_or(0);
        outbox.keep_by(Kept::new(keeper, client, last));
    }
    drop(this);
    outbox.put_kept(left.queued);
    for bytes in left.words {
        outbox.put(bytes, Vec::new(), usize::MAX);
    }
    begin(shell, client, socket, outbox, lane);
    Ok(())
}

fn begin(shell: &Shared, client: ClientId, socket: Registered, outbox: Rc<Outbox>, lane: Lane) {
    let mut this = shell.borrow_mut();
    if let Some(account) = this.broker.account(client) {
        outbox.charge_to(account.clone());
        lane.charge_to(account.clone());
    }
    if let Some(keeper) = this.journal.keeper() {
        outbox.keep_by(Kept::new(keeper, client, 0));
    }
    this.connections.insert(client, Rc::clone(&outbox));
    drop(this);
    let shell = Rc::clone(shell);
    tokio::task::spawn_local(async move {
        let (its, out) = (Rc::clone(&shell), Rc::clone(&outbox));
        // A task of its own, so that a panic ends it, and not what is done here for every client that leaves.
        let served = tokio::task::spawn_local(async move {
            serve(&its, client, &socket, &out, &lane).await;
        });
        if served.await.is_err_and(|error| error.is_panic()) {
            shell.borrow_mut().panicked(client, &outbox);
        }
        shell.borrow_mut().connections.remove(&client);
        while shell.borrow_mut().event(|it, out| it.let_go_of_some(client, AT_ONCE, out)) {
            tokio::task::yield_now().await;
        }
        shell.borrow_mut().event(|broker, out| broker.disconnect(client, out));
        // A stop does not wait for it: it has no hold on the shell.
        tokio::task::spawn_local(async move { outbox.linger().await });
    });
}

async fn serve(
    shell: &Shared,
    client: ClientId,
    socket: &Registered,
    outbox: &Outbox,
    lane: &Lane,
) {
    let mut buffer = Buffer::default();
    // While the socket is full, which it hardly ever is.
    let mut room = None;
    while !outbox.is_over() {
        if let Err(error) = lane.has_room().await {
            tracing::warn!(name: "client-disconnected", pid = outbox.pid, %error, "a client is disconnected");
            outbox.push(&Outgoing::Reply(0, Reply::Error(error)), Vec::new(), usize::MAX);
            return;
        }
        let flushed = outbox.flush();
        if outbox.is_over() {
            return;
        }
        if !matches!(flushed, Flushed::Full) {
            room = None;
        } else if room.is_none() {
            match poll::register_room(socket.get_ref()) {
                Ok(registered) => room = Some(registered),
                Err(error) => {
                    let pid = outbox.pid;
                    tracing::warn!(name: "client-disconnected", pid, %error, "a client is disconnected: its queue cannot be watched");
                    return;
                }
            }
        }
        tokio::select! {
            ready = socket.readable() => {
                let Ok(mut ready) = ready else { return };
                let socket = socket.get_ref().as_fd();
                match read_some(shell, client, socket, &mut buffer, outbox, lane) {
                    // The others get their turn, which costs a look at what has happened meanwhile.
                    Reading::More => tokio::task::yield_now().await,
                    Reading::Dry => ready.clear_ready(),
                    Reading::Over => return,
                }
            }
            ready = has_room(room.as_ref()) => {
                let Ok(mut ready) = ready else { return };
                if matches!(outbox.flush(), Flushed::Full) {
                    ready.clear_ready();
                }
            }
            () = outbox.may_try_again(flushed) => {}
            () = outbox.woken() => {}
        }
    }
}

/// Waits for room in a socket; for ever where there is none registered.
async fn has_room(room: Option<&Registered>) -> io::Result<AsyncFdReadyGuard<'_, Arc<OwnedFd>>> {
    match room {
        Some(room) => room.writable().await,
        None => std::future::pending().await,
    }
}

enum Reading {
    More,
    Dry,
    Over,
}

fn read_some(
    shell: &Shared,
    client: ClientId,
    socket: BorrowedFd<'_>,
    buffer: &mut Buffer,
    outbox: &Outbox,
    lane: &Lane,
) -> Reading {
    let mut fds = Vec::new();
    for turn in 0..TURN {
        if lane.is_full() || (turn > 0 && lane.is_tight()) {
            return Reading::More;
        }
        if outbox.is_over() || outbox.is_closing() {
            return if outbox.is_over() { Reading::Over } else { Reading::Dry };
        }
        // Where a restart is to lose nothing, a request stays in the socket until it is answered.
        let keeps = shell.borrow().journal.keeps();
        let received = if keeps {
            buffer.peek_into(socket, &mut fds)
        } else {
            buffer.receive_into(socket, &mut fds)
        };
        match received {
            Ok(Got::Datagram(len)) => {
                let bytes = buffer.bytes(len);
                let mut this = shell.borrow_mut();
                if !outbox.is_handled(bytes, this.queue_messages) {
                    this.datagram(client, bytes, &mut fds);
                }
                drop(this);
                if keeps && let Err(error) = skip(socket) {
                    tracing::debug!(%client, %error, "a connection failed");
                    return Reading::Over;
                }
            }
            Ok(Got::Closed) => return Reading::Over,
            Ok(Got::Truncated) => {
                let text = "a datagram was too long, or its file descriptors did not all arrive";
                let error = WireError::new(ErrorCode::TOO_LARGE, text);
                outbox.push(&Outgoing::Reply(0, Reply::Error(error)), Vec::new(), usize::MAX);
                outbox.close();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Reading::Dry,
            Err(error) => {
                tracing::debug!(%client, %error, "a connection failed");
                return Reading::Over;
            }
        }
        for fd in fds.drain(..) {
            lane.discard(fd);
        }
    }
    Reading::More
}

impl super::Shell {
    /// One datagram of a client's, with its fds: those that have got an owner are taken out.
    fn datagram(&mut self, client: ClientId, bytes: &[u8], fds: &mut Vec<OwnedFd>) {
        let count = fds.len();
        let greeted = self.broker.is_greeted(client);
        let (header, request) = match decode_request(bytes, count) {
            Ok(decoded) => decoded,
            Err(error) => {
                let id = error.header.map_or(0, |header| header.id);
                self.reply(client, id, Reply::Error(error.error));
                // Without a good header nobody knows what it was meant to be; and before Welcome
                // nothing is answered twice.
                if !greeted || decode_header(bytes).is_err() {
                    self.close(client);
                }
                return;
            }
        };
        if !greeted && !matches!(request, Request::Hello(_)) {
            let text = format!("{} came before Hello", request.name());
            let error = WireError::new(ErrorCode::HANDSHAKE, text);
            self.reply(client, header.id, Reply::Error(error));
            return self.close(client);
        }
        if header.id == 0 {
            let error = WireError::new(ErrorCode::MALFORMED, "a request's id is not 0");
            self.reply(client, 0, Reply::Error(error));
            if !greeted {
                self.close(client);
            }
            return;
        }
        match intake::check(self, client, request, fds) {
            Ok(checked) => {
                let now_ns = monotonic_ns();
                if self.journal.keeps() {
                    let (id, bytes) = (header.id, bytes.to_vec());
                    self.journal.asked = Some(Asked { client, id, bytes });
                }
                self.event(|broker, out| broker.request(now_ns, client, header.id, checked, out));
            }
            Err(error) => {
                self.reply(client, header.id, Reply::Error(error));
                if !greeted {
                    self.close(client);
                }
            }
        }
    }

    /// Serving a client has panicked, which is a fault of this program's. The client has the harm of it alone: it is
    /// told and closed, and so does not ask the same of another life.
    fn panicked(&mut self, client: ClientId, outbox: &Outbox) {
        self.journal.asked = None;
        // As it was peeked at only. What is unread makes the client's next read an error (ECONNRESET), and
        // not what it is told here.
        if self.journal.keeps()
            && let Err(error) = skip(outbox.socket())
        {
            tracing::debug!(%client, %error, "the request is there no more");
        }
        let pid = outbox.pid;
        tracing::error!(name: "client-failed", %client, pid, "a request has led to a panic; who made it is disconnected");
        let text = "a request of yours has led to a fault of the service's, which its journal has; please report \
                    it. The connection is closed";
        let error = WireError::new(ErrorCode::INTERNAL, text);
        outbox.push(&Outgoing::Reply(0, Reply::Error(error)), Vec::new(), usize::MAX);
        outbox.close();
    }

    /// A request of a former life's, which has no descriptors.
    pub(super) fn ask_again(&mut self, client: ClientId, bytes: &[u8]) {
        self.datagram(client, bytes, &mut Vec::new());
    }

    pub(super) fn reply(&self, client: ClientId, id: u64, reply: Reply) {
        if let Some(outbox) = self.connections.get(&client) {
            outbox.push(&Outgoing::Reply(id, reply), Vec::new(), self.queue_messages);
        }
    }

    pub(super) fn close(&self, client: ClientId) {
        if let Some(outbox) = self.connections.get(&client) {
            outbox.close();
        }
    }
}
