//! The gate, one thread at a time. `gate_loom.rs` has the interleavings.

use std::sync::Arc;

use dmashared::gate::{Gate, Kind, Lost};
use dmashared::view::Counts;

#[test]
fn counts_follow_the_references() {
    let gate = Arc::new(Gate::default());
    let buffer = Gate::acquire(&gate, Kind::Buffer).unwrap();
    let import = Gate::acquire(&gate, Kind::Import).unwrap();
    assert_eq!(gate.counts(), Counts { buffers: 1, imports: 1, ..Counts::default() });
    drop(buffer);
    drop(import);
    assert_eq!(gate.counts(), Counts::default());
    assert!(!gate.take_gone(), "a device that is present does not go");
}

#[test]
fn gone_comes_once_with_the_last_reference() {
    let gate = Arc::new(Gate::default());
    let fence = Gate::acquire(&gate, Kind::Fence).unwrap();
    assert!(gate.lose());
    assert!(!gate.lose());
    assert_eq!(Gate::acquire(&gate, Kind::Fence).unwrap_err(), Lost);
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
