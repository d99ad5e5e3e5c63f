//! Holdings under loom, which tries every interleaving: the same source, with loom's atomics and mutex
//! in place of the standard library's. A page is an atomic: 1 is what the exporter wrote, 0 is what is put
//! in its place.

#![allow(
    dead_code,
    reason = "a part of the library's source is built here, for a part of its uses"
)]

mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
    pub use loom::sync::{Mutex, MutexGuard};
}

#[path = "../src/holding.rs"]
mod holding;

use std::io;
use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use loom::thread;

use holding::{Holding, Revoke, Taken};

/// A descriptor that counts itself.
struct Fd(Arc<AtomicUsize>);

impl Fd {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Page(AtomicU32);

impl Page {
    fn new() -> Self {
        Self(AtomicU32::new(1))
    }
}

impl Revoke for Page {
    fn revoke(&self) -> io::Result<()> {
        // A system call that changes the page tables of all threads is a barrier for all of them.
        fence(Ordering::SeqCst);
        self.0.store(0, Ordering::Relaxed);
        Ok(())
    }
}

/// An access as a mapping's owner makes it: what was read, if it is said to be good.
fn read(taken: &Taken, page: &Page) -> Option<u32> {
    if taken.is_set() {
        return None;
    }
    let value = page.0.load(Ordering::Relaxed);
    (!taken.is_set_after_reads()).then_some(value)
}

#[test]
fn zeros_are_never_taken_for_good() {
    loom::model(|| {
        let open = Arc::new(AtomicUsize::new(0));
        let holding = Arc::new(Holding::<Fd, Page>::new(vec![Fd::new(&open)]));
        let page = holding.add(Page::new()).ok().expect("nothing was taken yet");
        let taken = holding.taken();
        let revoker = {
            let holding = Arc::clone(&holding);
            thread::spawn(move || {
                holding.revoke().unwrap();
                assert!(holding.taken().is_set() && holding.fds().is_none());
            })
        };
        for _ in 0..2 {
            assert!(matches!(read(&taken, &page), None | Some(1)), "a zero was taken for good");
        }
        revoker.join().unwrap();
        assert_eq!((read(&taken, &page), page.0.load(Ordering::Relaxed)), (None, 0));
        assert_eq!(open.load(Ordering::Relaxed), 0, "the descriptors are closed");
    });
}

/// A mapping that is made while all is taken is replaced, or not given out; also with two who take it:
/// whoever returns from that finds nothing mapped.
#[test]
fn a_mapping_is_replaced_or_never_given_out() {
    loom::model(|| {
        let open = Arc::new(AtomicUsize::new(0));
        let holding = Arc::new(Holding::<Fd, Page>::new(vec![Fd::new(&open)]));
        let mapper = {
            let holding = Arc::clone(&holding);
            thread::spawn(move || {
                let fds = holding.fds()?;
                let page = holding.add(Page::new()).ok()?;
                drop(fds);
                Some(page)
            })
        };
        let other = {
            let holding = Arc::clone(&holding);
            thread::spawn(move || holding.revoke().unwrap())
        };
        holding.revoke().unwrap();
        other.join().unwrap();
        if let Some(page) = mapper.join().unwrap() {
            // It was entered before one of the two took the list, and that one has returned.
            assert_eq!(page.0.load(Ordering::Relaxed), 0, "a mapping was forgotten");
        }
        assert!(holding.add(Page::new()).is_err(), "nothing is given out afterwards");
        assert_eq!(open.load(Ordering::Relaxed), 0, "who used a descriptor has closed it");
    });
}

/// Owners drop their mappings, in any order, while they are taken.
#[test]
fn a_mapping_is_dropped_at_that_moment() {
    loom::model(|| {
        let open = Arc::new(AtomicUsize::new(0));
        let holding = Arc::new(Holding::<Fd, Page>::new(vec![Fd::new(&open)]));
        let first = holding.add(Page::new()).ok().expect("the first");
        let second = holding.add(Page::new()).ok().expect("the second");
        let taken = holding.taken();
        let owner = thread::spawn(move || {
            let seen = read(&taken, &first);
            drop(first);
            seen
        });
        holding.revoke().unwrap();
        let seen = owner.join().unwrap();
        assert!(matches!(seen, None | Some(1)));
        assert_eq!(second.0.load(Ordering::Relaxed), 0, "the other is replaced all the same");
        drop(second);
        holding.revoke().unwrap();
    });
}

/// A signal's handler takes one page, without the lock: the first access that is refused takes the rest,
/// also what is mapped meanwhile.
#[test]
fn what_a_handler_began_is_finished() {
    loom::model(|| {
        let open = Arc::new(AtomicUsize::new(0));
        let holding = Arc::new(Holding::<Fd, Page>::new(vec![Fd::new(&open)]));
        let faulted = holding.add(Page::new()).ok().expect("the first");
        let whole = holding.add(Page::new()).ok().expect("the second");
        let handler = {
            let (holding, faulted) = (Arc::clone(&holding), Arc::clone(&faulted));
            thread::spawn(move || {
                holding.flag().store(true, Ordering::SeqCst);
                faulted.revoke().unwrap();
            })
        };
        let mapper = {
            let holding = Arc::clone(&holding);
            thread::spawn(move || {
                let fds = holding.fds()?;
                let page = holding.add(Page::new()).ok()?;
                drop(fds);
                Some(page)
            })
        };
        match read(&holding.taken(), &faulted) {
            Some(value) => assert_eq!(value, 1, "a zero was taken for good"),
            None => holding.revoke().unwrap(),
        }
        let made = mapper.join().unwrap();
        handler.join().unwrap();
        assert!(holding.fds().is_none() && holding.add(Page::new()).is_err());
        for page in [Some(&whole), made.as_ref()].into_iter().flatten() {
            if read(&holding.taken(), page).is_none() {
                holding.revoke().unwrap();
            }
            assert_eq!(page.0.load(Ordering::Relaxed), 0, "what did not fault is still mapped");
        }
        assert_eq!(open.load(Ordering::Relaxed), 0, "a descriptor is still open");
    });
}
