//! Fences in a buffer's reservation object.

use std::os::fd::AsFd;
use std::sync::Arc;

use dmashare_uapi::dma_buf::{self, Access};
use dmashare_uapi::sw_sync::Timeline;
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::vgem::{Ended, Vgem};

use crate::common::{alone, neutral, or_skip, status};

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn implicit_fences() {
    alone(|| {
        let buffer = or_skip!("udmabuf or dma-heap", neutral());
        let vgem = Arc::new(or_skip!("vgem", Vgem::open()));
        let pending = |access| dma_buf::export_sync_file(buffer.as_fd(), access).unwrap();
        let reader = vgem.attach_to_dma_buf(buffer.as_fd(), false).unwrap();
        assert_eq!(status(pending(Access::Read)), Status::Signalled, "readers do not mind readers");
        let for_writers = pending(Access::Write);
        assert_eq!(status(&for_writers), Status::Pending);
        assert!(vgem.attach_to_dma_buf(buffer.as_fd(), true).is_err(), "a writer conflicts");
        assert_eq!(reader.signal().unwrap(), Ended::Now);
        assert_eq!(status(&for_writers), Status::Signalled);

        let writer = vgem.attach_to_dma_buf(buffer.as_fd(), true).unwrap();
        let for_readers = pending(Access::Read);
        assert_eq!(status(&for_readers), Status::Pending);
        drop(vgem);
        assert_eq!(status(&for_readers), Status::Pending);
        drop(writer);
        assert_eq!(status(&for_readers), Status::Signalled, "closing the last vgem file ends it");
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_fence_put_on_a_buffer() {
    alone(|| {
        let buffer = or_skip!("udmabuf or dma-heap", neutral());
        let timeline = or_skip!("sw_sync", Timeline::open());
        let fence = timeline.create_fence(1, c"write").unwrap();
        dma_buf::import_sync_file(buffer.as_fd(), Access::Write, fence.as_fd()).unwrap();
        let seen = dma_buf::export_sync_file(buffer.as_fd(), Access::Read).unwrap();
        let info = sync_file::info(seen.as_fd()).unwrap();
        assert_eq!((info.status, info.fences[0].driver.as_str()), (Status::Pending, "sw_sync"));
        drop(timeline);
        assert_eq!(status(&seen), Status::Error(nix::libc::ENOENT));
    });
}
