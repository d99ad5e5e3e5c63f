//! Mappings that are taken back, and pages that only their creator writes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dmashare_uapi::futex;
use dmashare_uapi::mapping::{CopyError, Mapping, Prot};
use dmashare_uapi::memfd::{ReadOnlyPage, SharedPage, page_size};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{ftruncate, write};

fn memory(len: usize, byte: u8) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(c"test", flags).unwrap();
    assert_eq!(write(&fd, &vec![byte; len]).unwrap(), len);
    fd
}

#[test]
fn copies_stay_inside() {
    let fd = memory(8192, 7);
    let map = Mapping::map(fd.as_fd(), 4096, 100, Prot::ReadWrite).unwrap();
    drop(fd);
    let mut buf = [0; 10];
    map.copy_to(90, &mut buf).unwrap();
    assert_eq!(buf, [7; 10]);
    map.copy_from(0, &[1, 2, 3]).unwrap();
    map.copy_to(0, &mut buf[..3]).unwrap();
    assert_eq!(buf[..3], [1, 2, 3]);
    map.copy_to(100, &mut []).unwrap();
    let beyond = CopyError::OutOfRange { offset: 91, len: 10, size: 100 };
    assert_eq!(map.copy_to(91, &mut buf), Err(beyond));
    assert!(map.copy_from(usize::MAX, &buf).is_err());
    assert_eq!((map.len(), map.prot()), (100, Prot::ReadWrite));
}

#[test]
fn a_reading_map_is_not_written() {
    let fd = memory(4096, 0);
    let map = Mapping::map(fd.as_fd(), 0, 4096, Prot::Read).unwrap();
    assert_eq!(map.copy_from(0, &[1]), Err(CopyError::ReadOnly));
    assert!(Mapping::map(fd.as_fd(), 0, 0, Prot::Read).is_err());
    assert!(Mapping::map(fd.as_fd(), 1, 10, Prot::Read).is_err());
}

/// Also what is beyond the file's new end: SIGBUS before, zeros after.
#[test]
fn revoked_it_is_zero_and_the_file_is_untouched() {
    let fd = memory(3 * page_size(), 9);
    let map = Mapping::map(fd.as_fd(), 0, 3 * page_size() - 5, Prot::ReadWrite).unwrap();
    let other = Mapping::map(fd.as_fd(), 0, page_size(), Prot::Read).unwrap();
    ftruncate(&fd, page_size() as i64).unwrap();
    assert!(!map.is_revoked());
    map.revoke().unwrap();
    map.revoke().unwrap();
    assert!(map.is_revoked());
    let mut all = vec![1; map.len()];
    map.copy_to(0, &mut all).unwrap();
    assert!(all.iter().all(|&b| b == 0));
    map.copy_from(0, &[5; 16]).unwrap();
    map.revoke().unwrap();
    map.copy_to(0, &mut all[..16]).unwrap();
    assert_eq!(all[..16], [5; 16], "a second revocation does nothing");
    other.copy_to(0, &mut all[..16]).unwrap();
    assert_eq!(all[..16], [9; 16], "the other mapping is as it was");
}

/// Readers that never stop see the old bytes, then zeros, and no signal.
#[test]
fn readers_go_on_while_it_is_revoked() {
    let len = 64 * page_size();
    for _ in 0..50 {
        let fd = memory(len, 0xaa);
        let map = Mapping::map(fd.as_fd(), 0, len, Prot::ReadWrite).unwrap();
        let (reading, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut buf = vec![0; len];
                    let mut first = true;
                    while !stop.load(Ordering::Relaxed) {
                        let gone = map.is_revoked();
                        map.copy_to(0, &mut buf).unwrap();
                        assert!(buf.iter().all(|&b| b == 0 || (b == 0xaa && !gone)));
                        if std::mem::take(&mut first) {
                            reading.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            while reading.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            let revokers: Vec<_> = (0..2).map(|_| scope.spawn(|| map.revoke().unwrap())).collect();
            revokers.into_iter().for_each(|r| r.join().unwrap());
            let mut byte = [1];
            map.copy_to(len - 1, &mut byte).unwrap();
            assert_eq!(byte, [0]);
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn only_the_creator_writes_a_page() {
    let page = SharedPage::create(c"test-page", 100).unwrap();
    assert_eq!(page.len(), page_size());
    let fd = page.as_fd();
    assert!(Mapping::map(fd, 0, page_size(), Prot::ReadWrite).is_err(), "mapped writable");
    assert!(write(fd, &[1]).is_err(), "written through the descriptor");
    assert!(ftruncate(fd, 0).is_err(), "shrunk");
    assert!(ftruncate(fd, 1 << 20).is_err(), "grown");
    assert!(fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err(), "sealed");
    // Opened again, as another process could: as the file's mode lets it.
    let mode = nix::sys::stat::fstat(fd).unwrap().st_mode & 0o777;
    assert_eq!(mode, 0o400, "no other user can open it for writing");

    let reader = ReadOnlyPage::map(fd, page_size()).unwrap();
    assert_eq!(reader.load_u64(64), 0);
    page.atomic_u64(64).store(0x1234_5678_9abc_def0, Ordering::Release);
    page.atomic_u32(4).store(7, Ordering::Release);
    assert_eq!(reader.load_u64(64), 0x1234_5678_9abc_def0);
    assert_eq!(reader.load_u32(4), 7);
    assert_eq!(reader.len(), page_size());
}

/// Another life of the service goes on writing the page that readers have mapped.
#[test]
fn a_page_is_written_again_by_what_was_kept_of_it() {
    let page = SharedPage::create(c"test-page", 100).unwrap();
    let reader = ReadOnlyPage::map(page.as_fd(), page_size()).unwrap();
    page.atomic_u32(4).store(7, Ordering::Release);
    let kept = page.writable().try_clone_to_owned().unwrap();
    let for_readers = page.as_fd().try_clone_to_owned().unwrap();
    drop(page);
    assert!(SharedPage::from_fd(for_readers).is_err(), "a reader's is not enough");
    assert!(SharedPage::from_fd(tempfile::tempfile().unwrap().into()).is_err(), "a file");
    let page = SharedPage::from_fd(kept).unwrap();
    assert_eq!(page.atomic_u32(4).load(Ordering::Acquire), 7);
    page.atomic_u32(4).store(8, Ordering::Release);
    assert_eq!(reader.load_u32(4), 8);
}

#[test]
fn a_page_that_others_could_cut_is_refused() {
    let fd = memory(4096, 0);
    assert!(ReadOnlyPage::map(fd.as_fd(), 4096).is_err(), "no seals");
    let page = SharedPage::create(c"test-page", 4096).unwrap();
    assert!(ReadOnlyPage::map(page.as_fd(), page.len() + 1).is_err(), "too short");
    let file = tempfile::tempfile().unwrap();
    assert!(ReadOnlyPage::map(file.as_fd(), 4096).is_err(), "a file");
}

#[test]
#[should_panic(expected = "is not on the page")]
fn an_offset_beyond_the_page() {
    let page = SharedPage::create(c"test-page", 4096).unwrap();
    let _word = page.atomic_u32(page.len());
}

#[test]
#[should_panic(expected = "is not aligned")]
fn an_offset_that_is_not_aligned() {
    let page = SharedPage::create(c"test-page", 4096).unwrap();
    let _word = page.atomic_u64(4);
}

/// The word is written in one mapping and slept on in another, which is read-only.
#[test]
fn a_reader_sleeps_on_the_page() {
    let page = SharedPage::create(c"test-page", 4096).unwrap();
    let reader = ReadOnlyPage::map(page.as_fd(), 4096).unwrap();
    let word = reader.atomic_u32(128);
    assert!(!futex::wait(word, 0, Some(Duration::from_millis(5))).unwrap());
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while reader.load_u32(128) == 0 {
                assert!(futex::wait(word, 0, Some(Duration::from_secs(20))).unwrap(), "not woken");
            }
            reader.load_u32(128)
        });
        page.atomic_u32(128).store(3, Ordering::Release);
        futex::wake_all(page.atomic_u32(128)).unwrap();
        assert_eq!(sleeper.join().unwrap(), 3);
    });
}
