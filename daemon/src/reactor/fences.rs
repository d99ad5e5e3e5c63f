//! The fences that are watched: by id, by device, by deadline, and in epoll.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use dmashare_proto::{DeviceId, ObjectId};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::OnPoint;
use super::deadlines::Deadlines;
use crate::guard::Ender;
use crate::id_map::IdMap;

/// One fence.
pub(super) struct Pending {
    pub device: DeviceId,
    pub source: Arc<OwnedFd>,
    pub ender: Option<Ender>,
    pub deadline_ns: u64,
    pub point: Option<OnPoint>,
}

impl Pending {
    /// Whether it is ours to end: then it has a deadline.
    fn is_ours(&self) -> bool {
        self.ender.is_some() || self.point.is_some_and(|on| on.in_turn)
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Table {
    fences: IdMap<ObjectId, Pending>,
    /// By age: ids grow.
    of: IdMap<DeviceId, BTreeSet<ObjectId>>,
    pub deadlines: Deadlines,
}

impl Table {
    /// Watches a fence; on an error it is given back, to be ended.
    pub fn add(
        &mut self,
        epoll: &Epoll,
        key: u64,
        fence: ObjectId,
        pending: Pending,
    ) -> Result<(), (Pending, io::Error)> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
        if let Err(errno) = epoll.add(pending.source.as_fd(), event) {
            return Err((pending, errno.into()));
        }
        self.of.entry(pending.device).or_default().insert(fence);
        if pending.is_ours() {
            self.deadlines.add(pending.deadline_ns, fence);
        }
        self.fences.insert(fence, pending);
        Ok(())
    }

    pub fn source(&self, fence: ObjectId) -> Option<&OwnedFd> {
        self.fences.get(&fence).map(|pending| &*pending.source)
    }

    pub fn device(&self, fence: ObjectId) -> Option<DeviceId> {
        self.fences.get(&fence).map(|pending| pending.device)
    }

    /// Takes a fence out. Its source leaves epoll only with [`forget_source`]: the guard first.
    pub fn take(&mut self, fence: ObjectId) -> Option<Pending> {
        let pending = self.fences.remove(&fence)?;
        self.deadlines.remove(pending.deadline_ns, fence);
        if let Some(of) = self.of.get_mut(&pending.device) {
            of.remove(&fence);
            if of.is_empty() {
                self.of.remove(&pending.device);
            }
        }
        Some(pending)
    }

    /// Devices with something pending, and the oldest of it.
    pub fn oldest(&self) -> impl Iterator<Item = (DeviceId, ObjectId)> + Clone + '_ {
        self.of.iter().filter_map(|(&device, of)| Some((device, *of.first()?)))
    }

    /// Takes out what is ours to end of a device, oldest first. What was passed through stays.
    pub fn take_guarded_of(&mut self, device: DeviceId) -> Vec<(ObjectId, Pending)> {
        let of = self.of.get(&device).into_iter().flatten();
        let is_ours = |fence: &&ObjectId| self.fences.get(fence).is_some_and(Pending::is_ours);
        let guarded: Vec<ObjectId> = of.filter(is_ours).copied().collect();
        guarded.into_iter().filter_map(|fence| Some((fence, self.take(fence)?))).collect()
    }

    /// Gives a fence that goes on another guard; gives back the old one's end, or the new one's where
    /// the fence has ended.
    pub fn change_guard(&mut self, fence: ObjectId, ender: Ender) -> Option<Ender> {
        match self.fences.get_mut(&fence) {
            Some(pending) => pending.ender.replace(ender),
            None => Some(ender),
        }
    }

    /// Takes out the names of everything of a device, in the order in which it came: what they are of is to
    /// be taken with [`Self::take_swept`].
    pub fn take_names_of(&mut self, device: DeviceId) -> BTreeSet<ObjectId> {
        self.of.remove(&device).unwrap_or_default()
    }

    /// Takes out one of those. It has its deadline until [`Self::forget`]: the guard first.
    pub fn take_swept(&mut self, fence: ObjectId) -> Option<Pending> {
        self.fences.remove(&fence)
    }

    /// What was taken out so has ended: nothing is left of it, here or in epoll.
    pub fn forget(&mut self, epoll: &Epoll, fence: ObjectId, pending: &Pending) {
        self.deadlines.remove(pending.deadline_ns, fence);
        forget_source(epoll, &pending.source);
    }

    pub fn take_everything(&mut self) -> Vec<Pending> {
        self.of.clear();
        self.deadlines = Deadlines::default();
        self.fences.drain().map(|(_, pending)| pending).collect()
    }
}

/// Takes a source out of epoll. Closing our descriptor would not do: the client has another one of
/// the same open file, and epoll goes on reporting for the file.
pub(super) fn forget_source(epoll: &Epoll, source: &OwnedFd) {
    if let Err(error) = epoll.delete(source.as_fd()) {
        tracing::error!(%error, "a fence could not be taken out of epoll");
    }
}
