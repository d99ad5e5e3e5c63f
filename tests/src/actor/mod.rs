//! Other processes: they are told what to do, and say what became of it.
//!
//! An actor is this package's program, run again as `PROGRAM actor NAME`, with a SOCK_SEQPACKET socket
//! as its standard input: a datagram a [`Task`] or a reply, in JSON, file descriptors beside it.
//! Every task runs on a thread of its own, so that one can wait while another goes on.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context, Result};
use dmashare_proto::transport::{Buffer, Received, send};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use crate::BOUND;

mod child;
mod copies;
mod events;
mod hammer;
mod objects;
mod pace;
mod reader;
mod running;
mod task;
mod timeline;

pub use copies::Copies;
pub use hammer::Tally;
pub use objects::FenceEnd;
pub use pace::Pace;
pub use reader::Reading;
pub use running::Running;
pub use task::{Done, Key, Loss, Refusal, Task};
pub use timeline::{Looped, PointEnd, TimelineTask};

/// As whom an actor runs in the virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// As this process.
    Own,
    /// A user in the groups `video` and `render`.
    Alice,
    /// Another one.
    Bob,
}

impl User {
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Own => None,
            Self::Alice => Some("alice"),
            Self::Bob => Some("bob"),
        }
    }
}

/// A task with its number.
#[derive(Serialize, Deserialize)]
struct Request {
    id: u64,
    task: Task,
}

/// What became of it.
#[derive(Serialize, Deserialize)]
enum Reply {
    /// It is at what it is to be at when something happens: it waits, or reads.
    AtIt { id: u64 },
    /// It has ended.
    Ended { id: u64, result: Result<Done, Refusal> },
}

#[derive(Default)]
struct Replies {
    at_it: HashSet<u64>,
    came: HashMap<u64, Result<Done, Refusal>>,
    over: bool,
}

type Shared = Arc<(Mutex<Replies>, Condvar)>;

/// Another process. Killed when dropped.
pub struct Actor {
    name: String,
    child: Child,
    socket: Arc<OwnedFd>,
    next: AtomicU64,
    replies: Shared,
}

/// The first thing in the `main` of every program of this package: an actor never returns from it.
pub fn take_part() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == "actor") {
        let name = arguments.next().unwrap_or_default().to_string_lossy().into_owned();
        child::serve(&name);
        std::process::exit(0);
    }
}

/// This program, or the scenarios' beside it (or one folder above: a test of cargo's).
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let is_ours =
        own.file_name().is_some_and(|name| name == "dmashare-scenarios" || name == "dmashare-demo");
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("dmashare-scenarios"));
    let beside = beside.into_iter().find(|path| path.exists());
    if is_ours { own } else { beside.unwrap_or(own) }
}

impl Actor {
    /// Starts one.
    ///
    /// # Errors
    /// There is no such user, or no setpriv (package util-linux).
    pub fn start(name: &str, user: User) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let mut command = match user.name() {
            None => Command::new(program()),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--init-groups", "--"]);
                command.arg(program());
                command
            }
        };
        let child = command
            .args(["actor", name])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start the actor {name}"))?;
        drop(command);
        let socket = Arc::new(ours);
        let replies = Shared::default();
        let (from, to) = (Arc::clone(&socket), Arc::clone(&replies));
        std::thread::spawn(move || collect(from.as_fd(), &to));
        Ok(Self { name: name.to_owned(), child, socket, next: AtomicU64::new(1), replies })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> crate::Process {
        crate::Process(self.child.id().cast_signed())
    }

    /// Begins a task.
    ///
    /// # Errors
    /// The actor has died.
    pub fn begin(&self, task: Task) -> Result<Running<'_>> {
        self.begin_with(task, &[])
    }

    /// The same, with descriptors for it.
    ///
    /// # Errors
    /// The actor has died.
    pub fn begin_with(&self, task: Task, fds: &[BorrowedFd<'_>]) -> Result<Running<'_>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let what = format!("{}: {task:?}", self.name);
        let bytes = serde_json::to_vec(&Request { id, task })?;
        send(self.socket.as_fd(), &bytes, fds).with_context(|| what.clone())?;
        Ok(Running { actor: self, id, what })
    }

    /// Has a task done.
    ///
    /// # Errors
    /// It failed (a [`Refusal`]), or was not done in time.
    pub fn call(&self, task: Task) -> Result<Done> {
        self.begin(task)?.wait(BOUND)
    }

    /// Has a task done that is to fail, and gives how it failed.
    ///
    /// # Errors
    /// It succeeded, or the actor has died.
    pub fn refusal(&self, task: Task) -> Result<Refusal> {
        self.begin(task)?.refused(BOUND)
    }

    /// Connects to the broker, and serves its events from then on.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn connect(&self, socket: &Path) -> Result<()> {
        let (socket, name) = (socket.to_owned(), self.name.clone());
        self.call(Task::Connect { socket, name }).map(drop)
    }

    /// Kills it, as SIGKILL does, and waits for its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// How it ended, if it did.
    fn end(&self) -> String {
        let replies = self.replies.0.lock().unwrap_or_else(PoisonError::into_inner);
        if replies.over { "it has died".to_owned() } else { "no answer".to_owned() }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It fails where the process has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Takes replies until the actor is gone.
fn collect(socket: BorrowedFd<'_>, to: &Shared) {
    let mut buffer = Buffer::default();
    while let Ok(Received::Datagram(len, _)) = buffer.receive(socket) {
        let Ok(reply) = serde_json::from_slice::<Reply>(buffer.bytes(len)) else { break };
        let mut replies = to.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reply {
            Reply::AtIt { id } => drop(replies.at_it.insert(id)),
            Reply::Ended { id, result } => drop(replies.came.insert(id, result)),
        }
        drop(replies);
        to.1.notify_all();
    }
    to.0.lock().unwrap_or_else(PoisonError::into_inner).over = true;
    to.1.notify_all();
}
