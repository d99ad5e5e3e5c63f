//! The gate of a device: the broker's `drm_dev_enter`, `drm_dev_get` and `drm_dev_unplug` in one word.
//!
//! The word holds *closed* and the number of references, so taking a reference and closing the gate
//! are in one order. A reference that was taken before is counted, and found by the sweep; one that
//! would come after is refused. Nothing waits.

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

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
    pub fn acquire(self: &Arc<Self>, kind: Kind) -> Result<DeviceRef, Lost> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word & CLOSED != 0 {
                return Err(Lost);
            }
            match self.word.compare_exchange_weak(
                word,
                word + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        Ok(DeviceRef { gate: Arc::clone(self), kind })
    }

    /// Closes the gate. `true` for the one call that closed it.
    pub fn lose(&self) -> bool {
        let before = self.word.fetch_or(CLOSED, Ordering::AcqRel);
        if before == 0 {
            self.gone.store(true, Ordering::Release);
        }
        before & CLOSED == 0
    }

    /// Whether the gate is closed.
    pub fn is_lost(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
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
            self.gate.gone.store(true, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_the_references() {
        let gate = Arc::new(Gate::default());
        let buffer = gate.acquire(Kind::Buffer).unwrap();
        let import = gate.acquire(Kind::Import).unwrap();
        assert_eq!(gate.counts(), Counts { buffers: 1, imports: 1, ..Counts::default() });
        drop(buffer);
        drop(import);
        assert_eq!(gate.counts(), Counts::default());
        assert!(!gate.take_gone(), "a device that is present does not go");
    }

    #[test]
    fn gone_comes_once_with_the_last_reference() {
        let gate = Arc::new(Gate::default());
        let fence = gate.acquire(Kind::Fence).unwrap();
        assert!(gate.lose());
        assert!(!gate.lose());
        assert_eq!(gate.acquire(Kind::Fence).unwrap_err(), Lost);
        assert!(!gate.take_gone());
        drop(fence);
        assert!(gate.take_gone());
        assert!(!gate.take_gone());
    }

    #[test]
    fn a_device_with_nothing_is_gone_when_it_is_lost() {
        let gate = Arc::new(Gate::default());
        gate.lose();
        assert!(gate.take_gone());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::collections::VecDeque;

    use loom::sync::Mutex;
    use loom::thread;

    use super::*;

    /// I2: an operation that passed is swept or sees to it that it was; one that did not is refused;
    /// *Gone* is reported once, and only when all references are dropped.
    #[test]
    fn loom_an_operation_is_swept_or_refused() {
        loom::model(|| {
            let gate = Arc::new(Gate::default());
            let queue = Arc::new(Mutex::new(VecDeque::new()));
            let maker = {
                let (gate, queue) = (Arc::clone(&gate), Arc::clone(&queue));
                thread::spawn(move || match gate.acquire(Kind::Fence) {
                    Ok(reference) => {
                        queue.lock().unwrap().push_back(reference);
                        1
                    }
                    Err(Lost) => 0,
                })
            };
            // The reactor: loses the device, then ends what is in its tables, and what it takes out
            // of its queue later.
            assert!(gate.lose());
            assert!(gate.acquire(Kind::Fence).is_err(), "nothing is made after the loss");
            let mut swept = queue.lock().unwrap().drain(..).count();
            let made = maker.join().unwrap();
            swept += queue.lock().unwrap().drain(..).count();
            assert_eq!(made, swept);
            assert_eq!(gate.counts(), Counts::default());
            assert!(gate.take_gone());
            assert!(!gate.take_gone());
        });
    }

    #[test]
    fn loom_gone_is_reported_once() {
        loom::model(|| {
            let gate = Arc::new(Gate::default());
            let one = gate.acquire(Kind::Buffer).unwrap();
            let two = gate.acquire(Kind::Import).unwrap();
            let dropper = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    drop(one);
                    u32::from(gate.take_gone())
                })
            };
            let loser = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    assert!(gate.lose());
                    u32::from(gate.take_gone())
                })
            };
            drop(two);
            let mut gone = u32::from(gate.take_gone());
            gone += dropper.join().unwrap() + loser.join().unwrap();
            gone += u32::from(gate.take_gone());
            assert_eq!(gone, 1);
        });
    }

    #[test]
    fn loom_one_loser_wins() {
        loom::model(|| {
            let gate = Arc::new(Gate::default());
            let other = {
                let gate = Arc::clone(&gate);
                thread::spawn(move || gate.lose())
            };
            let first = gate.lose();
            assert!(first ^ other.join().unwrap());
        });
    }
}
