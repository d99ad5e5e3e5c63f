//! Mappings that are read, made, taken back and dropped by many threads at once: for ThreadSanitizer
//! (`cargo xtask test --tier tsan`), and as a plain test. No test harness: its own threads are not the
//! subject.

#![allow(
    dead_code,
    reason = "a part of the library's source is built here, for a part of its uses"
)]

#[path = "../../src/holding.rs"]
mod holding;
#[path = "../../src/sync.rs"]
mod sync;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use dmashare_uapi::mapping::{Mapping, Prot};
use holding::{Holding, Revoke};

const LEN: usize = 4 * 4096;
const ROUNDS: usize = 200;

impl Revoke for Mapping {
    fn revoke(&self) -> std::io::Result<()> {
        Self::revoke(self)
    }
}

fn map(fds: &[OwnedFd]) -> Mapping {
    Mapping::map(fds[0].as_fd(), 0, LEN, Prot::ReadWrite).expect("a memfd can be mapped")
}

fn round() {
    let memfd =
        nix::sys::memfd::memfd_create("dmashare-threads", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut file = File::from(memfd.expect("a memfd"));
    file.write_all(&[0xaa; LEN]).expect("memory");
    let holding = Holding::<OwnedFd, Mapping>::new(vec![file.into()]);
    let shared = holding.fds().map(|fds| holding.add(map(&fds))).expect("fds");
    let Ok(shared) = shared else { panic!("nothing was taken yet") };
    // What is started at once.
    let ready = AtomicU32::new(0);
    let start = || {
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < 4 {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        for _ in 0..2 {
            all.push(scope.spawn(|| {
                let (taken, mut bytes) = (holding.taken(), vec![0; LEN]);
                start();
                while !taken.is_set() {
                    shared.copy_to(0, &mut bytes).expect("inside");
                    let is_whole = bytes.iter().all(|byte| *byte == 0xaa);
                    assert!(taken.is_set_after_reads() || is_whole, "zeros were taken for good");
                }
            }));
        }
        // One that is made and dropped again and again.
        all.push(scope.spawn(|| {
            start();
            while let Some(fds) = holding.fds() {
                if let Ok(mapping) = holding.add(map(&fds)) {
                    mapping.copy_to(8, &mut [0; 8]).expect("inside");
                }
            }
        }));
        all.push(scope.spawn(|| {
            start();
            holding.revoke().expect("no mapping too many");
        }));
        // By the system's join, which is seen; a scope's own end is not.
        for thread in all {
            thread.join().expect("a thread");
        }
    });
    holding.revoke().expect("a second time");
    assert!(shared.is_revoked() && holding.fds().is_none());
}

fn main() {
    for _ in 0..ROUNDS {
        round();
    }
    println!("{ROUNDS} rounds of four threads");
}
