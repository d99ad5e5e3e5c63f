//! A slot of the state page under loom, which tries every interleaving: the broker's source with loom's
//! atomics, a futex made of a lock, and a reader that does what the library does.

mod sync {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}

#[path = "../src/slot.rs"]
mod slot;

use std::convert::Infallible;

use dmashare_proto::state_page::{DeviceState, Word};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use sync::{AtomicU32, AtomicU64, Ordering};

const LOST: Word = Word::new(1, DeviceState::Lost);

struct Slot {
    id: AtomicU64,
    word: AtomicU32,
    /// The kernel's lock of the futex, and who sleeps.
    kernel: Mutex<()>,
    sleepers: Condvar,
}

impl Slot {
    /// Device 5 is there.
    fn new() -> Self {
        Self {
            id: AtomicU64::new(5),
            word: AtomicU32::new(Word::new(1, DeviceState::Present).0),
            kernel: Mutex::new(()),
            sleepers: Condvar::new(),
        }
    }

    fn publish(&self, id: u64, word: Word) {
        let woken = slot::publish(&self.id, &self.word, (id, word.0), |_| {
            drop(self.kernel.lock().unwrap());
            self.sleepers.notify_all();
            Ok::<(), Infallible>(())
        });
        assert_eq!(woken, Ok(()));
    }

    fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// FUTEX_WAIT: the kernel looks at the word again before it lets anyone sleep.
    fn sleep(&self, seen: Word) {
        let lock = self.kernel.lock().unwrap();
        if self.word.load(Ordering::Relaxed) == seen.0 {
            drop(self.sleepers.wait(lock).unwrap());
        }
    }

    /// As `Device::wait_lost`.
    fn wait_lost(&self, then: Word) {
        loop {
            let word = self.word();
            if !word.is_usable_since(then) {
                return;
            }
            self.sleep(word);
        }
    }
}

/// Who sleeps on a device wakes at its loss, also when it drains just before. A missed one is a deadlock.
#[test]
fn a_loss_wakes_who_waits_for_it() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        let then = slot.word();
        let waiter = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.wait_lost(then))
        };
        slot.publish(5, Word::new(1, DeviceState::Draining));
        slot.publish(5, LOST);
        waiter.join().unwrap();
        assert!(!slot.word().is_usable_since(then));
    });
}

/// A slot that is used again has the next device's id for who sees the next device's word; and who
/// knew the former one never takes it for that again.
#[test]
fn a_word_comes_with_its_id() {
    loom::model(|| {
        let slot = Arc::new(Slot::new());
        let then = slot.word();
        let writer = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                slot.publish(5, LOST);
                slot.publish(9, Word::new(2, DeviceState::Present));
            })
        };
        let seen = slot.word();
        let id = slot.id.load(Ordering::Relaxed);
        if seen.generation() == 2 {
            assert_eq!(id, 9);
        }
        if !seen.is_usable_since(then) {
            assert!(!slot.word().is_usable_since(then), "what is lost stays lost");
        }
        writer.join().unwrap();
        assert_eq!(slot.id.load(Ordering::Relaxed), 9);
    });
}
