//! What holdings synchronize by: the standard library's, which the model checker replaces
//! (`tests/holding_loom.rs`).

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
pub(crate) use std::sync::{Mutex, MutexGuard};
