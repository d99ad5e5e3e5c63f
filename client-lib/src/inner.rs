//! What the handles of one connection share, and what happens to a message as it is read.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use dmashare_proto::message::{
    Allocated, FenceImported, FenceState, Imported, TimelineInfo, Welcome,
};
use dmashare_proto::state_page::{SLOTS, word_offset};
use dmashare_proto::transport::Buffer;
use dmashare_proto::{Event, ObjectId, Reply, Request, message};
use dmashare_uapi::memfd::ReadOnlyPage;

use crate::channel::{Channel, Handler};
use crate::deadline::Deadline;
use crate::device::Device;
use crate::error::{DeviceLost, Error};
use crate::event::Notice;
use crate::import_core::ImportCore;
use crate::registry::Registry;

/// An answer, after what the stream's order demands was done with it.
pub(crate) enum Answer {
    Plain(Reply),
    /// In the registry already, so that a loss that follows in the stream finds it.
    Import(Arc<ImportCore>),
    Fence(FenceImported, Option<OwnedFd>),
    /// With the syncobj, and what hangs up.
    Timeline(TimelineInfo, [OwnedFd; 2]),
}

/// Every handle keeps the connection open.
pub(crate) struct Inner {
    pub(crate) channel: Channel<Answer, Notice>,
    pub(crate) page: Arc<ReadOnlyPage>,
    pub(crate) imports: Registry,
    pub(crate) welcome: Welcome,
    /// How long a request waits for its answer.
    pub(crate) patience: Option<Duration>,
}

impl Inner {
    /// A connection that has shaken hands.
    pub(crate) fn new(
        socket: OwnedFd,
        buffer: Box<Buffer>,
        welcome: Welcome,
        page: ReadOnlyPage,
        patience: Option<Duration>,
    ) -> Result<Arc<Self>, Error> {
        let (channel, imports) = (Channel::new(socket, buffer)?, Registry::default());
        Ok(Arc::new(Self { channel, page: Arc::new(page), imports, welcome, patience }))
    }

    /// Another connection takes this one's place: no device of it is to be taken for present any more,
    /// and what was imported by it goes. Gives the imports.
    pub(crate) fn retire(&self) -> Vec<ObjectId> {
        let words = (0..SLOTS).filter_map(word_offset);
        if let Err(error) = self.page.detach(words) {
            // ENOMEM: the page stays as the broker left it. Imports refuse to be used all the same.
            debug_assert!(false, "the state page stays: {error}");
        }
        self.imports.sweep_all()
    }

    /// Reads what is there, and gives the events; waits for one until the deadline.
    pub(crate) fn dispatch(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Result<Vec<crate::Event>, Error> {
        let notices = self.channel.dispatch(self, deadline)?;
        Ok(notices.into_iter().map(|notice| notice.into_event(self)).collect())
    }

    pub(crate) fn call(
        self: &Arc<Self>,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, Error> {
        match self.channel.call(self, request, fds, Deadline::after(self.patience))? {
            Answer::Plain(Reply::Error(error)) => Err(Error::Broker(error)),
            answer => Ok(answer),
        }
    }

    /// A request that is answered by `Done`.
    pub(crate) fn tell(self: &Arc<Self>, request: &Request) -> Result<(), Error> {
        self.tell_with(request, &[])
    }

    /// The same, with descriptors.
    pub(crate) fn tell_with(
        self: &Arc<Self>,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        match self.call(request, fds)? {
            Answer::Plain(Reply::Done(())) => Ok(()),
            other => Err(self.nonsense(request, other)),
        }
    }

    /// Ends the connection over an answer that fits no such request.
    pub(crate) fn nonsense(self: &Arc<Self>, request: &Request, answer: Answer) -> Error {
        let name = match &answer {
            Answer::Plain(reply) => reply.name(),
            Answer::Import(_) => "Imported or Allocated",
            Answer::Fence(..) => "FenceImported",
            Answer::Timeline(..) => "Timeline",
        };
        let error = Error::Protocol(format!("{name} in answer to {}", request.name()));
        self.channel.break_off(self, &error);
        error
    }

    /// The loss of a device, with its cause where that is known.
    pub(crate) fn lost(&self, lost: DeviceLost) -> DeviceLost {
        DeviceLost { cause: lost.cause.or_else(|| self.imports.cause(lost.device)), ..lost }
    }

    fn imported(self: &Arc<Self>, imported: Imported, fds: Vec<OwnedFd>) -> Result<Answer, Error> {
        let planes = imported.layout.planes.len();
        if fds.len() != planes || imported.sizes.len() != planes || planes == 0 {
            return Err(Error::Protocol(format!(
                "Imported with {planes} planes, {} sizes and {} file descriptors",
                imported.sizes.len(),
                fds.len()
            )));
        }
        let device = imported.at.map(|at| Device::new(&self.page, at)).transpose()?;
        let import = Arc::new(ImportCore::new(self, device, imported, fds));
        if self.imports.add(&import) {
            // The broker sends none after the loss; if it did, nothing of it would stay.
            drop(import.revoke());
        }
        Ok(Answer::Import(import))
    }
}

impl Handler for Arc<Inner> {
    type Answer = Answer;
    type Notice = Notice;

    fn reply(&self, reply: Reply, mut fds: Vec<OwnedFd>) -> Result<Answer, Error> {
        match reply {
            Reply::Imported(imported) => self.imported(imported, fds),
            Reply::Allocated(Allocated { buffer, layout, sizes, cpu_sync }) => {
                let (import, at) = (buffer, None);
                self.imported(Imported { import, buffer, at, layout, sizes, cpu_sync }, fds)
            }
            Reply::FenceImported(fence) => {
                let wanted = usize::from(fence.state == FenceState::Pending);
                if fds.len() != wanted {
                    return Err(Error::Protocol(format!(
                        "FenceImported in the state {:?} with {} file descriptors",
                        fence.state,
                        fds.len()
                    )));
                }
                Ok(Answer::Fence(fence, fds.pop()))
            }
            Reply::Timeline(timeline) => match <[OwnedFd; 2]>::try_from(fds) {
                Ok(fds) => Ok(Answer::Timeline(timeline, fds)),
                Err(fds) => {
                    Err(Error::Protocol(format!("Timeline with {} file descriptors", fds.len())))
                }
            },
            other if !fds.is_empty() => Err(Error::Protocol(format!(
                "{} with {} file descriptors",
                other.name(),
                fds.len()
            ))),
            other => Ok(Answer::Plain(other)),
        }
    }

    fn event(&self, event: Event) -> Result<Option<Notice>, Error> {
        Ok(match event {
            Event::DeviceAdded(info) => {
                Some(Notice::Added(crate::DeviceInfo::new(&self.page, info)?))
            }
            // Told again by a broker that was restarted while it told.
            Event::DeviceLost(lost) if self.imports.cause(lost.device).is_some() => None,
            Event::DeviceLost(lost) => Some(Notice::Lost(self.imports.sweep(lost))),
            Event::DeviceGone(device) => {
                self.imports.forget(device);
                Some(Notice::Gone(device))
            }
            Event::DeviceWedged(wedged) => Some(Notice::Wedged(wedged.into())),
            Event::RemovalRequested(removal) => Some(Notice::RemovalRequested(removal)),
            Event::DeviceStays(device) => Some(Notice::Stays(device)),
            _ => None,
        })
    }

    /// Gives back what nobody took.
    fn unwanted(&self, answer: Answer) {
        let id: ObjectId = match answer {
            // Its drop gives it back.
            Answer::Import(_) => return,
            Answer::Fence(message::FenceImported { fence, .. }, _) => fence,
            Answer::Timeline(message::TimelineInfo { timeline, .. }, _) => timeline,
            Answer::Plain(Reply::Exported(exported)) => exported.buffer,
            Answer::Plain(Reply::FenceShared(shared)) => shared.fence,
            Answer::Plain(Reply::Inhibited(inhibitor)) => inhibitor,
            Answer::Plain(_) => return,
        };
        self.channel.post(&Request::Release(id));
    }

    fn closed(&self) {
        self.imports.sweep_known();
    }
}
