//! The actor's side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use dmashare::{
    Connection, FenceOptions, Grant, Grantee, Importer, Policy, Protection, SharedFence, Token,
};
use dmashare_proto::transport::{Buffer as Datagrams, Received, send};
use dmashare_uapi::gem::GemHandle;
use dmashare_uapi::mapping::{Mapping, Prot};

use super::events::{self, Losses};
use super::objects::{FenceEnd, Imported, Object, Objects};
use super::{Done, Refusal, Reply, Request, Task, copies, hammer, pace, reader, timeline};
use crate::{Buffer, Bus, Card, Process, Source};

/// An actor's state, as its tasks share it.
#[derive(Default)]
pub(super) struct Stage {
    connection: OnceLock<Connection>,
    objects: Arc<Objects>,
    losses: Arc<Losses>,
}

/// Does what it is told until nobody is there to tell it.
pub(super) fn serve(name: &str) {
    let stage = Arc::new(Stage::default());
    let socket = io::stdin();
    let mut buffer = Datagrams::default();
    while let Ok(Received::Datagram(len, fds)) = buffer.receive(socket.as_fd()) {
        let request = match serde_json::from_slice::<Request>(buffer.bytes(len)) {
            Ok(request) => request,
            Err(error) => {
                eprintln!("{name}: a task that is none: {error}");
                return;
            }
        };
        let stage = Arc::clone(&stage);
        std::thread::spawn(move || {
            let Request { id, task } = request;
            let result = stage.perform(task, fds, || tell(&Reply::AtIt { id }));
            tell(&Reply::Ended { id, result: result.map_err(Refusal::from) });
        });
    }
}

/// It fails where nobody waits any more.
fn tell(reply: &Reply) {
    let bytes = serde_json::to_vec(reply).unwrap_or_default();
    drop(send(io::stdin().as_fd(), &bytes, &[]));
}

impl Stage {
    fn connection(&self) -> Result<&Connection> {
        self.connection.get().context("not connected")
    }

    fn perform(&self, task: Task, fds: Vec<OwnedFd>, at_it: impl Fn()) -> Result<Done> {
        match task {
            Task::Connect { socket, name } => {
                let connection = Connection::builder().name(&name).connect_to(socket)?;
                let (served, objects) = (connection.clone(), Arc::clone(&self.objects));
                let losses = Arc::clone(&self.losses);
                std::thread::spawn(move || events::serve(&served, &objects, &losses));
                drop(self.connection.set(connection));
                Ok(Done::Nothing)
            }
            Task::Export { card, width, height } => {
                let buffer = Buffer::make(&card, width, height)?;
                let export = self.connection()?.export(
                    buffer.node.as_fd(),
                    &buffer.layout,
                    &[buffer.dma_buf.as_fd()],
                )?;
                let (id, device) = (export.id(), export.device().id());
                let key = self.objects.keep(Object::Exported(export, buffer));
                Ok(Done::Object { key, id, device })
            }
            Task::Grant { key, uid, uses } => {
                let to = uid.map_or(Grantee::Anyone, Grantee::Uid);
                let grant = Grant { to, uses, ..Grant::default() };
                let token = match &*self.objects.get(key)? {
                    Object::Exported(export, _) => self.connection()?.grant(export, grant)?,
                    Object::Shared(fence, _) => self.connection()?.grant(fence, grant)?,
                    Object::Timeline(timeline) => self.connection()?.grant(timeline, grant)?,
                    _ => anyhow::bail!("only an own object can be granted"),
                };
                Ok(Done::Token(token.to_hex()))
            }
            Task::Import { token, by } => self.import(&token, by.as_ref()),
            Task::Fill { key, byte } => {
                self.objects.get(key)?.fill(byte)?;
                Ok(Done::Nothing)
            }
            Task::Count { key, byte } => Ok(Done::Count(self.objects.get(key)?.count(byte)?)),
            Task::ShareFence { card, deadline_ms } => {
                let own = if fds.is_empty() { Some(Source::vgem(card.simulated)?) } else { None };
                let source = match (&own, fds.first()) {
                    (Some(own), _) => own.fd(),
                    (None, fd) => fd.context("no fence came beside the task")?.as_fd(),
                };
                let fence = self.share(&card, source, deadline_ms)?;
                let (id, device) = (fence.id(), fence.device().id());
                let key = self.objects.keep(Object::Shared(fence, own.into()));
                Ok(Done::Object { key, id, device })
            }
            Task::Signal { key } => match &*self.objects.get(key)? {
                Object::Shared(_, source) => {
                    let mut source = source.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
                    source.as_mut().context("the fence is another process's")?.signal()?;
                    Ok(Done::Nothing)
                }
                _ => anyhow::bail!("no shared fence"),
            },
            Task::ImportFence { token } => {
                let token: Token = token.parse().context("a token")?;
                let fence = self.connection()?.import_fence(token)?;
                let (id, device) = (fence.id(), fence.device().id());
                let key = self.objects.keep(Object::Fence(fence));
                Ok(Done::Object { key, id, device })
            }
            Task::Wait { key, bound_ms } => match &*self.objects.get(key)? {
                Object::Fence(fence) => {
                    at_it();
                    Ok(Done::Fence(FenceEnd::wait(fence, Duration::from_millis(bound_ms))?))
                }
                _ => anyhow::bail!("no imported fence"),
            },
            Task::Status { key } => match &*self.objects.get(key)? {
                Object::Fence(fence) => Ok(Done::Fence(FenceEnd::now(fence)?)),
                _ => anyhow::bail!("no imported fence"),
            },
            Task::Release { key } => {
                self.objects.take(key)?.release()?;
                Ok(Done::Nothing)
            }
            Task::ReadUntilLost { key } => match &*self.objects.get(key)? {
                Object::Imported(import) => Ok(Done::Read(reader::read_until_lost(import, at_it)?)),
                _ => anyhow::bail!("no imported buffer"),
            },
            Task::CopyUntilLost { key, byte } => match &*self.objects.get(key)? {
                Object::Imported(import) => {
                    Ok(Done::Copies(copies::copy_until_lost(import, byte, at_it)?))
                }
                _ => anyhow::bail!("no imported buffer"),
            },
            Task::Hammer { card, rounds, foreign } => {
                let tally = hammer::hammer(self.connection()?, &card, rounds, foreign.as_deref())?;
                Ok(Done::Tally(tally))
            }
            Task::Timeline(task) => {
                timeline::perform(self.connection()?, &self.objects, task, &fds, at_it)
            }
            Task::Keep => Ok(Done::Kept(self.objects.keep(Object::Descriptors(fds)))),
            Task::KeepMapping { offset, len } => {
                let fd = fds.first().context("no descriptor came beside the task")?;
                let mapping = Mapping::map(fd.as_fd(), offset, len, Prot::ReadWrite)?;
                Ok(Done::Kept(self.objects.keep(Object::Mapping(mapping))))
            }
            Task::AwaitLoss { device } => Ok(Done::Lost(self.losses.wait(device)?)),
            Task::AskCause { bus, object } => Ok(Done::Cause(Bus::connect(&bus)?.cause(object)?)),
            Task::KeepPace { socket, card, enough } => {
                let pipe = fds.first().context("no pipe came beside the task")?;
                let pace = pace::keep_pace(&socket, &card, enough, pipe.as_fd(), at_it)?;
                Ok(Done::Pace(pace))
            }
            Task::DmaBufs => Ok(Done::Count(Process::own().dma_bufs()? as u64)),
        }
    }

    fn import(&self, token: &str, by: Option<&Card>) -> Result<Done> {
        let token: Token = token.parse().context("a token")?;
        let node = by.map(Card::open).transpose()?;
        let importer = node.as_ref().map_or(Importer::Cpu, |node| Importer::Device(node.as_fd()));
        let buffer = self.connection()?.import(token, importer)?;
        let gem = match (node, by) {
            (Some(node), Some(card)) if !card.simulated => {
                let plane = buffer.dup_plane_fd(0)?;
                Some(GemHandle::import(node, plane.as_fd()).context("PRIME import")?)
            }
            _ => None,
        };
        let memory = buffer.map(0, Protection::ReadWrite)?;
        let device = buffer.device().context("the buffer is of no device")?.id();
        let id = buffer.id();
        let import = Imported { memory, gem: gem.into(), buffer };
        let key = self.objects.keep(Object::Imported(import));
        Ok(Done::Object { key, id, device })
    }

    fn share(&self, card: &Card, source: BorrowedFd<'_>, deadline_ms: u64) -> Result<SharedFence> {
        let node = card.open()?;
        let deadline = (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms));
        let options = FenceOptions { policy: Policy::Auto, deadline };
        Ok(self.connection()?.share_fence(node.as_fd(), source, options)?)
    }
}
