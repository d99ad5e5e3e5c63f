//! What an import holds, and the one moment at which it is taken.
//!
//! A flag is set before the first page is replaced, and looked at after what was read: so whoever has
//! read a zero of the replacement finds it set. A mapping gets into the list before the list is taken,
//! and is replaced with the others; or it does not, and is never given out.

use std::io;
use std::sync::{Arc, PoisonError, Weak};

// From here, so that the model checker can put its own in their place.
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, fence};

/// What can be taken back in place.
pub(crate) trait Revoke {
    /// Replaces it. May run twice, also at once: when it has returned without an error, it is replaced.
    fn revoke(&self) -> io::Result<()>;
}

struct Held<F, M> {
    /// Behind an `Arc`, so that who is using one at that moment finishes first; `None` once taken.
    fds: Option<Arc<[F]>>,
    mappings: Vec<Weak<M>>,
}

/// Descriptors `F`, and mappings `M` of them that belong to others.
pub(crate) struct Holding<F, M> {
    revoked: Arc<AtomicBool>,
    held: Mutex<Held<F, M>>,
}

/// The flag at hand: a load, where the holding itself is far.
#[derive(Clone, Debug)]
pub(crate) struct Taken(Arc<AtomicBool>);

impl Taken {
    /// Whether it was taken, or is being taken.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The same, after whatever was read from the memory before: zeros are never taken for good.
    #[inline]
    pub(crate) fn is_set_after_reads(&self) -> bool {
        fence(Ordering::Acquire);
        self.is_set()
    }
}

impl<F, M: Revoke> Holding<F, M> {
    pub(crate) fn new(fds: Vec<F>) -> Self {
        let held = Held { fds: Some(fds.into()), mappings: Vec::new() };
        Self { revoked: Arc::new(AtomicBool::new(false)), held: Mutex::new(held) }
    }

    fn lock(&self) -> MutexGuard<'_, Held<F, M>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn taken(&self) -> Taken {
        Taken(Arc::clone(&self.revoked))
    }

    /// What is set when it is taken: for who takes it without the lock (a signal's handler).
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.revoked
    }

    /// The descriptors, until they are taken, or a handler has set the flag.
    pub(crate) fn fds(&self) -> Option<Arc<[F]>> {
        if self.is_revoked() {
            return None;
        }
        self.lock().fds.clone()
    }

    fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Enters a mapping; gives it back where all was taken meanwhile, so that it is not used.
    pub(crate) fn add(&self, mapping: M) -> Result<Arc<M>, M> {
        let mut held = self.lock();
        if self.is_revoked() {
            return Err(mapping);
        }
        let mapping = Arc::new(mapping);
        held.mappings.retain(|mapping| mapping.strong_count() > 0);
        held.mappings.push(Arc::downgrade(&mapping));
        Ok(mapping)
    }

    /// Replaces every mapping and closes the descriptors. May run twice, also at once: when it has
    /// returned without an error, nothing is mapped. On an error, what could not be replaced is still in
    /// the list, for another try.
    pub(crate) fn revoke(&self) -> io::Result<()> {
        self.revoked.store(true, Ordering::Release);
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

    /// Closes the descriptors; mappings stay.
    pub(crate) fn close(&mut self) {
        self.held.get_mut().unwrap_or_else(PoisonError::into_inner).fds = None;
    }
}
