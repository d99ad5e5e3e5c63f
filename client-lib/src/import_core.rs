//! One import, as its handle, its mappings and the sweep share it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dmashare_proto::message::{Imported, Layout};
use dmashare_proto::{ObjectId, Request};
use dmashare_uapi::mapping::{Mapping, Prot};

use crate::device::Device;
use crate::error::{DeviceLost, Error};
use crate::inner::Inner;
use crate::live::Live;

/// What revocation takes.
struct Held {
    /// Behind an `Arc`, so that who is using one at that moment finishes first; `None` once revoked.
    fds: Option<Arc<[OwnedFd]>>,
    mappings: Vec<Weak<Mapping>>,
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
    held: Mutex<Held>,
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
        Self {
            live: Live::new(device.as_ref()),
            preserve: AtomicBool::new(false),
            inner: Arc::clone(inner),
            id: import,
            buffer,
            device,
            layout,
            sizes,
            cpu_sync,
            held: Mutex::new(Held { fds: Some(fds.into()), mappings: Vec::new() }),
            returned: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts zero pages over every mapping and closes the fds. May run twice, also at once: when it
    /// has returned without an error, nothing is mapped. On an error, what could not be replaced is
    /// still in the list, for another try.
    pub(crate) fn revoke(&self) -> io::Result<()> {
        self.live.revoked().store(true, Ordering::Release);
        let (fds, mappings) = {
            let mut held = self.lock();
            (held.fds.take(), held.mappings.clone())
        };
        let mut result = Ok(());
        for mapping in mappings.iter().filter_map(Weak::upgrade) {
            if let Err(error) = mapping.revoke() {
                result = Err(error);
            }
        }
        drop(fds);
        result
    }

    /// Why [`Live`] is not good any more.
    #[cold]
    #[inline(never)]
    pub(crate) fn refused(&self) -> Error {
        self.check_device().err().unwrap_or_else(|| self.taken())
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
        self.lock().fds.clone().ok_or_else(|| self.taken())
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
        let mapping = Arc::new(mapping.guarded(self.live.revoked()));
        {
            let mut held = self.lock();
            if held.fds.is_none() {
                drop(held);
                return Err(self.taken());
            }
            held.mappings.retain(|mapping| mapping.strong_count() > 0);
            held.mappings.push(Arc::downgrade(&mapping));
        }
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
        self.held.get_mut().unwrap_or_else(PoisonError::into_inner).fds = None;
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
