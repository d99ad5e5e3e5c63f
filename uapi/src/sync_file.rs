//! sync_files: one or several fences behind a descriptor (include/uapi/linux/sync_file.h).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{_IOWR, Ioctl};

use crate::ioctl::{Retry, check_abi, read_write};
use crate::poll;

#[repr(C)]
struct MergeArg {
    name: [u8; 32],
    fd2: i32,
    fence: i32,
    flags: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawFence {
    obj_name: [u8; 32],
    driver_name: [u8; 32],
    status: i32,
    flags: u32,
    timestamp_ns: u64,
}

impl RawFence {
    const ZERO: Self =
        Self { obj_name: [0; 32], driver_name: [0; 32], status: 0, flags: 0, timestamp_ns: 0 };
}

#[repr(C)]
struct InfoArg {
    name: [u8; 32],
    status: i32,
    flags: u32,
    num_fences: u32,
    pad: u32,
    sync_fence_info: u64,
}

const MERGE: Ioctl = _IOWR::<MergeArg>(b'>' as u32, 3);
const FILE_INFO: Ioctl = _IOWR::<InfoArg>(b'>' as u32, 4);

check_abi! {
    sizes { MergeArg: 48, RawFence: 80, InfoArg: 56 }
    numbers { MERGE: 0xc030_3e03, FILE_INFO: 0xc038_3e04 }
}

/// How many fences are asked for at first: a guard has one, a merge of several GPUs' a few.
const INLINE: usize = 8;

/// What has become of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Not signalled yet.
    Pending,
    /// Signalled without an error.
    Signalled,
    /// Signalled with this errno, as a positive number.
    Error(i32),
}

impl Status {
    fn from_raw(status: i32) -> Self {
        match status {
            0 => Self::Pending,
            1.. => Self::Signalled,
            error => Self::Error(error.saturating_neg()),
        }
    }

    /// Signalled, with or without an error.
    #[must_use]
    pub fn is_done(self) -> bool {
        self != Self::Pending
    }

    /// Of several fences: pending while any is, else the first error, else signalled. This is what
    /// `poll` on their sync_file says, and the error in addition.
    fn of_all(all: impl IntoIterator<Item = Self>) -> Self {
        let mut status = Self::Signalled;
        for one in all {
            match one {
                Self::Pending => return Self::Pending,
                Self::Error(_) if status == Self::Signalled => status = one,
                _ => {}
            }
        }
        status
    }
}

/// One fence of a sync_file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceInfo {
    /// The driver that signals it.
    pub driver: String,
    /// Its timeline: the kernel's `obj_name`.
    pub timeline: String,
    /// What has become of it.
    pub status: Status,
    /// When it was signalled, in nanoseconds of CLOCK_MONOTONIC; 0 while pending.
    pub timestamp_ns: u64,
}

/// A sync_file as SYNC_IOC_FILE_INFO describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The name given to [`merge`], or one made from the fence by the kernel.
    pub name: String,
    /// Of all fences together: pending while any is, else the first error.
    pub status: Status,
    /// At least one, as far as kernels are known.
    pub fences: Vec<FenceInfo>,
}

/// Describes a sync_file and its fences. ENOTTY if the descriptor is something else.
pub fn info(fd: BorrowedFd<'_>) -> io::Result<Info> {
    with_fences(fd, |name, fences| {
        let fences: Vec<_> = fences
            .iter()
            .map(|f| FenceInfo {
                driver: text(&f.driver_name),
                timeline: text(&f.obj_name),
                status: Status::from_raw(f.status),
                timestamp_ns: f.timestamp_ns,
            })
            .collect();
        let status = Status::of_all(fences.iter().map(|f| f.status));
        Info { name: text(name), status, fences }
    })
}

/// What has become of a sync_file: one ioctl, no allocation in the usual case, never blocks.
pub fn status(fd: BorrowedFd<'_>) -> io::Result<Status> {
    with_fences(fd, |_, fences| Status::of_all(fences.iter().map(|f| Status::from_raw(f.status))))
}

/// Asks for the fences, always with room for some: asked for none, the kernel's status of several
/// fences or of a timeline's point hides their errors.
fn with_fences<T>(
    fd: BorrowedFd<'_>,
    read: impl FnOnce(&[u8; 32], &[RawFence]) -> T,
) -> io::Result<T> {
    let mut few = [RawFence::ZERO; INLINE];
    if let Some((name, n)) = ask(fd, &mut few)? {
        return Ok(read(&name, &few[..n]));
    }
    let mut many = Vec::new();
    loop {
        // More than fit. Fences that are done leave a sync_file, and none is ever added, so the
        // second round succeeds; the margin is for kernels that count otherwise.
        many.resize(count(fd)?.max(many.len()) + INLINE, RawFence::ZERO);
        if let Some((name, n)) = ask(fd, &mut many)? {
            return Ok(read(&name, &many[..n]));
        }
    }
}

/// The name and how many of `fences` were filled in; `None` if there are more of them.
fn ask(fd: BorrowedFd<'_>, fences: &mut [RawFence]) -> io::Result<Option<([u8; 32], usize)>> {
    let room = u32::try_from(fences.len()).unwrap_or(u32::MAX);
    let mut arg = InfoArg {
        name: [0; 32],
        status: 0,
        flags: 0,
        num_fences: room,
        pad: 0,
        sync_fence_info: fences.as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: InfoArg is the ioctl's structure, and its pointer has room for `num_fences` entries.
    match unsafe { read_write(fd, FILE_INFO, Retry::Interrupted, &mut arg) } {
        Ok(()) => Ok(Some((arg.name, (arg.num_fences as usize).min(fences.len())))),
        // The flags and the padding are zero, so this can only mean too little room.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(e) => Err(e),
    }
}

fn count(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut arg =
        InfoArg { name: [0; 32], status: 0, flags: 0, num_fences: 0, pad: 0, sync_fence_info: 0 };
    // SAFETY: InfoArg is the ioctl's structure; with no room given the kernel follows no pointer.
    unsafe { read_write(fd, FILE_INFO, Retry::Interrupted, &mut arg)? };
    Ok(arg.num_fences as usize)
}

/// A new sync_file over all fences of both; `a` and `b` stay as they are. The name is cut at 31
/// bytes.
///
/// Fences that are already signalled are left out by the kernel, **with their errors**.
pub fn merge(name: &CStr, a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut arg = MergeArg { name: [0; 32], fd2: b.as_raw_fd(), fence: -1, flags: 0, pad: 0 };
    let len = name.count_bytes().min(arg.name.len() - 1);
    arg.name[..len].copy_from_slice(&name.to_bytes()[..len]);
    // SAFETY: MergeArg is the ioctl's structure.
    unsafe { read_write(a, MERGE, Retry::Interrupted, &mut arg)? };
    // SAFETY: on success the kernel has installed a new descriptor (close-on-exec), ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(arg.fence) })
}

/// Waits until every fence is signalled, with or without an error: true, or false when the time
/// is up. `None` waits without end, which for a raw fence of a removable device can be for ever.
pub fn wait(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    poll::wait_readable(fd, timeout)
}

fn text(bytes: &[u8; 32]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Status::{self, Error, Pending, Signalled};

    #[test]
    fn raw_status() {
        assert_eq!(Status::from_raw(0), Pending);
        assert_eq!(Status::from_raw(1), Signalled);
        assert_eq!(Status::from_raw(-2), Error(libc::ENOENT));
        assert_eq!(Status::from_raw(i32::MIN), Error(i32::MAX));
    }

    #[test]
    fn several_fences_are_pending_while_one_is() {
        assert_eq!(Status::of_all([]), Signalled);
        assert_eq!(Status::of_all([Signalled, Signalled]), Signalled);
        assert_eq!(Status::of_all([Error(2), Pending]), Pending);
        assert_eq!(Status::of_all([Signalled, Error(2), Error(19)]), Error(2));
    }
}
