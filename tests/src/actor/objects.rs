//! What an actor keeps between two tasks.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dmashare::{
    Access, Cause, DeviceId, ExportedBuffer, FenceStatus, ImportedBuffer, ImportedFence,
    MappedBuffer, SharedFence, Timeline,
};
use dmashare_uapi::gem::GemHandle;
use dmashare_uapi::mapping::Mapping;
use dmashare_uapi::sim;
use dmashare_uapi::sync_file::{self, Status};
use serde::{Deserialize, Serialize};

use super::Key;
use crate::clock::now_ns;
use crate::{Buffer, Source};

/// An import, its mapping, and the GPU that it is in.
pub(super) struct Imported {
    // In the order in which they go.
    pub memory: MappedBuffer,
    pub gem: Mutex<Option<GemHandle<OwnedFd>>>,
    pub buffer: ImportedBuffer,
}

pub(super) enum Object {
    Exported(ExportedBuffer, Buffer),
    Imported(Imported),
    Shared(SharedFence, Mutex<Option<Source>>),
    Fence(ImportedFence),
    Timeline(Timeline),
    Descriptors(Vec<OwnedFd>),
    Mapping(Mapping),
}

/// How a fence stands, by the library and by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceEnd {
    /// `None` while it is pending; else 0 for ok, or the library's errno.
    pub errno: Option<i32>,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// For a wait: when a poll on the descriptor woke, CLOCK_MONOTONIC in nanoseconds.
    pub woke_ns: Option<u64>,
    /// When the library had said how it stands, likewise.
    pub known_ns: u64,
    /// The raw status of its descriptor: 0 pending, 1 ok, or a negative errno; `None` without one.
    pub raw: Option<i32>,
}

#[derive(Default)]
pub(super) struct Objects {
    next: AtomicU64,
    all: Mutex<HashMap<Key, Arc<Object>>>,
}

impl Objects {
    pub fn keep(&self, object: Object) -> Key {
        let key = Key(self.next.fetch_add(1, Ordering::Relaxed));
        self.lock().insert(key, Arc::new(object));
        key
    }

    pub fn get(&self, key: Key) -> Result<Arc<Object>> {
        self.lock().get(&key).cloned().with_context(|| format!("nothing is kept as {key:?}"))
    }

    /// The object alone: nobody else may be using it.
    pub fn take(&self, key: Key) -> Result<Object> {
        let object = self.lock().remove(&key).context("nothing is kept by that key")?;
        Arc::into_inner(object).context("another task is using it")
    }

    /// What the GPUs have of a lost device's buffers.
    pub fn drop_gem_handles(&self, device: DeviceId) {
        for object in self.lock().values() {
            if let Object::Imported(import) = &**object
                && import.buffer.device().is_some_and(|of| of.id() == device)
            {
                import.gem.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Object>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    pub fn fill(&self, byte: u8) -> Result<()> {
        match self {
            Self::Exported(_, buffer) => buffer.fill(byte),
            Self::Imported(import) => {
                let bracket = import.memory.begin(Access::Write)?;
                import.memory.copy_from_slice(0, &vec![byte; import.memory.len()])?;
                Ok(bracket.end()?)
            }
            _ => bail!("a fence has no bytes"),
        }
    }

    pub fn count(&self, byte: u8) -> Result<u64> {
        match self {
            Self::Exported(_, buffer) => buffer.count(byte),
            Self::Imported(import) => {
                let mut bytes = vec![0; import.memory.len()];
                let bracket = import.memory.begin(Access::Read)?;
                import.memory.copy_to_slice(0, &mut bytes)?;
                bracket.end()?;
                Ok(bytes.into_iter().filter(|&found| found == byte).count() as u64)
            }
            _ => bail!("a fence has no bytes"),
        }
    }

    pub fn release(self) -> Result<()> {
        match self {
            Self::Exported(export, _) => export.release()?,
            Self::Imported(Imported { memory, gem, buffer }) => {
                drop((memory, gem));
                buffer.release()?;
            }
            Self::Shared(fence, _) => fence.release()?,
            Self::Fence(fence) => fence.release()?,
            Self::Timeline(timeline) => timeline.release()?,
            Self::Descriptors(fds) => drop(fds),
            Self::Mapping(mapping) => drop(mapping),
        }
        Ok(())
    }
}

impl FenceEnd {
    pub(super) fn now(fence: &ImportedFence) -> Result<Self> {
        Self::new(fence, fence.status()?, None)
    }

    /// Waits by the library, and beside it as a program does that knows nothing of it.
    pub(super) fn wait(fence: &ImportedFence, bound: Duration) -> Result<Self> {
        std::thread::scope(|scope| {
            let woke = fence.fd().map(|fd| {
                scope.spawn(move || {
                    let woke = sync_file::wait(fd, Some(bound)).unwrap_or(false);
                    woke.then(now_ns)
                })
            });
            let status = fence.wait(Some(bound))?;
            let woke_ns = woke.and_then(|thread| thread.join().ok()).flatten();
            Self::new(fence, status, woke_ns)
        })
    }

    fn new(fence: &ImportedFence, status: FenceStatus, woke_ns: Option<u64>) -> Result<Self> {
        let known_ns = now_ns();
        let (errno, cause) = match status {
            FenceStatus::Pending => (None, None),
            FenceStatus::Ok { .. } => (Some(0), None),
            FenceStatus::Failed(error) => (Some(error.errno()), error.cause),
        };
        Ok(Self { errno, cause, woke_ns, known_ns, raw: raw_status(fence)? })
    }
}

fn raw_status(fence: &ImportedFence) -> Result<Option<i32>> {
    let Some(fd) = fence.fd() else { return Ok(None) };
    let is_simulated = sim::is_fence(fd)?;
    let status = if is_simulated { sim::status(fd)? } else { sync_file::status(fd.as_fd())? };
    Ok(Some(match status {
        Status::Pending => 0,
        Status::Signalled => 1,
        Status::Error(errno) => -errno,
    }))
}
