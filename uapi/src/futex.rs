//! Sleeping on a word of shared memory (futex(2)), across processes.

use std::io;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// Sleeps while `word` is `expected`: true if it is another value or somebody woke us, false when
/// the time is up. `None` waits without end. Look at the word again afterwards: a wake-up says
/// nothing about its value.
///
/// Works on memory that is mapped read-only. Interrupted by a signal, it sleeps on for what is left.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> io::Result<bool> {
    // A timeout too long for the clock is no timeout.
    let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
    loop {
        let left = deadline.map(|d| timespec(d.saturating_duration_since(Instant::now())));
        let left = left.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the word and the timeout, if any, are valid for the call; the kernel only reads.
        let rc = unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, left)
        };
        if rc == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return Ok(true),
            Some(libc::ETIMEDOUT) => return Ok(false),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Wakes everybody who sleeps on `word`, in any process; says how many.
pub fn wake_all(word: &AtomicU32) -> io::Result<usize> {
    // SAFETY: the kernel uses the word's address only.
    let rc = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{wait, wake_all};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    #[test]
    fn another_value_does_not_sleep() {
        assert!(wait(&AtomicU32::new(1), 0, None).unwrap());
    }

    #[test]
    fn the_time_runs_out() {
        assert!(!wait(&AtomicU32::new(0), 0, Some(Duration::from_millis(5))).unwrap());
    }

    #[test]
    fn wakes_with_the_new_value() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while word.load(Ordering::Acquire) == 0 {
                    assert!(wait(&word, 0, Some(Duration::from_secs(20))).unwrap());
                }
                word.load(Ordering::Acquire)
            });
            word.store(7, Ordering::Release);
            wake_all(&word).unwrap();
            assert_eq!(sleeper.join().unwrap(), 7);
        });
    }
}
