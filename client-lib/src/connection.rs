//! The connection to the broker.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::message::{
    self, AttachFence, Export, GuardKind, Layout, Policy, ShareFence, Terms,
};
use dmashare_proto::{Reply, Request};
use dmashare_uapi::dma_buf::Access;

use crate::again::Again;
use crate::builder::Builder;
use crate::deadline::Deadline;
use crate::device::DeviceInfo;
use crate::error::Error;
use crate::event::Event;
use crate::export::ExportedBuffer;
use crate::fence::{ImportedFence, SharedFence};
use crate::handle::Handle;
use crate::import::{ImportedBuffer, Importer};
use crate::inner::{Answer, Inner};
use crate::object::{self, Shared};
use crate::token::{Grant, Token, deadline_millis};

/// How a fence is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceOptions {
    /// How it reaches importers.
    pub policy: Policy,
    /// After how long it ends with ETIMEDOUT; the broker's default for `None`.
    pub deadline: Option<Duration>,
}

/// A guard where the device can be pulled, and the broker's deadline.
impl Default for FenceOptions {
    fn default() -> Self {
        Self { policy: Policy::Auto, deadline: None }
    }
}

/// A connection to the broker. Clones are the same connection, for any thread; it is closed when
/// they and all handles made from it are dropped.
///
/// Calls that ask the broker wait for its answer, for as long as [`Builder::patience`] says. Nothing
/// runs in the background: events are read by [`Self::dispatch`], and by any call that waits.
#[derive(Clone)]
pub struct Connection(Link);

/// What it is to its clones.
#[derive(Clone)]
enum Link {
    Once(Arc<Inner>),
    Again(Arc<Again>),
}

impl Connection {
    pub(crate) fn of(inner: &Arc<Inner>) -> Self {
        Self(Link::Once(Arc::clone(inner)))
    }

    pub(crate) fn again(again: Again) -> Self {
        Self(Link::Again(Arc::new(again)))
    }

    /// The connection as it is now.
    pub(crate) fn current(&self) -> Arc<Inner> {
        match &self.0 {
            Link::Once(inner) => Arc::clone(inner),
            Link::Again(again) => again.current(),
        }
    }

    /// A request that is not about an object of one connection: where that ends before the answer, it is
    /// asked on the next one, once. What the first time may have made has ended with its connection. Gives
    /// the connection that has answered too.
    pub(crate) fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Arc<Inner>, Answer), Error> {
        let (inner, again) = match &self.0 {
            Link::Once(inner) => (Arc::clone(inner), None),
            Link::Again(again) => (again.live(), Some(again)),
        };
        match (inner.call(request, fds), again) {
            (Err(error), Some(again)) if error.is_disconnected() => {
                let inner = again.live();
                inner.call(request, fds).map(|answer| (inner, answer))
            }
            (result, _) => result.map(|answer| (inner, answer)),
        }
    }

    /// The same, for what is answered by `Done`.
    pub(crate) fn tell(&self, request: &Request) -> Result<(), Error> {
        match self.ask(request, &[])? {
            (_, Answer::Plain(Reply::Done(()))) => Ok(()),
            (inner, other) => Err(inner.nonsense(request, other)),
        }
    }

    /// Connects to the socket that `DMASHARE_SOCKET` names, else to `/run/dmashare/broker.sock`.
    ///
    /// # Errors
    /// Nobody listens there; the broker speaks no version in common.
    pub fn connect() -> Result<Self, Error> {
        Builder::new().connect()
    }

    /// Connects to a socket.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_to(path: impl AsRef<Path>) -> Result<Self, Error> {
        Builder::new().connect_to(path)
    }

    /// Takes over a connected socket, as D-Bus `Connect()` gives one.
    ///
    /// # Errors
    /// It is no SOCK_SEQPACKET socket; the broker speaks no version in common.
    pub fn from_fd(socket: OwnedFd) -> Result<Self, Error> {
        Builder::new().from_fd(socket)
    }

    /// To connect with a name, or another patience.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Random for each life of the broker's state: ids mean something only beside it.
    #[must_use]
    pub fn instance(&self) -> [u8; 16] {
        self.current().welcome.instance
    }

    /// Which guards the broker makes.
    #[must_use]
    pub fn guard_backend(&self) -> GuardKind {
        self.current().welcome.backend
    }

    /// Reads what is there, and gives the events; waits for one until the time is up (for ever for
    /// `None`, not at all for zero). No event in time is an empty list.
    ///
    /// To be called when the connection's fd ([`AsFd`]) is readable. What it does for a lost device
    /// is done when it returns: see [`crate::Lost`].
    ///
    /// # Errors
    /// [`Error::Disconnected`], or [`Error::Protocol`], after the last event.
    pub fn dispatch(&self, timeout: Option<Duration>) -> Result<Vec<Event>, Error> {
        let deadline = Deadline::after(timeout);
        match &self.0 {
            Link::Once(inner) => inner.dispatch(deadline),
            Link::Again(again) => again.dispatch(deadline),
        }
    }

    /// Whether it is of no more use; with [`Builder::reconnect`], until it is made anew.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let inner = self.current();
        inner.channel.is_forked() || inner.channel.is_broken()
    }

    /// The GPUs that are there.
    ///
    /// # Errors
    /// The request failed.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>, Error> {
        let (inner, answer) = self.ask(&Request::ListDevices(()), &[])?;
        match answer {
            Answer::Plain(Reply::Devices(list)) => {
                list.into_iter().map(|info| DeviceInfo::new(&inner.page, info)).collect()
            }
            other => Err(inner.nonsense(&Request::ListDevices(()), other)),
        }
    }

    /// Makes a buffer known to the broker: `node` is an open DRM node of the device that made it,
    /// `planes` a dma-buf for each plane of `layout`. All fds stay the caller's.
    ///
    /// Pass a render node where there is one: a primary node that is DRM master stays so until the
    /// broker has closed its copy, which may be after the caller has closed its own.
    ///
    /// # Errors
    /// The broker refused: the device is lost, the layout impossible, a quota used up.
    pub fn export(
        &self,
        node: BorrowedFd<'_>,
        layout: &Layout,
        planes: &[BorrowedFd<'_>],
    ) -> Result<ExportedBuffer, Error> {
        self.export_with(node, layout, planes, None).map(|(buffer, _)| buffer)
    }

    /// [`Self::export`] and [`Self::grant`] in one, which takes half the time: a buffer with a token
    /// for it.
    ///
    /// # Errors
    /// Those of both; then there is neither.
    pub fn export_granted(
        &self,
        node: BorrowedFd<'_>,
        layout: &Layout,
        planes: &[BorrowedFd<'_>],
        grant: Grant,
    ) -> Result<(ExportedBuffer, Token), Error> {
        let (buffer, token) = self.export_with(node, layout, planes, Some(grant.terms()))?;
        Ok((buffer, token.ok_or_else(no_token)?))
    }

    fn export_with(
        &self,
        node: BorrowedFd<'_>,
        layout: &Layout,
        planes: &[BorrowedFd<'_>],
        grant: Option<Terms>,
    ) -> Result<(ExportedBuffer, Option<Token>), Error> {
        let request = Request::Export(Export { layout: layout.clone(), grant });
        let fds: Vec<_> = std::iter::once(node).chain(planes.iter().copied()).collect();
        let (inner, answer) = self.ask(&request, &fds)?;
        match answer {
            Answer::Plain(Reply::Exported(exported))
                if exported.token.is_some() == grant.is_some() =>
            {
                let handle = Handle::new(&inner, exported.buffer, exported.at)?;
                Ok((ExportedBuffer(handle), exported.token.map(Token)))
            }
            other => Err(inner.nonsense(&request, other)),
        }
    }

    /// Makes a token for a buffer, a fence or a timeline of this process's.
    ///
    /// # Errors
    /// The broker refused: the device is lost, a value out of range, a quota used up.
    pub fn grant(&self, object: &impl Shared, grant: Grant) -> Result<Token, Error> {
        let request =
            Request::Grant(message::Grant { object: object.object(), terms: grant.terms() });
        let (inner, answer) = self.ask(&request, &[])?;
        match answer {
            Answer::Plain(Reply::Granted(token)) => Ok(Token(token)),
            other => Err(inner.nonsense(&request, other)),
        }
    }

    /// Uses a token for a buffer.
    ///
    /// # Errors
    /// The broker refused (the token is no good, the device is lost), or the device was lost
    /// meanwhile.
    pub fn import(&self, token: Token, by: Importer<'_>) -> Result<ImportedBuffer, Error> {
        let (by, node) = match by {
            Importer::Cpu => (message::Importer::Cpu, None),
            Importer::Device(node) => (message::Importer::Device, Some(node)),
        };
        let request = Request::Import(message::Import { token: token.0, by });
        let (inner, answer) = self.ask(&request, node.as_slice())?;
        match answer {
            Answer::Import(import) => {
                import.check_device()?;
                Ok(ImportedBuffer(import))
            }
            other => Err(inner.nonsense(&request, other)),
        }
    }

    /// Makes a fence known to the broker: `node` is an open DRM node of the device that signals it.
    /// Both fds stay the caller's.
    ///
    /// # Errors
    /// The broker refused: the device is lost, the fd is no sync_file, no guards can be made.
    pub fn share_fence(
        &self,
        node: BorrowedFd<'_>,
        sync_file: BorrowedFd<'_>,
        options: FenceOptions,
    ) -> Result<SharedFence, Error> {
        self.share_fence_with(node, sync_file, options, None).map(|(fence, _)| fence)
    }

    /// [`Self::share_fence`] and [`Self::grant`] in one, which takes half the time: a fence with a
    /// token for it.
    ///
    /// # Errors
    /// Those of both; then there is neither.
    pub fn share_fence_granted(
        &self,
        node: BorrowedFd<'_>,
        sync_file: BorrowedFd<'_>,
        options: FenceOptions,
        grant: Grant,
    ) -> Result<(SharedFence, Token), Error> {
        let terms = Some(grant.terms());
        let (fence, token) = self.share_fence_with(node, sync_file, options, terms)?;
        Ok((fence, token.ok_or_else(no_token)?))
    }

    fn share_fence_with(
        &self,
        node: BorrowedFd<'_>,
        sync_file: BorrowedFd<'_>,
        options: FenceOptions,
        grant: Option<Terms>,
    ) -> Result<(SharedFence, Option<Token>), Error> {
        let request = Request::ShareFence(ShareFence {
            policy: options.policy,
            deadline_ms: deadline_millis(options.deadline)?,
            grant,
        });
        let (inner, answer) = self.ask(&request, &[node, sync_file])?;
        match answer {
            Answer::Plain(Reply::FenceShared(shared))
                if shared.token.is_some() == grant.is_some() =>
            {
                let handle = Handle::new(&inner, shared.fence, shared.at)?;
                Ok((SharedFence { handle, guard: shared.guard }, shared.token.map(Token)))
            }
            other => Err(inner.nonsense(&request, other)),
        }
    }

    /// Puts a fence into the reservation object of each of a buffer's planes, for those who know
    /// implicit synchronisation only: what this process does by itself with
    /// DMA_BUF_IOCTL_IMPORT_SYNC_FILE (Linux 6.0, include/uapi/linux/dma-buf.h), but the importers'
    /// guard is put there, which ends when the device is lost. `access` is what the fence's work does
    /// to the buffer: for [`Access::Read`] writers wait, else everybody does. A fence that has ended
    /// is not put anywhere.
    ///
    /// # Errors
    /// The broker refused: one of both is lost, the kernel or the broker's guards cannot do it
    /// (`UNSUPPORTED`).
    pub fn attach(
        &self,
        fence: &impl object::Fence,
        buffer: &impl object::Buffer,
        access: Access,
    ) -> Result<(), Error> {
        self.tell(&Request::AttachFence(AttachFence {
            fence: fence.object(),
            buffer: buffer.object(),
            access: match access {
                Access::Read => message::Access::Read,
                Access::Write | Access::ReadWrite => message::Access::Write,
            },
        }))
    }

    /// Uses a token for a fence.
    ///
    /// # Errors
    /// The broker refused: the token is no good.
    pub fn import_fence(&self, token: Token) -> Result<ImportedFence, Error> {
        let request = Request::ImportFence(token.0);
        let (inner, answer) = self.ask(&request, &[])?;
        match answer {
            Answer::Fence(fence, fd) => {
                let handle = Handle::new(&inner, fence.fence, fence.at)?;
                Ok(ImportedFence { handle, guard: fence.guard, state: fence.state, fd })
            }
            other => Err(inner.nonsense(&request, other)),
        }
    }
}

/// Of an answer that was looked at before.
fn no_token() -> Error {
    Error::Protocol("a token was wanted, and none came".to_owned())
}

/// One fd for any event loop: readable while there is something for [`Connection::dispatch`], and
/// for good once the connection is closed and not made anew. It stays the same. Only to be waited on.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Link::Once(inner) => inner.channel.as_fd(),
            Link::Again(again) => again.as_fd(),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_closed() { "closed" } else { "open" };
        write!(f, "Connection({state}, {} guards)", self.guard_backend().name())
    }
}
