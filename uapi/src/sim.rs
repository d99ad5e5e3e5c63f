//! Stand-ins for the kernel's objects, for machines that have none (feature `simulate`, never in a
//! packaged build).
//!
//! | real | simulated |
//! | --- | --- |
//! | sync_file | an eventfd: 0 while pending, and set once; it polls like one |
//! | dma-buf | a memfd of a certain mode, with seals |
//! | DRM node | a regular file, known by its device and inode |

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::ftruncate;

use crate::dma_buf::DmaBufId;
use crate::sync_file::Status;
use crate::{memfd, proc_fd, stat};

const BUFFER_NAME: &CStr = c"dmashare-sim-dmabuf";
/// Its mode: no other memfd has the sticky bit. Looked at and not the name, so that a look costs about what
/// it does for a real one.
const BUFFER_MODE: u32 = 0o1600;

/// An ended fence's count is this, plus 1, plus the errno. So near the counter's end that the
/// kernel refuses to add a second one: the first end wins, without a race.
const ENDED: u64 = u64::MAX - 0xffff;

/// A fence that userspace signals.
#[derive(Debug)]
pub struct SimFence;

impl SimFence {
    /// A pending fence.
    #[allow(clippy::new_ret_no_self, reason = "a fence is its descriptor, as a sync_file is")]
    pub fn new() -> io::Result<OwnedFd> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(EventFd::from_value_and_flags(0, flags)?.into())
    }
}

/// Ends a fence, with or without a (positive) errno: true, or false if it had ended before.
pub fn signal(fence: BorrowedFd<'_>, result: Result<(), i32>) -> io::Result<bool> {
    let code = match result {
        Ok(()) => 0,
        Err(errno @ 1..=4095) => errno as u64,
        Err(_) => return Err(Errno::EINVAL.into()),
    };
    match nix::unistd::write(fence, &(ENDED + 1 + code).to_ne_bytes()) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// What has become of a fence, without changing it. ENOTTY if it is not one.
pub fn status(fence: BorrowedFd<'_>) -> io::Result<Status> {
    let info = proc_fd::info(fence)?;
    let count = proc_fd::field(&info, "eventfd-count")
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .ok_or(Errno::ENOTTY)?;
    Ok(match count.checked_sub(ENDED + 1) {
        None => Status::Pending,
        Some(0) => Status::Signalled,
        Some(errno) => Status::Error(i32::try_from(errno).unwrap_or(i32::MAX)),
    })
}

/// Whether `fd` can be a simulated fence. Never blocks.
pub fn is_fence(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(proc_fd::link(fd)?.as_bytes() == b"anon_inode:[eventfd]")
}

/// A buffer of `size` bytes, rounded up to pages, of a size that stays.
pub fn buffer(size: u64) -> io::Result<OwnedFd> {
    let size = memfd::page_align(size)?;
    let fd = memfd::create(BUFFER_NAME)?;
    ftruncate(&fd, i64::try_from(size).map_err(|_| Errno::EFBIG)?)?;
    fchmod(&fd, Mode::from_bits_retain(BUFFER_MODE))?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    Ok(fd)
}

/// A buffer of so many bytes is one at which a service on simulated devices panics: what becomes of who
/// passes it, and of the others, is what a fault of the service's would come to.
pub const FAULTY: u64 = 0xbad << 12;

/// Which simulated buffer `fd` is; `None` if it is none. Never blocks.
pub fn buffer_id(fd: BorrowedFd<'_>) -> io::Result<Option<DmaBufId>> {
    if is_path(fd)? {
        return Ok(None);
    }
    known_buffer(fd, &stat::stat(fd)?)
}

fn known_buffer(fd: BorrowedFd<'_>, stat: &stat::Stat) -> io::Result<Option<DmaBufId>> {
    if stat.file_type != libc::S_IFREG || stat.mode != BUFFER_MODE {
        return Ok(None);
    }
    // The mode can be forged by any file, but only a memfd has this seal.
    let seals =
        fcntl(fd, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_retain);
    if !seals.contains(SealFlag::F_SEAL_SHRINK) {
        return Ok(None);
    }
    Ok(Some(DmaBufId { inode: stat.ino, size: stat.size }))
}

/// Which file stands for a DRM node: equal for every descriptor of it, however opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SimNodeId {
    /// The file system's device number, as `dev_t`.
    pub dev: u64,
    /// The file's inode.
    pub ino: u64,
}

/// Which simulated node `fd` is; `None` if it is no regular file, or a simulated buffer.
pub fn node_id(fd: BorrowedFd<'_>) -> io::Result<Option<SimNodeId>> {
    if is_path(fd)? {
        return Ok(None);
    }
    let stat = stat::stat(fd)?;
    if stat.file_type != libc::S_IFREG || known_buffer(fd, &stat)?.is_some() {
        return Ok(None);
    }
    Ok(Some(SimNodeId { dev: libc::makedev(stat.dev.0, stat.dev.1), ino: stat.ino }))
}

fn is_path(fd: impl AsFd) -> io::Result<bool> {
    Ok(fcntl(fd, FcntlArg::F_GETFL)? & libc::O_PATH != 0)
}

#[cfg(test)]
mod tests {
    use super::{SimFence, buffer, buffer_id, is_fence, node_id, signal, status};
    use crate::sync_file::{self, Status};
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn the_first_end_counts() {
        let fence = SimFence::new().unwrap();
        let fence = fence.as_fd();
        assert!(is_fence(fence).unwrap());
        assert_eq!(status(fence).unwrap(), Status::Pending);
        assert!(!sync_file::wait(fence, Some(Duration::ZERO)).unwrap());
        assert!(signal(fence, Err(libc::ENODEV)).unwrap());
        assert!(!signal(fence, Ok(())).unwrap());
        assert!(!signal(fence, Err(libc::EIO)).unwrap());
        assert_eq!(status(fence).unwrap(), Status::Error(libc::ENODEV));
        assert!(sync_file::wait(fence, None).unwrap());
    }

    #[test]
    fn ends_without_an_error() {
        let fence = SimFence::new().unwrap();
        assert!(signal(fence.as_fd(), Err(0)).is_err());
        assert!(signal(fence.as_fd(), Ok(())).unwrap());
        assert!(!signal(fence.as_fd(), Err(4095)).unwrap());
        assert_eq!(status(fence.as_fd()).unwrap(), Status::Signalled);
    }

    #[test]
    fn of_threads_that_race_one_wins() {
        let fence = SimFence::new().unwrap();
        let wins: usize = std::thread::scope(|scope| {
            let end = |errno| signal(fence.as_fd(), Err(errno)).unwrap();
            let threads: Vec<_> = (1..=8).map(|e| scope.spawn(move || end(e))).collect();
            threads.into_iter().map(|t| usize::from(t.join().unwrap())).sum()
        });
        assert_eq!(wins, 1);
    }

    #[test]
    fn buffers_and_nodes_are_told_apart() {
        let (a, b) = (buffer(1).unwrap(), buffer(8192).unwrap());
        let id = |fd: &std::os::fd::OwnedFd| buffer_id(fd.as_fd()).unwrap().unwrap();
        assert_eq!(id(&a).size, crate::memfd::page_size() as u64);
        assert_eq!(id(&b).size, 8192);
        assert_ne!(id(&a).inode, id(&b).inode);
        assert_eq!(id(&a), id(&a.try_clone().unwrap()));
        assert_eq!(node_id(a.as_fd()).unwrap(), None);

        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(buffer_id(file.as_file().as_fd()).unwrap(), None);
        let node = node_id(file.as_file().as_fd()).unwrap();
        assert_eq!(node, node_id(file.reopen().unwrap().as_fd()).unwrap());
        assert!(node.is_some());
        assert!(!is_fence(file.as_file().as_fd()).unwrap());
    }
}
