//! What C passes, looked at before it is used.
//!
//! The types here are pointers as the header describes them; only a C caller makes one, and keeps what
//! the header says: not NULL means good for reading or writing that type. That is the ground of every
//! SAFETY below.

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use dmashare::{Access, Policy, Protection};

use crate::failure::Failure;

/// To be read.
#[repr(transparent)]
pub struct In<T>(*const T);

/// To be written.
#[repr(transparent)]
pub struct Out<T>(*mut T);

/// A struct with a version, to be written as far as its version goes.
#[repr(transparent)]
pub struct InOut<T>(*mut T);

impl<T: Copy> In<T> {
    pub(crate) fn get(&self, what: &str) -> Result<T, Failure> {
        if self.0.is_null() {
            return Err(Failure::invalid(format!("{what} is NULL")));
        }
        // SAFETY: see the module.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// `count` in a row.
    pub(crate) fn list(&self, count: usize, what: &str) -> Result<Vec<T>, Failure> {
        if self.0.is_null() {
            return Err(Failure::invalid(format!("{what} is NULL")));
        }
        // SAFETY: see the module: the header says how many there are.
        Ok((0..count).map(|at| unsafe { self.0.wrapping_add(at).read_unaligned() }).collect())
    }
}

impl<T> In<T> {
    /// One that was inside a struct of C's.
    pub(crate) fn of(pointer: *const T) -> Self {
        Self(pointer)
    }
}

impl In<c_char> {
    /// A text, or `None` for NULL.
    pub(crate) fn text(&self) -> Option<&CStr> {
        // SAFETY: see the module: it ends with a zero byte, and lives as long as the call.
        (!self.0.is_null()).then(|| unsafe { CStr::from_ptr(self.0) })
    }
}

/// Structs that begin with a version, in which all bits zero is a value.
///
/// # Safety
/// `#[repr(C)]`, the first field a `u32`, and valid with all bits zero.
pub(crate) unsafe trait Versioned: Copy {
    /// The bytes of each version, from 1 on.
    const SIZES: &'static [usize];

    fn known(version: u32) -> Result<usize, Failure> {
        let last = Self::SIZES.len();
        match (version as usize).min(last).checked_sub(1) {
            // From a newer header: what is known of it.
            Some(index) => Ok(Self::SIZES[index]),
            None => Err(Failure::invalid("a struct's version is 0; set it to its constant")),
        }
    }
}

// SAFETY: `#[repr(C)]`, integers, the first a u32.
unsafe impl Versioned for crate::failure::ErrorInfo {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl<T: Versioned> In<T> {
    /// What is there as far as its version goes, zeros beyond; `None` for NULL.
    pub(crate) fn versioned(&self) -> Result<Option<T>, Failure> {
        if self.0.is_null() {
            return Ok(None);
        }
        // SAFETY: see the module: it begins with its version, in the oldest of callers too.
        let size = T::known(unsafe { self.0.cast::<u32>().read_unaligned() })?;
        let mut value = MaybeUninit::<T>::zeroed();
        let to = value.as_mut_ptr().cast::<u8>();
        // SAFETY: the caller's struct is as long as its version says, ours at least as long.
        unsafe { to.copy_from_nonoverlapping(self.0.cast(), size) };
        // SAFETY: zeros are valid (`Versioned`), and what was copied is a T's beginning.
        Ok(Some(unsafe { value.assume_init() }))
    }
}

impl<T: Versioned> InOut<T> {
    /// Writes all but the version.
    pub(crate) fn put(&self, value: T) -> Result<(), Failure> {
        if self.0.is_null() {
            return Err(Failure::invalid("the struct to fill is NULL"));
        }
        // SAFETY: see the module: it begins with its version.
        let size = T::known(unsafe { self.0.cast::<u32>().read_unaligned() })?;
        let head = size_of::<u32>();
        let from = (&raw const value).cast::<u8>().wrapping_add(head);
        let to = self.0.cast::<u8>().wrapping_add(head);
        // SAFETY: both are at least as long as the version says, which is longer than its own field.
        unsafe { to.copy_from_nonoverlapping(from, size - head) };
        Ok(())
    }
}

impl<T> Out<T> {
    /// Refuses NULL, before anything is done that the result would be needed of.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.0.is_null() {
            return Err(Failure::invalid("there is no place for the result: NULL"));
        }
        Ok(())
    }

    /// Writes the result; the caller of this has checked.
    pub(crate) fn put(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: see the module.
            unsafe { self.0.write_unaligned(value) };
        }
    }
}

/// A descriptor that is open now. It stays the caller's, for the length of the call.
pub(crate) fn fd(fd: c_int, what: &str) -> Result<BorrowedFd<'static>, Failure> {
    open(fd, what)?;
    // SAFETY: it is open, and the header asks the caller to leave it so until the call returns.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A descriptor that becomes ours.
pub(crate) fn take_fd(fd: c_int, what: &str) -> Result<OwnedFd, Failure> {
    open(fd, what)?;
    // SAFETY: it is open, and the header says that it is given away.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open(fd: c_int, what: &str) -> Result<(), Failure> {
    // SAFETY: asks for flags; any number will do.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(Failure::new(libc::EBADF, format!("{what}: {fd} is no open descriptor")));
    }
    Ok(())
}

/// Below zero is for ever.
pub(crate) fn timeout(ns: i64) -> Option<Duration> {
    u64::try_from(ns).ok().map(Duration::from_nanos)
}

/// 0 is the broker's default.
pub(crate) fn deadline(ns: i64) -> Result<Option<Duration>, Failure> {
    match u64::try_from(ns) {
        Ok(0) => Ok(None),
        Ok(ns) => Ok(Some(Duration::from_nanos(ns))),
        Err(_) => Err(Failure::invalid("a deadline lies in the past; 0 is the broker's default")),
    }
}

/// A time as C has it.
pub(crate) fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) fn access(access: u32) -> Result<Access, Failure> {
    match access {
        1 => Ok(Access::Read),
        2 => Ok(Access::Write),
        3 => Ok(Access::ReadWrite),
        _ => Err(Failure::invalid(format!("{access} is no access"))),
    }
}

pub(crate) fn policy(policy: u32) -> Result<Policy, Failure> {
    match policy {
        0 => Ok(Policy::Auto),
        1 => Ok(Policy::Guard),
        2 => Ok(Policy::Pass),
        _ => Err(Failure::invalid(format!("{policy} is no policy"))),
    }
}

pub(crate) fn protection(protection: u32) -> Result<Protection, Failure> {
    match protection {
        0 => Ok(Protection::Read),
        1 => Ok(Protection::ReadWrite),
        _ => Err(Failure::invalid(format!("{protection} is no protection"))),
    }
}
