//! The hand-over to the reactor under loom, which tries every interleaving: the same source, with loom's
//! queue in place of the standard library's, and a bell that is one number as an eventfd is. A command that
//! nobody is woken for is a deadlock, which loom reports.

#![allow(dead_code, reason = "a part of the daemon's source is built here, for a part of its uses")]

mod sync {
    pub mod mpsc {
        pub use loom::sync::mpsc::{Receiver, Sender, channel};
        pub use std::sync::mpsc::TryRecvError;
    }
}

#[path = "../src/reactor/handover.rs"]
mod handover;

use std::io;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use handover::{Bell, Found, Inbox, send};
use sync::mpsc::channel;

#[derive(Default)]
struct Count {
    rung: Mutex<u64>,
    more: Condvar,
}

impl Count {
    /// As epoll waits.
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while *rung == 0 {
            rung = self.more.wait(rung).unwrap();
        }
    }
}

impl Bell for Count {
    fn ring(&self) -> io::Result<()> {
        *self.rung.lock().unwrap() += 1;
        self.more.notify_one();
        Ok(())
    }

    fn hush(&self) -> io::Result<()> {
        *self.rung.lock().unwrap() = 0;
        Ok(())
    }
}

/// As the reactor reads: all that is there at each wake-up. Until `last` has come.
fn read_until(last: u32, inbox: &mut Inbox<u32>, bell: &Count) -> Vec<u32> {
    let mut got = Vec::new();
    loop {
        bell.wait();
        while let Found::Item(item) = inbox.next(bell).unwrap() {
            got.push(item);
        }
        if got.last() == Some(&last) {
            return got;
        }
    }
}

#[test]
fn every_command_is_found_in_its_order() {
    loom::model(|| {
        let bell = Arc::new(Count::default());
        let (to, from) = channel();
        let sender = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || {
                for item in 1..=3 {
                    assert!(matches!(send(&to, &*bell, item), Ok(Ok(()))));
                }
            })
        };
        let got = read_until(3, &mut Inbox::new(from), &bell);
        assert_eq!(got, [1, 2, 3]);
        sender.join().unwrap();
    });
}

/// The thread that looks at devices rings the same bell, with nothing in this queue.
#[test]
fn another_ones_ring_hides_no_command() {
    loom::model(|| {
        let bell = Arc::new(Count::default());
        let (to, from) = channel();
        let other = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || bell.ring().unwrap())
        };
        let sender = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || assert!(matches!(send(&to, &*bell, 1), Ok(Ok(())))))
        };
        assert_eq!(read_until(1, &mut Inbox::new(from), &bell), [1]);
        sender.join().unwrap();
        other.join().unwrap();
    });
}
