//! The gate of a device: the broker's `drm_dev_enter`, `drm_dev_get` and `drm_dev_unplug` in one word.
//!
//! The word holds *closed* and the number of references, so taking a reference and closing the gate
//! are in one order. A reference that was taken before is counted, and found by the sweep; one that
//! would come after is refused. Nothing waits.

// From here, so that the model checker can put its own in their place (tests/gate_loom.rs).
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::view::Counts;

const CLOSED: u64 = 1 << 63;

/// What a reference is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An exported buffer.
    Buffer,
    /// An import of one.
    Import,
    /// A pending fence.
    Fence,
    /// A timeline.
    Timeline,
}

/// The device is lost: nothing new can be made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A device's gate and reference counts.
#[derive(Debug)]
pub struct Gate {
    word: AtomicU64,
    gone: AtomicBool,
    counts: [AtomicU32; 4],
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            word: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            counts: [const { 0 }; 4].map(AtomicU32::new),
        }
    }
}

impl Gate {
    /// Takes a reference.
    ///
    /// # Errors
    /// [`Lost`] once the gate is closed.
    pub fn acquire(gate: &Arc<Self>, kind: Kind) -> Result<DeviceRef, Lost> {
        let mut word = gate.word.load(Ordering::Acquire);
        loop {
            if word & CLOSED != 0 {
                return Err(Lost);
            }
            match gate.word.compare_exchange_weak(
                word,
                word + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        gate.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        Ok(DeviceRef { gate: Arc::clone(gate), kind })
    }

    /// Closes the gate. `true` for the one call that closed it.
    pub fn lose(&self) -> bool {
        let before = self.word.fetch_or(CLOSED, Ordering::AcqRel);
        if before == 0 {
            self.set_gone();
        }
        before & CLOSED == 0
    }

    /// Whether the gate is closed.
    pub fn is_lost(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    fn set_gone(&self) {
        // A read-modify-write, as `take_gone` is: all of them are in one order.
        self.gone.fetch_or(true, Ordering::AcqRel);
    }

    /// Whether the gate is closed and the last reference is dropped: `true` exactly once.
    pub fn take_gone(&self) -> bool {
        self.gone.swap(false, Ordering::AcqRel)
    }

    /// References by kind.
    pub fn counts(&self) -> Counts {
        let count = |kind: Kind| self.counts[kind as usize].load(Ordering::Relaxed);
        Counts {
            buffers: count(Kind::Buffer),
            imports: count(Kind::Import),
            fences: count(Kind::Fence),
            timelines: count(Kind::Timeline),
        }
    }
}

/// A counted reference on a device, given back by `Drop`.
#[derive(Debug)]
#[must_use = "the reference is given back at once"]
pub struct DeviceRef {
    gate: Arc<Gate>,
    kind: Kind,
}

impl Drop for DeviceRef {
    fn drop(&mut self) {
        self.gate.counts[self.kind as usize].fetch_sub(1, Ordering::Relaxed);
        if self.gate.word.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            self.gate.set_gone();
        }
    }
}
