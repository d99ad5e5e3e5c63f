//! Buffers that belong to no GPU, and their mappings.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use dmashare_uapi::dma_buf::{self, Access};
use dmashare_uapi::mapping::{Mapping, Prot};
use dmashare_uapi::sync_file::Status;
use dmashare_uapi::{dma_heap, udmabuf};

use crate::common::{alone, dma_buf_id, or_skip, status};

fn a_neutral_buffer(fd: &OwnedFd, exporter: &str) {
    let id = dma_buf_id(fd);
    assert_eq!(id.size, 8192);
    assert_eq!(dma_buf_id(fd.try_clone().unwrap()), id);
    assert_eq!(dma_buf::exporter_name(fd.as_fd()).unwrap(), exporter);
    dma_buf::set_name(fd.as_fd(), c"thirty-one characters and no mo").unwrap();
    assert!(dma_buf::set_name(fd.as_fd(), c"thirty-two characters is one too").is_err());
    assert_eq!(dma_buf_id(fd), id, "with a name");

    let map = Mapping::map(fd.as_fd(), 0, 8192, Prot::ReadWrite).unwrap();
    assert!(Mapping::map(fd.as_fd(), 4096, 8192, Prot::Read).is_err(), "beyond the buffer");
    dma_buf::sync_start(fd.as_fd(), Access::ReadWrite).unwrap();
    map.copy_from(5000, b"kept").unwrap();
    dma_buf::sync_end(fd.as_fd(), Access::ReadWrite).unwrap();
    map.revoke().unwrap();
    let mut text = [1; 4];
    map.copy_to(5000, &mut text).unwrap();
    assert_eq!(text, [0; 4]);
    let again = Mapping::map(fd.as_fd(), 0, 8192, Prot::Read).unwrap();
    again.copy_to(5000, &mut text).unwrap();
    assert_eq!(&text, b"kept");
    let idle = dma_buf::export_sync_file(fd.as_fd(), Access::Write).unwrap();
    assert_eq!(status(idle), Status::Signalled);
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_udmabuf() {
    alone(|| {
        let device = or_skip!("udmabuf", udmabuf::Udmabuf::open());
        assert!(udmabuf::is_present());
        a_neutral_buffer(&device.create(8000).unwrap(), "udmabuf");
        assert!(device.create(0).is_err());
        assert_ne!(dma_buf_id(device.create(1).unwrap()), dma_buf_id(device.create(1).unwrap()));
        let large = device.create(60 << 20).unwrap();
        assert_eq!(dma_buf_id(&large).size, 60 << 20);
    });
}

#[test]
#[ignore = "needs the kernel's own objects: run in the virtual machine"]
fn a_dma_heap() {
    alone(|| {
        let heap = or_skip!("dma-heap", dma_heap::Heap::open(dma_heap::SYSTEM));
        a_neutral_buffer(&heap.alloc(8000).unwrap(), "system");
        assert!(heap.alloc(0).is_err());
        let none = dma_heap::alloc("no such heap", 4096).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        assert_eq!(dma_heap::alloc("../null", 4096).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}
