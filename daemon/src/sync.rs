//! What the gate synchronizes by: the standard library's, which the model checker replaces.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
