//! Guard fences from vgem, out of a pool of small buffers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dma_buf::{self, Access};
use crate::vgem::{Ended, Vgem};
use crate::{dumb, gem, vgem};

/// A vgem file keeps a slot for every fence that it ever had (drivers/gpu/drm/vgem/vgem_fence.c
/// replaces an entry by NULL, and does not remove it): after this many it is left, and closed when
/// its last guard has ended.
const FENCES_A_FILE: u32 = 1 << 16;

/// Buffers that are kept for the next guards. A burst would otherwise cost its descriptors for ever.
const SPARE: usize = 16;

/// Makes guard fences. A buffer carries one guard at a time, and is used again after it.
#[derive(Debug)]
pub struct GuardPool {
    path: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    file: Arc<Generation>,
    issued: u32,
}

/// One vgem file with its buffers. Their handles are closed with the file.
#[derive(Debug)]
struct Generation {
    vgem: Vgem,
    free: Mutex<Vec<Buffer>>,
}

#[derive(Debug)]
struct Buffer {
    handle: u32,
    dma_buf: OwnedFd,
}

impl GuardPool {
    /// Opens the machine's vgem. ENODEV: the module is not loaded.
    pub fn open() -> io::Result<Arc<Self>> {
        let path = vgem::find()?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        Self::open_at(path)
    }

    /// Opens vgem's **primary** node at `path`.
    pub fn open_at(path: PathBuf) -> io::Result<Arc<Self>> {
        let file = Generation::open(&path)?;
        Ok(Arc::new(Self { path, current: Mutex::new(Current { file, issued: 0 }) }))
    }

    /// A new pending fence: the guard that ends it, and the sync_file to hand out.
    ///
    /// The kernel ends it after [`vgem::FENCE_LIFETIME`] if nobody does. No lock is held while the
    /// kernel works. EMFILE when the process has no descriptors left: a guard costs one, and one
    /// more for its buffer.
    pub fn guard(&self) -> io::Result<(VgemGuard, OwnedFd)> {
        let file = self.generation()?;
        let recycled = lock(&file.free).pop();
        let buffer = match recycled {
            Some(buffer) => buffer,
            None => file.new_buffer()?,
        };
        match file.attach(&buffer) {
            Ok((fence, sync_file)) => {
                Ok((VgemGuard { file, fence, buffer: Some(buffer) }, sync_file))
            }
            Err(error) => {
                file.discard(buffer);
                Err(error)
            }
        }
    }

    /// How many buffers lie ready.
    #[must_use]
    pub fn idle(&self) -> usize {
        let file = Arc::clone(&lock(&self.current).file);
        let free = lock(&file.free);
        free.len()
    }

    fn generation(&self) -> io::Result<Arc<Generation>> {
        {
            let mut current = lock(&self.current);
            if current.issued < FENCES_A_FILE {
                current.issued += 1;
                return Ok(Arc::clone(&current.file));
            }
        }
        // Two threads may both come here: one file is opened in vain. If it cannot be opened (no
        // descriptors left, the node out of a sandbox's reach), the old one goes on serving: a few
        // bytes more are better than no guards.
        let new = Generation::open(&self.path);
        let mut current = lock(&self.current);
        if let Ok(file) = new {
            *current = Current { file, issued: 0 };
        }
        current.issued += 1;
        Ok(Arc::clone(&current.file))
    }
}

impl Generation {
    fn open(path: &std::path::Path) -> io::Result<Arc<Self>> {
        let vgem = Vgem::open_at(path)?;
        Ok(Arc::new(Self { vgem, free: Mutex::new(Vec::new()) }))
    }

    fn new_buffer(&self) -> io::Result<Buffer> {
        // One page, in the end.
        let handle = dumb::create(self.vgem.as_fd(), 1, 1, 32)?.handle;
        match gem::export(self.vgem.as_fd(), handle) {
            Ok(dma_buf) => Ok(Buffer { handle, dma_buf }),
            Err(error) => {
                gem::close(self.vgem.as_fd(), handle);
                Err(error)
            }
        }
    }

    fn attach(&self, buffer: &Buffer) -> io::Result<(u32, OwnedFd)> {
        let fence = self.vgem.attach_fence(buffer.handle, true)?;
        match dma_buf::export_sync_file(buffer.dma_buf.as_fd(), Access::Write) {
            Ok(sync_file) => Ok((fence, sync_file)),
            Err(error) => {
                // The export's error is the one to tell; the kernel ends the fence in any case.
                let _ignored = self.vgem.signal_fence(fence);
                Err(error)
            }
        }
    }

    fn keep(&self, buffer: Buffer) {
        {
            let mut free = lock(&self.free);
            if free.len() < SPARE {
                free.push(buffer);
                return;
            }
        }
        self.discard(buffer);
    }

    fn discard(&self, buffer: Buffer) {
        gem::close(self.vgem.as_fd(), buffer.handle);
    }
}

/// A pending guard fence. Dropping it ends the fence, as [`VgemGuard::end`] does.
#[derive(Debug)]
#[must_use = "dropping a guard ends its fence"]
pub struct VgemGuard {
    file: Arc<Generation>,
    fence: u32,
    /// Taken when the fence is ended.
    buffer: Option<Buffer>,
}

impl VgemGuard {
    /// Signals the fence and gives the buffer back. Without an error bit, always: vgem has none.
    pub fn end(mut self) -> io::Result<Ended> {
        self.finish()
    }

    /// The fence's number on its vgem file ([`VgemGuard::as_fd`]). With a descriptor of that file
    /// kept elsewhere, a restarted process can end it: [`Vgem::from_fd`], [`Vgem::signal_fence`].
    #[must_use]
    pub fn id(&self) -> u32 {
        self.fence
    }

    fn finish(&mut self) -> io::Result<Ended> {
        let Some(buffer) = self.buffer.take() else { return Ok(Ended::Now) };
        let ended = self.file.vgem.signal_fence(self.fence);
        match ended {
            Ok(_) => self.file.keep(buffer),
            // Not known to be idle: of no use for the next guard.
            Err(_) => self.file.discard(buffer),
        }
        ended
    }
}

impl AsFd for VgemGuard {
    /// The vgem file that the fence was attached through, which other guards share.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.vgem.as_fd()
    }
}

impl Drop for VgemGuard {
    fn drop(&mut self) {
        // Nobody is left to be told; the kernel ends the fence after 10 s if this did not.
        let _ignored = self.finish();
    }
}

/// A panic in another thread cannot leave a list of buffers in a bad state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
