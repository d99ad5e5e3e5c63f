//! The gate under loom, which tries every interleaving: the same source, with loom's atomics in
//! place of the standard library's.

mod sync {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
}

mod view {
    pub use dmashared::view::Counts;
}

#[path = "../src/gate.rs"]
mod gate;

use std::collections::VecDeque;

use loom::sync::Mutex;
use loom::thread;

use gate::{Gate, Kind, Lost};
use sync::Arc;
use view::Counts;

/// I2: an operation that passed is swept or sees to it that it was; one that did not is refused;
/// *Gone* is reported once, and only when all references are dropped.
#[test]
fn an_operation_is_swept_or_refused() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        let maker = {
            let (gate, queue) = (Arc::clone(&gate), Arc::clone(&queue));
            thread::spawn(move || match Gate::acquire(&gate, Kind::Fence) {
                Ok(reference) => {
                    queue.lock().unwrap().push_back(reference);
                    1
                }
                Err(Lost) => 0,
            })
        };
        // The reactor: loses the device, then ends what is in its tables, and what it takes out
        // of its queue later.
        assert!(gate.lose() && gate.is_lost());
        assert!(Gate::acquire(&gate, Kind::Fence).is_err(), "nothing is made after the loss");
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
fn gone_is_reported_once() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        let one = Gate::acquire(&gate, Kind::Buffer).unwrap();
        let two = Gate::acquire(&gate, Kind::Import).unwrap();
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
fn one_loser_wins() {
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
