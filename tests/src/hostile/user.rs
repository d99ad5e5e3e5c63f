//! Being somebody else for a moment.

use std::io;

use anyhow::{Context, Result, anyhow};

use crate::scenario::Skip;

/// Runs something on a thread whose effective user is another one, though it may open what root
/// may: whoever it connects to sees that user. Skips where this process is not root.
pub fn as_user<R: Send>(uid: u32, f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Skip("only root can act as another user".to_owned()).into());
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user(uid).context("become another user")?;
            f()
        });
        thread.join().map_err(|_| anyhow!("the other user's thread panicked"))?
    })
}

/// For this thread alone: the system call itself, since the C library would do it for all threads.
fn become_user(uid: u32) -> io::Result<()> {
    let keep = -1_i64;
    // SAFETY: it takes three numbers and changes the credentials of the calling thread, which ends
    // with what it was started for.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, keep, i64::from(uid), keep) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: likewise; root is this thread's real user still, so it may.
    unsafe { libc::syscall(libc::SYS_setfsuid, 0_i64) };
    Ok(())
}

/// Raises this process's limit of open files, as far as it goes: floods need many.
pub fn new_files_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
