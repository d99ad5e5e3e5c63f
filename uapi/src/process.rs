//! Whether this is still the process that something was made in, or a child that was forked since.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// The first word of a page that the kernel clears in a child (MADV_WIPEONFORK, Linux 4.14); null
/// before the first call.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
/// A child goes on counting where its parent was: what it inherited has smaller numbers.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A number that is another one after a fork, in the child. Two loads, no system call.
///
/// Where the kernel cannot clear a page it is the process's id, by a system call.
#[must_use]
pub fn epoch() -> u32 {
    let word = WORD.load(Ordering::Acquire);
    let word = if word.is_null() { make() } else { word };
    // SAFETY: null, or the page that `make` has published, which is never unmapped.
    let Some(word) = (unsafe { word.as_ref() }) else { return std::process::id() };
    match word.load(Ordering::Relaxed) {
        0 => {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            match word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => next,
                Err(other) => other,
            }
        }
        epoch => epoch,
    }
}

/// Makes the page; null if it cannot be.
#[cold]
fn make() -> *mut AtomicU32 {
    let size = NonZeroUsize::new(crate::memfd::page_size()).unwrap_or(NonZeroUsize::MIN);
    let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new range, chosen by the kernel.
    let Ok(page) = (unsafe { mmap_anonymous(None, size, rw, MapFlags::MAP_PRIVATE) }) else {
        return std::ptr::null_mut();
    };
    // SAFETY: the range is ours, and nothing is in it yet.
    let advised = unsafe { madvise(page, size.get(), MmapAdvise::MADV_WIPEONFORK) };
    let null = std::ptr::null_mut();
    let new: *mut AtomicU32 = page.cast().as_ptr();
    let mine = advised.is_ok()
        && WORD.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if !mine {
        // SAFETY: the range is ours, and nobody else has seen it.
        unsafe { munmap(page, size.get()) }.ok();
    }
    WORD.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::epoch;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    #[test]
    fn another_one_in_a_child_and_in_its_child() {
        let own = epoch();
        assert_eq!(epoch(), own);
        // SAFETY: the child calls nothing but `epoch`, `fork`, `waitpid` and `_exit`.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let child = epoch();
                let differs = child != own && child == epoch();
                // SAFETY: as above.
                let grandchild = match unsafe { fork() } {
                    Ok(ForkResult::Child) => {
                        let ok = epoch() != own && epoch() != child;
                        // SAFETY: ends the child at once.
                        unsafe { libc::_exit(i32::from(!ok)) }
                    }
                    Ok(ForkResult::Parent { child }) => waitpid(child, None).ok(),
                    Err(_) => None,
                };
                let ok = differs && matches!(grandchild, Some(WaitStatus::Exited(_, 0)));
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!ok)) }
            }
            ForkResult::Parent { child } => {
                assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))));
            }
        }
        assert_eq!(epoch(), own);
    }
}
