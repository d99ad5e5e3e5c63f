//! The way from the main thread to the reactor: a queue, and a bell that is rung for everything in it.
//!
//! What is put in the queue before the bell is rung is found by whoever hears the bell; the bell is hushed
//! before the queue is read, so what comes after that rings again. Nothing is left lying
//! (`tests/handover_loom.rs`).

use std::io;

// From here, so that the model checker can put its own in their place.
use crate::sync::mpsc::{Receiver, Sender, TryRecvError};

/// What wakes the reactor: an eventfd.
pub(super) trait Bell {
    /// Wakes it, now or when it next waits.
    fn ring(&self) -> io::Result<()>;
    /// It is awake.
    fn hush(&self) -> io::Result<()>;
}

/// The reactor is gone, and what was to be handed over was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// Hands something over. The inner result is the bell's.
pub(super) fn send<T>(to: &Sender<T>, bell: &impl Bell, item: T) -> Result<io::Result<()>, Gone> {
    to.send(item).map_err(|_| Gone)?;
    Ok(bell.ring())
}

/// What was found in the queue.
pub(super) enum Found<T> {
    /// The next one.
    Item(T),
    /// Nothing: the bell tells when there is.
    Nothing,
    /// Nothing, and nothing will come.
    End,
}

/// The reactor's end of the queue.
pub(super) struct Inbox<T> {
    queue: Receiver<T>,
    /// The bell was hushed, and the queue has not been empty since.
    reading: bool,
}

impl<T> Inbox<T> {
    pub fn new(queue: Receiver<T>) -> Self {
        Self { queue, reading: false }
    }

    /// The next one, to be called until there is none. `bell` is the one that is rung for this queue.
    pub fn next(&mut self, bell: &impl Bell) -> io::Result<Found<T>> {
        if !self.reading {
            bell.hush()?;
            self.reading = true;
        }
        Ok(match self.queue.try_recv() {
            Ok(item) => Found::Item(item),
            Err(TryRecvError::Empty) => {
                self.reading = false;
                Found::Nothing
            }
            Err(TryRecvError::Disconnected) => Found::End,
        })
    }
}
