//! How a slot of the state page is written: the id, then the word, then whoever waits is woken.

// From here, so that the model checker can put its own in their place (tests/state_page_loom.rs).
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Writes a slot. A reader that sees the word sees the id that belongs to it; one that is about to sleep on
/// the word sees it changed, or is woken. The result is the wake-up's.
pub(crate) fn publish<E>(
    id: &AtomicU64,
    word: &AtomicU32,
    to: (u64, u32),
    wake: impl FnOnce(&AtomicU32) -> Result<(), E>,
) -> Result<(), E> {
    id.store(to.0, Ordering::Relaxed);
    word.store(to.1, Ordering::Release);
    wake(word)
}
