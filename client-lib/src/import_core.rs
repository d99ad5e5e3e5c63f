//! One import, as its handle, its mappings and the sweep share it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dmashare_proto::message::{Imported, Layout};
use dmashare_proto::{ObjectId, Request};
use dmashare_uapi::mapping::{Mapping, Prot};

use crate::device::Device;
use crate::error::{DeviceLost, Error};
use crate::holding::{Holding, Revoke};
use crate::inner::Inner;
use crate::live::Live;

impl Revoke for Mapping {
    fn revoke(&self) -> io::Result<()> {
        Self::revoke(self)
    }
}

/// Dropped with the last of the handle and its mappings: then the broker gets its import back.
pub(crate) struct ImportCore {
    inner: Arc<Inner>,
    pub(crate) id: ObjectId,
    pub(crate) buffer: ObjectId,
    /// The exporter device; `None` where the buffer is neutral.
    pub(crate) device: Option<Device>,
    pub(crate) layout: Layout,
    pub(crate) sizes: Vec<u64>,
    pub(crate) cpu_sync: bool,
    held: Holding<OwnedFd, Mapping>,
    pub(crate) live: Live,
    /// To be copied when somebody asks for the device.
    pub(crate) preserve: AtomicBool,
    /// The broker was given it back.
    returned: bool,
}

impl ImportCore {
    pub(crate) fn new(
        inner: &Arc<Inner>,
        device: Option<Device>,
        imported: Imported,
        fds: Vec<OwnedFd>,
    ) -> Self {
        let Imported { import, buffer, at: _, layout, sizes, cpu_sync } = imported;
        let held = Holding::new(fds);
        Self {
            live: Live::new(device.as_ref(), held.taken()),
            preserve: AtomicBool::new(false),
            inner: Arc::clone(inner),
            id: import,
            buffer,
            device,
            layout,
            sizes,
            cpu_sync,
            held,
            returned: false,
        }
    }

    /// Puts zero pages over every mapping and closes the fds: see [`Holding::revoke`].
    pub(crate) fn revoke(&self) -> io::Result<()> {
        self.held.revoke()
    }

    /// Why [`Live`] is not good any more. After a fault nobody else takes the import back: so here.
    #[cold]
    #[inline(never)]
    pub(crate) fn refused(&self) -> Error {
        self.check_device().err().unwrap_or_else(|| {
            drop(self.revoke());
            self.taken()
        })
    }

    pub(crate) fn check_device(&self) -> Result<(), Error> {
        match &self.device {
            Some(device) => device.check().map_err(|lost| self.lost(lost)),
            None => Ok(()),
        }
    }

    /// The loss of the device, found out by whoever calls: takes the import back at once, without
    /// waiting for the event. What fails here is tried again, and told, when the event is read.
    #[cold]
    pub(crate) fn lost(&self, lost: DeviceLost) -> Error {
        drop(self.revoke());
        Error::DeviceLost(self.inner.lost(lost))
    }

    /// The same for a failed call: the device's loss, if that is the reason, else the failure.
    #[cold]
    pub(crate) fn failed(&self, what: &'static str, source: io::Error) -> Error {
        match self.check_device() {
            Err(lost) => lost,
            Ok(()) => Error::Io { what, source },
        }
    }

    /// The planes' fds, while they are not revoked.
    pub(crate) fn fds(&self) -> Result<Arc<[OwnedFd]>, Error> {
        self.held.fds().ok_or_else(|| self.taken())
    }

    #[cold]
    fn taken(&self) -> Error {
        match &self.device {
            Some(device) => {
                let lost = DeviceLost { device: device.id(), cause: None };
                Error::DeviceLost(self.inner.lost(lost))
            }
            // Only with its connection is a neutral one taken.
            None => Error::Disconnected(None),
        }
    }

    /// Maps a part of a plane that the caller has checked to lie inside of it.
    pub(crate) fn map(
        &self,
        plane: usize,
        offset: u64,
        len: usize,
        prot: Prot,
    ) -> Result<Arc<Mapping>, Error> {
        self.check_device()?;
        let fds = self.fds()?;
        // Not under the lock: a driver's mmap can sleep.
        let mapping = Mapping::map(fds[plane].as_fd(), offset, len, prot)
            .map_err(|error| self.failed("cannot map a plane", error))?;
        let mapping = mapping.guarded(self.held.flag());
        let mapping = self.held.add(mapping).map_err(|_| self.taken())?;
        self.check_device()?;
        Ok(mapping)
    }

    /// Gives it back and waits for the broker. Without mappings; the caller's is the last handle.
    pub(crate) fn release(&mut self) -> Result<(), Error> {
        self.close();
        self.returned = true;
        self.inner.release(self.id, self.device.as_ref())
    }

    fn close(&mut self) {
        // In a forked child somebody may hold that lock for ever, and nobody sweeps.
        if let Some(device) = &self.device
            && !self.inner.channel.is_forked()
        {
            self.inner.imports.remove(device.id(), self.id);
        }
        // Before the broker is told: what it sees in /proc agrees with what it is told.
        self.held.close();
    }
}

impl Drop for ImportCore {
    fn drop(&mut self) {
        self.close();
        if !self.returned {
            // Also after a loss: the id counts against our quota until then.
            self.inner.channel.post(&Request::Release(self.id));
        }
    }
}
