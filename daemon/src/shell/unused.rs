//! Closing buffers that nobody has any more.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::discard::{LEAST_LULL, STACK, now_and_then};

/// Buffers that wait for the thread that closes them, before the main thread closes in place: so who
/// makes them faster than their exporter can end them is held up.
const MOST_UNUSED: usize = 4096;

/// Where buffers are closed that nobody has any more: the last reference makes the exporter end them,
/// and a large one takes milliseconds, of which the other clients are to have no part.
#[derive(Default)]
pub(super) struct Unused {
    waiting: Arc<AtomicUsize>,
    /// Started when it is first needed.
    thread: OnceCell<Sender<Vec<Arc<OwnedFd>>>>,
}

impl Unused {
    /// Drops these on another thread, unless too many wait there or there is none.
    pub fn discard(&self, fds: Vec<Arc<OwnedFd>>) {
        let count = fds.len();
        if self.waiting.fetch_add(count, Ordering::Relaxed) + count > MOST_UNUSED {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            return;
        }
        let unsent = match self.thread() {
            Some(thread) => thread.send(fds).is_err(),
            None => true,
        };
        if unsent {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
        }
    }

    fn thread(&self) -> Option<&Sender<Vec<Arc<OwnedFd>>>> {
        if self.thread.get().is_none() {
            let (sender, receiver) = channel::<Vec<Arc<OwnedFd>>>();
            let waiting = Arc::clone(&self.waiting);
            let started = thread::Builder::new().name("unused".to_owned()).stack_size(STACK).spawn(
                move || {
                    now_and_then(
                        &receiver,
                        || thread::sleep(LEAST_LULL),
                        |fds| {
                            let count = fds.len();
                            drop(fds);
                            waiting.fetch_sub(count, Ordering::Relaxed);
                        },
                    );
                },
            );
            match started {
                Ok(_) => return Some(self.thread.get_or_init(|| sender)),
                Err(error) => {
                    tracing::warn!(%error, "no thread to close buffers; they are closed in place");
                }
            }
        }
        self.thread.get()
    }
}
