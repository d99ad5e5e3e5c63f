//! What the tests share.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use dmashare_uapi::dma_buf::DmaBufId;
use dmashare_uapi::fdkind::{FdKind, classify};
use dmashare_uapi::sync_file::{self, Status};
use dmashare_uapi::{dma_heap, udmabuf};

/// One test at a time, and none leaves a descriptor behind.
pub fn alone(test: impl FnOnce()) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    test();
    assert_eq!(open(), before, "descriptors left open");
}

/// The value, or a skip with the reason.
macro_rules! or_skip {
    ($what:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(e) => {
                println!("skipped: {}: {e}", $what);
                return;
            }
        }
    };
}
pub(crate) use or_skip;

pub fn nodes(prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries
        .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
        .map(|e| e.path())
        .collect();
    nodes.sort();
    nodes
}

pub fn dma_buf_id(fd: impl AsFd) -> DmaBufId {
    match classify(fd.as_fd()).unwrap() {
        FdKind::DmaBuf(id) => id,
        other => panic!("not a dma-buf but {other}"),
    }
}

pub fn status(fd: impl AsFd) -> Status {
    sync_file::status(fd.as_fd()).unwrap()
}

/// Any dma-buf that belongs to no GPU.
pub fn neutral() -> std::io::Result<OwnedFd> {
    udmabuf::create(8192).or_else(|_| dma_heap::alloc(dma_heap::SYSTEM, 8192))
}
