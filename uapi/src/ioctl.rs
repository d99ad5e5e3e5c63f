//! The two ways an ioctl is issued here, and the compile-time check of its numbers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{Ioctl, c_void};

/// Which errors mean "call again".
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// EINTR only.
    Interrupted,
    /// EINTR and EAGAIN, as libdrm does: a GPU that is being reset answers EAGAIN.
    InterruptedOrAgain,
}

/// An ioctl whose argument the kernel writes to.
///
/// # Safety
///
/// `T` must be the structure that `request` is defined with, and every pointer inside it must be
/// valid for what the kernel does with it.
pub(crate) unsafe fn read_write<T>(
    fd: BorrowedFd<'_>,
    request: Ioctl,
    retry: Retry,
    arg: &mut T,
) -> io::Result<()> {
    // SAFETY: passed on to the caller; `arg` is exclusive, so the kernel may write to it.
    unsafe { issue(fd, request, retry, std::ptr::from_mut(arg).cast()) }
}

/// An ioctl whose argument the kernel only reads.
///
/// # Safety
///
/// As [`read_write`], and the kernel must not write through `arg`.
pub(crate) unsafe fn write_only<T>(
    fd: BorrowedFd<'_>,
    request: Ioctl,
    retry: Retry,
    arg: &T,
) -> io::Result<()> {
    // SAFETY: passed on to the caller; the kernel does not write through the pointer.
    unsafe { issue(fd, request, retry, std::ptr::from_ref(arg).cast_mut().cast()) }
}

/// # Safety
///
/// `arg` must be what `request` expects.
unsafe fn issue(
    fd: BorrowedFd<'_>,
    request: Ioctl,
    retry: Retry,
    arg: *mut c_void,
) -> io::Result<()> {
    loop {
        // SAFETY: the caller vouches for `arg`; `fd` is open for as long as it is borrowed.
        if unsafe { libc::ioctl(fd.as_raw_fd(), request, arg) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) if retry == Retry::InterruptedOrAgain => {}
            _ => return Err(error),
        }
    }
}

/// Asserts at compile time that structures have the kernel's size and that the ioctl numbers made
/// from them are the kernel's. The numbers are those of the generic encoding; the few
/// architectures with one of their own are left out.
macro_rules! check_abi {
    (sizes { $($ty:ty: $size:literal),* $(,)? } numbers { $($name:ident: $number:literal),* $(,)? }) => {
        const _: () = {
            $(assert!(size_of::<$ty>() == $size);)*
        };
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
        const _: () = {
            $(assert!($name as u32 == $number);)*
        };
    };
}
pub(crate) use check_abi;
