//! Fences as descriptors: sw_sync's, merged ones, and what is none.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use dmashare_uapi::dma_buf::{self, Access};
use dmashare_uapi::drm_node;
use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::sw_sync::Timeline;
use dmashare_uapi::sync_file::{self, Status};
use nix::sys::eventfd::EventFd;

use crate::common::{alone, or_skip, status};

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_sw_sync_timeline() {
    alone(|| {
        let timeline = or_skip!("sw_sync", Timeline::open());
        let fence = timeline.create_fence(2, c"two").unwrap();
        assert_eq!(classify(fence.as_fd()).unwrap(), FdKind::SyncFile);
        assert_eq!(status(&fence), Status::Pending);
        assert!(!sync_file::wait(fence.as_fd(), Some(Duration::from_millis(1))).unwrap());
        timeline.inc(1).unwrap();
        assert_eq!(status(&fence), Status::Pending);
        timeline.inc(1).unwrap();
        assert_eq!(status(&fence), Status::Signalled);
        assert!(sync_file::wait(fence.as_fd(), None).unwrap());
        let info = sync_file::info(fence.as_fd()).unwrap();
        assert_eq!(info.fences.len(), 1);
        assert_eq!(info.fences[0].driver, "sw_sync");
        assert!(info.fences[0].timestamp_ns > 0);
        assert_eq!(status(timeline.create_fence(1, c"past").unwrap()), Status::Signalled);

        // Through its descriptor and back, nothing ends; then everything pending does.
        let pending = timeline.create_fence(10, c"ten").unwrap();
        let timeline = Timeline::from_fd(timeline.into_fd());
        assert_eq!(status(&pending), Status::Pending);
        drop(timeline);
        assert_eq!(status(&pending), Status::Error(nix::libc::ENOENT));
        assert_eq!(status(&fence), Status::Signalled);
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn merged_fences() {
    alone(|| {
        let timelines: Vec<_> = (0..12).map(|_| Timeline::open()).collect();
        let mut timelines: Vec<_> = or_skip!("sw_sync", timelines.into_iter().collect());
        let merge =
            |a: &OwnedFd, b: &OwnedFd| sync_file::merge(c"merged", a.as_fd(), b.as_fd()).unwrap();
        // More than are asked for at once.
        let all = timelines
            .iter()
            .map(|t| t.create_fence(1, c"x").unwrap())
            .reduce(|a, b| merge(&a, &b))
            .unwrap();
        let info = sync_file::info(all.as_fd()).unwrap();
        assert_eq!((info.fences.len(), info.name.as_str()), (12, "merged"));
        assert_eq!(status(&all), Status::Pending);
        timelines.pop();
        assert_eq!(status(&all), Status::Pending, "eleven are pending");
        timelines.drain(1..).for_each(|t| t.inc(1).unwrap());
        assert!(!sync_file::wait(all.as_fd(), Some(Duration::ZERO)).unwrap());
        timelines[0].inc(1).unwrap();
        assert_eq!(status(&all), Status::Error(nix::libc::ENOENT));
        assert!(sync_file::wait(all.as_fd(), None).unwrap());
    });
}

#[test]
fn what_is_no_sync_file() {
    alone(|| {
        let eventfd = EventFd::new().unwrap();
        assert!(sync_file::status(eventfd.as_fd()).is_err());
        assert!(dma_buf::export_sync_file(eventfd.as_fd(), Access::Read).is_err());
        assert!(dma_buf::exporter_name(eventfd.as_fd()).is_err());
        assert!(drm_node::driver_name(eventfd.as_fd()).is_err());
        assert!(drm_node::is_unplugged(eventfd.as_fd()).is_err());
    });
}
