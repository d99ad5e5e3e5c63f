//! What the gate, the hand-over to the reactor and the state page synchronize by: the standard library's, which the model checker replaces.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
pub(crate) use std::sync::mpsc;
