//! Syncobjs, binary and with timelines.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use dmashare_uapi::drm_node::{self, Cap};
use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::sw_sync::Timeline;
use dmashare_uapi::sync_file::Status;
use dmashare_uapi::syncobj::{Syncobj, WaitFor, timeline_wait};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::common::{alone, nodes, or_skip, status};

fn timeline_node() -> std::io::Result<OwnedFd> {
    for path in nodes("renderD") {
        let fd = drm_node::open(&path)?;
        if drm_node::cap(fd.as_fd(), Cap::SyncobjTimeline).unwrap_or(0) == 1 {
            return Ok(fd);
        }
    }
    Err(std::io::Error::other("no node with timeline syncobjs"))
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn binary_syncobjs() {
    alone(|| {
        let drm = Arc::new(or_skip!("syncobj", timeline_node()));
        let syncobj = Syncobj::create(Arc::clone(&drm), false).unwrap();
        assert!(syncobj.export_sync_file().is_err(), "no fence yet");
        syncobj.signal().unwrap();
        assert_eq!(status(syncobj.export_sync_file().unwrap()), Status::Signalled);
        syncobj.reset().unwrap();
        assert!(syncobj.export_sync_file().is_err(), "no fence any more");
        let done = Syncobj::create(drm.as_fd(), true).unwrap();
        assert_eq!(status(done.export_sync_file().unwrap()), Status::Signalled);

        let fd = syncobj.to_fd().unwrap();
        assert_eq!(classify(fd.as_fd()).unwrap(), FdKind::Syncobj);
        let other = Syncobj::from_fd(drm.as_fd(), fd.as_fd()).unwrap();
        assert_ne!(other.handle(), syncobj.handle());
        other.signal().unwrap();
        assert_eq!(status(syncobj.export_sync_file().unwrap()), Status::Signalled);
        assert!(Syncobj::from_fd(drm.as_fd(), drm.as_fd()).is_err());
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn timeline_syncobjs() {
    alone(|| {
        let drm = or_skip!("syncobj", timeline_node());
        let drm = drm.as_fd();
        let timeline = Syncobj::create(drm, false).unwrap();
        let moment = Some(Duration::from_millis(5));
        assert_eq!(timeline.query().unwrap(), 0);
        assert!(!timeline.wait(1, WaitFor::Available, moment).unwrap());
        assert!(!timeline.wait(1, WaitFor::Signalled, moment).unwrap());
        timeline.timeline_signal(3).unwrap();
        assert_eq!(timeline.query().unwrap(), 3);
        assert!(timeline.wait(2, WaitFor::Signalled, None).unwrap());

        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        timeline.eventfd(5, WaitFor::Signalled, eventfd.as_fd()).unwrap();
        assert!(eventfd.read().is_err());

        let second = Syncobj::create(drm, false).unwrap();
        let points = [(second.handle(), 1), (timeline.handle(), 3)];
        let first = timeline_wait(drm, &points, WaitFor::Signalled, moment).unwrap();
        assert_eq!(first, Some(1));

        guarded_point(drm, &timeline, &eventfd);
    });
}

/// A pending fence is put at point 5: point 6 waits for it, and its error arrives.
fn guarded_point(drm: BorrowedFd<'_>, timeline: &Syncobj<BorrowedFd<'_>>, eventfd: &EventFd) {
    let guard = or_skip!("sw_sync", Timeline::open());
    let fence = guard.create_fence(1, c"guard").unwrap();
    let binary = Syncobj::create(drm, false).unwrap();
    binary.import_sync_file(fence.as_fd()).unwrap();
    timeline.transfer_from(5, &binary, 0).unwrap();
    assert!(timeline.wait(5, WaitFor::Available, None).unwrap());
    assert_eq!(timeline.query().unwrap(), 3);
    assert_eq!(timeline.query_last_submitted().unwrap(), 5);
    timeline.timeline_signal(6).unwrap();
    assert_eq!(timeline.query().unwrap(), 3, "point 6 is held back");
    assert!(eventfd.read().is_err());
    let point = Syncobj::create(drm, false).unwrap();
    point.transfer_from(0, timeline, 5).unwrap();
    let exported = point.export_sync_file().unwrap();
    assert_eq!(status(&exported), Status::Pending);

    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| timeline.wait(6, WaitFor::Signalled, Some(Duration::from_secs(20))));
        drop(guard);
        assert!(waiter.join().unwrap().unwrap(), "not woken");
    });
    assert_eq!(timeline.query().unwrap(), 6);
    assert_eq!(eventfd.read().unwrap(), 1);
    assert_eq!(status(&exported), Status::Error(nix::libc::ENOENT));
}
