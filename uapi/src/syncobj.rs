//! drm_syncobj: fences by name, and timelines of them (include/uapi/drm/drm.h,
//! drivers/gpu/drm/drm_syncobj.c).
//!
//! A syncobj belongs to no driver: it can be made on one device and used through another. A wait
//! succeeds for a fence that ended with an error, too: the cause must come from elsewhere. A wait
//! that is already blocked is not woken by the removal of the device it goes through.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{_IOWR, Ioctl};
use nix::time::{ClockId, clock_gettime};

use crate::ioctl::{Retry, check_abi, read_write};

#[repr(C)]
struct CreateArg {
    handle: u32,
    flags: u32,
}

#[repr(C)]
struct DestroyArg {
    handle: u32,
    pad: u32,
}

#[repr(C)]
struct HandleArg {
    handle: u32,
    flags: u32,
    fd: i32,
    pad: u32,
}

#[repr(C)]
struct TransferArg {
    src_handle: u32,
    dst_handle: u32,
    src_point: u64,
    dst_point: u64,
    flags: u32,
    pad: u32,
}

/// Without the deadline of later kernels: they take a shorter structure for one that ends in zeros.
#[repr(C)]
struct TimelineWaitArg {
    handles: u64,
    points: u64,
    timeout_nsec: i64,
    count_handles: u32,
    flags: u32,
    first_signaled: u32,
    pad: u32,
}

#[repr(C)]
struct EventfdArg {
    handle: u32,
    flags: u32,
    point: u64,
    fd: i32,
    pad: u32,
}

#[repr(C)]
struct ArrayArg {
    handles: u64,
    count_handles: u32,
    pad: u32,
}

#[repr(C)]
struct TimelineArrayArg {
    handles: u64,
    points: u64,
    count_handles: u32,
    flags: u32,
}

const CREATE: Ioctl = _IOWR::<CreateArg>(b'd' as u32, 0xbf);
const DESTROY: Ioctl = _IOWR::<DestroyArg>(b'd' as u32, 0xc0);
const HANDLE_TO_FD: Ioctl = _IOWR::<HandleArg>(b'd' as u32, 0xc1);
const FD_TO_HANDLE: Ioctl = _IOWR::<HandleArg>(b'd' as u32, 0xc2);
const RESET: Ioctl = _IOWR::<ArrayArg>(b'd' as u32, 0xc4);
const SIGNAL: Ioctl = _IOWR::<ArrayArg>(b'd' as u32, 0xc5);
const TIMELINE_WAIT: Ioctl = _IOWR::<TimelineWaitArg>(b'd' as u32, 0xca);
const QUERY: Ioctl = _IOWR::<TimelineArrayArg>(b'd' as u32, 0xcb);
const TRANSFER: Ioctl = _IOWR::<TransferArg>(b'd' as u32, 0xcc);
const TIMELINE_SIGNAL: Ioctl = _IOWR::<TimelineArrayArg>(b'd' as u32, 0xcd);
const EVENTFD: Ioctl = _IOWR::<EventfdArg>(b'd' as u32, 0xcf);

check_abi! {
    sizes {
        CreateArg: 8, DestroyArg: 8, HandleArg: 16, TransferArg: 32, TimelineWaitArg: 40,
        EventfdArg: 24, ArrayArg: 16, TimelineArrayArg: 24,
    }
    numbers {
        CREATE: 0xc008_64bf, DESTROY: 0xc008_64c0, HANDLE_TO_FD: 0xc010_64c1,
        FD_TO_HANDLE: 0xc010_64c2, RESET: 0xc010_64c4, SIGNAL: 0xc010_64c5,
        TIMELINE_WAIT: 0xc028_64ca, QUERY: 0xc018_64cb, TRANSFER: 0xc020_64cc,
        TIMELINE_SIGNAL: 0xc018_64cd, EVENTFD: 0xc018_64cf,
    }
}

const CREATE_SIGNALED: u32 = 1;
/// The same bit for both directions.
const SYNC_FILE: u32 = 1;
const WAIT_FOR_SUBMIT: u32 = 1 << 1;
const WAIT_AVAILABLE: u32 = 1 << 2;
const QUERY_LAST_SUBMITTED: u32 = 1;

/// What a wait waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// The point's fence is signalled. A point that has no fence yet is waited for as well.
    Signalled,
    /// The point has a fence, signalled or not.
    Available,
}

/// A syncobj handle on a DRM file, destroyed when dropped; the syncobj itself lives on in its
/// other handles and descriptors. `D` is how the DRM descriptor is kept: a `BorrowedFd`, an
/// `Arc<OwnedFd>`, …
///
/// Points of a timeline are 64-bit numbers above 0 that grow; 0 stands for the binary fence.
#[derive(Debug)]
pub struct Syncobj<D: AsFd> {
    drm: D,
    handle: u32,
}

impl<D: AsFd> Syncobj<D> {
    /// A new syncobj, without a fence or with a signalled one. EOPNOTSUPP if the driver has none.
    pub fn create(drm: D, signalled: bool) -> io::Result<Self> {
        let mut arg = CreateArg { handle: 0, flags: if signalled { CREATE_SIGNALED } else { 0 } };
        // SAFETY: CreateArg is the ioctl's structure.
        unsafe { drm_ioctl(drm.as_fd(), CREATE, &mut arg)? };
        Ok(Self { drm, handle: arg.handle })
    }

    /// A handle on the syncobj behind a descriptor, which is borrowed. A new handle each time, to
    /// the same syncobj. EINVAL if it is something else.
    pub fn from_fd(drm: D, fd: BorrowedFd<'_>) -> io::Result<Self> {
        let mut arg = HandleArg { handle: 0, flags: 0, fd: fd.as_raw_fd(), pad: 0 };
        // SAFETY: HandleArg is the ioctl's structure.
        unsafe { drm_ioctl(drm.as_fd(), FD_TO_HANDLE, &mut arg)? };
        Ok(Self { drm, handle: arg.handle })
    }

    /// The number, valid on this DRM file only.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// A new descriptor of the syncobj, for another process or another device.
    pub fn to_fd(&self) -> io::Result<OwnedFd> {
        self.handle_to_fd(0)
    }

    /// A sync_file of the fence that the **binary** syncobj has now. EINVAL if it has none. For a
    /// timeline's point, [`Syncobj::transfer_from`] it to a binary one first.
    pub fn export_sync_file(&self) -> io::Result<OwnedFd> {
        self.handle_to_fd(SYNC_FILE)
    }

    fn handle_to_fd(&self, flags: u32) -> io::Result<OwnedFd> {
        let mut arg = HandleArg { handle: self.handle, flags, fd: -1, pad: 0 };
        // SAFETY: HandleArg is the ioctl's structure.
        unsafe { drm_ioctl(self.drm.as_fd(), HANDLE_TO_FD, &mut arg)? };
        // SAFETY: on success the kernel has installed a new descriptor (close-on-exec), ours alone.
        Ok(unsafe { OwnedFd::from_raw_fd(arg.fd) })
    }

    /// Makes a sync_file's fence that of the **binary** syncobj, in place of what it had. Borrows
    /// the sync_file.
    pub fn import_sync_file(&self, sync_file: BorrowedFd<'_>) -> io::Result<()> {
        let fd = sync_file.as_raw_fd();
        let mut arg = HandleArg { handle: self.handle, flags: SYNC_FILE, fd, pad: 0 };
        // SAFETY: HandleArg is the ioctl's structure.
        unsafe { drm_ioctl(self.drm.as_fd(), FD_TO_HANDLE, &mut arg) }
    }

    /// Puts the fence of `source` at `source_point` to `point` of this syncobj, pending or not. Both
    /// must be on the same DRM file. EINVAL if the source has no fence there.
    ///
    /// An error that the fence already has does not arrive on a timeline; one that it gets later
    /// does.
    pub fn transfer_from<E: AsFd>(
        &self,
        point: u64,
        source: &Syncobj<E>,
        source_point: u64,
    ) -> io::Result<()> {
        let mut arg = TransferArg {
            src_handle: source.handle,
            dst_handle: self.handle,
            src_point: source_point,
            dst_point: point,
            flags: 0,
            pad: 0,
        };
        // SAFETY: TransferArg is the ioctl's structure.
        unsafe { drm_ioctl(self.drm.as_fd(), TRANSFER, &mut arg) }
    }

    /// Signals the binary syncobj, without an error.
    pub fn signal(&self) -> io::Result<()> {
        self.array(SIGNAL)
    }

    /// Takes the binary syncobj's fence away.
    pub fn reset(&self) -> io::Result<()> {
        self.array(RESET)
    }

    fn array(&self, request: Ioctl) -> io::Result<()> {
        let handles = [self.handle];
        let mut arg = ArrayArg { handles: address(&handles), count_handles: 1, pad: 0 };
        // SAFETY: ArrayArg is the structure of both requests; the array outlives the call.
        unsafe { drm_ioctl(self.drm.as_fd(), request, &mut arg) }
    }

    /// Adds a signalled point to the timeline. Points that are still pending below it hold it back:
    /// it counts as signalled when they are.
    pub fn timeline_signal(&self, point: u64) -> io::Result<()> {
        let (handles, points) = ([self.handle], [point]);
        let mut arg = TimelineArrayArg {
            handles: address(&handles),
            points: address(&points),
            count_handles: 1,
            flags: 0,
        };
        // SAFETY: TimelineArrayArg is the ioctl's structure; both arrays outlive the call.
        unsafe { drm_ioctl(self.drm.as_fd(), TIMELINE_SIGNAL, &mut arg) }
    }

    /// The last point of the timeline that is signalled.
    pub fn query(&self) -> io::Result<u64> {
        self.query_with(0)
    }

    /// The last point of the timeline that has a fence.
    pub fn query_last_submitted(&self) -> io::Result<u64> {
        self.query_with(QUERY_LAST_SUBMITTED)
    }

    fn query_with(&self, flags: u32) -> io::Result<u64> {
        let handles = [self.handle];
        let mut points = [0u64];
        let mut arg = TimelineArrayArg {
            handles: address(&handles),
            points: points.as_mut_ptr().expose_provenance() as u64,
            count_handles: 1,
            flags,
        };
        // SAFETY: TimelineArrayArg is the ioctl's structure; both arrays outlive the call, and the
        // one that the kernel writes to was exposed as mutable.
        unsafe { drm_ioctl(self.drm.as_fd(), QUERY, &mut arg)? };
        Ok(points[0])
    }

    /// Waits for one point: true, or false when the time is up. See [`timeline_wait`].
    pub fn wait(&self, point: u64, what: WaitFor, timeout: Option<Duration>) -> io::Result<bool> {
        Ok(timeline_wait(self.drm.as_fd(), &[(self.handle, point)], what, timeout)?.is_some())
    }

    /// Adds 1 to an eventfd, once, when the point is there. Borrows the eventfd: the kernel keeps
    /// its own reference. Linux 6.6.
    pub fn eventfd(&self, point: u64, what: WaitFor, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let flags = match what {
            WaitFor::Signalled => 0,
            WaitFor::Available => WAIT_AVAILABLE,
        };
        let fd = eventfd.as_raw_fd();
        let mut arg = EventfdArg { handle: self.handle, flags, point, fd, pad: 0 };
        // SAFETY: EventfdArg is the ioctl's structure.
        unsafe { drm_ioctl(self.drm.as_fd(), EVENTFD, &mut arg) }
    }
}

impl<D: AsFd> Drop for Syncobj<D> {
    fn drop(&mut self) {
        let mut arg = DestroyArg { handle: self.handle, pad: 0 };
        // ENODEV of an unplugged device: the handle goes when its DRM file is closed.
        // SAFETY: DestroyArg is the ioctl's structure.
        let _ignored = unsafe { drm_ioctl(self.drm.as_fd(), DESTROY, &mut arg) };
    }
}

/// Waits until the first of several points (handle, point) is there: its place in the list, or
/// `None` when the time is up. `None` as timeout waits without end, and a point that nobody ever
/// signals is for ever.
pub fn timeline_wait(
    drm: BorrowedFd<'_>,
    points: &[(u32, u64)],
    what: WaitFor,
    timeout: Option<Duration>,
) -> io::Result<Option<usize>> {
    let (handles, points): (Vec<u32>, Vec<u64>) = points.iter().copied().unzip();
    let mut arg = TimelineWaitArg {
        handles: address(&handles),
        points: address(&points),
        timeout_nsec: timeout.map_or(Ok(i64::MAX), deadline)?,
        count_handles: u32::try_from(handles.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        flags: match what {
            WaitFor::Signalled => WAIT_FOR_SUBMIT,
            WaitFor::Available => WAIT_AVAILABLE,
        },
        first_signaled: 0,
        pad: 0,
    };
    // SAFETY: TimelineWaitArg is the ioctl's structure; both arrays outlive the call.
    match unsafe { drm_ioctl(drm, TIMELINE_WAIT, &mut arg) } {
        Ok(()) => Ok(Some(arg.first_signaled as usize)),
        Err(e) if e.raw_os_error() == Some(libc::ETIME) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The kernel takes a moment of CLOCK_MONOTONIC, so a wait that is made again after a signal ends
/// when it should.
fn deadline(timeout: Duration) -> io::Result<i64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(i64::try_from(now.saturating_add(timeout).as_nanos()).unwrap_or(i64::MAX))
}

fn address<T>(array: &[T]) -> u64 {
    array.as_ptr().expose_provenance() as u64
}

/// # Safety
///
/// As [`read_write`].
unsafe fn drm_ioctl<T>(drm: BorrowedFd<'_>, request: Ioctl, arg: &mut T) -> io::Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { read_write(drm, request, Retry::InterruptedOrAgain, arg) }
}
