//! Guard fences of vgem.

use std::os::fd::AsFd;
use std::time::Instant;

use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::vgem::{Ended, FENCE_LIFETIME, GuardPool, Vgem};

use crate::common::{alone, or_skip, status};

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn vgem_guards() {
    alone(|| {
        let pool = or_skip!("vgem", GuardPool::open());
        let (a, fence_a) = pool.guard().unwrap();
        let (b, fence_b) = pool.guard().unwrap();
        assert_eq!(classify(fence_a.as_fd()).unwrap(), FdKind::SyncFile);
        assert_eq!((status(&fence_a), status(&fence_b)), (Status::Pending, Status::Pending));
        assert_eq!(sync_file::info(fence_a.as_fd()).unwrap().fences[0].driver, "vgem");
        assert_eq!(a.end().unwrap(), Ended::Now);
        assert_eq!((status(&fence_a), status(&fence_b)), (Status::Signalled, Status::Pending));
        assert!(sync_file::wait(fence_a.as_fd(), None).unwrap());
        drop(b);
        assert_eq!(status(&fence_b), Status::Signalled);
        assert_eq!(pool.idle(), 2);
        for _ in 0..100 {
            let (guard, fence) = pool.guard().unwrap();
            assert_eq!(status(&fence), Status::Pending);
            assert_eq!(guard.end().unwrap(), Ended::Now);
            assert_eq!(status(&fence), Status::Signalled);
        }
        assert_eq!(pool.idle(), 2, "buffers are used again");
        let (guard, fence) = pool.guard().unwrap();
        drop(pool);
        assert_eq!(status(&fence), Status::Pending, "a guard outlives its pool");

        // As a restarted service would, with the vgem file out of the fd store.
        let stored = guard.as_fd().try_clone_to_owned().unwrap();
        let restarted = Vgem::from_fd(stored);
        assert_eq!(restarted.signal_fence(guard.id()).unwrap(), Ended::Now);
        assert_eq!(status(&fence), Status::Signalled);
        assert_eq!(guard.end().unwrap_err().raw_os_error(), Some(nix::libc::ENOENT));
    });
}

/// More fences than a vgem file is used for: the pool goes over to another.
#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_vgem_file_is_not_used_for_ever() {
    alone(|| {
        let pool = or_skip!("vgem", GuardPool::open());
        let (kept, kept_fence) = pool.guard().unwrap();
        let start = Instant::now();
        let mut last_id = kept.id();
        for n in 0..(1 << 16) + 2 {
            let (guard, fence) = pool.guard().unwrap();
            if guard.id() < last_id {
                println!("another file after {n} guards, {:?} each", start.elapsed() / n);
                assert_eq!(guard.end().unwrap(), Ended::Now);
                assert_eq!(status(&fence), Status::Signalled);
                assert!(kept.end().is_ok());
                assert_eq!(status(&kept_fence), Status::Signalled);
                return;
            }
            last_id = guard.id();
        }
        panic!("always the same file");
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn the_kernel_ends_what_nobody_does() {
    alone(|| {
        let pool = or_skip!("vgem", GuardPool::open());
        let start = Instant::now();
        let (guard, fence) = pool.guard().unwrap();
        assert!(sync_file::wait(fence.as_fd(), Some(FENCE_LIFETIME * 3)).unwrap());
        assert!(start.elapsed() > FENCE_LIFETIME / 2);
        assert_eq!(status(&fence), Status::Signalled);
        assert_eq!(guard.end().unwrap(), Ended::TimedOut);
        let (guard, fence) = pool.guard().unwrap();
        assert_eq!(status(&fence), Status::Pending, "the buffer serves again");
        assert_eq!(guard.end().unwrap(), Ended::Now);
    });
}
