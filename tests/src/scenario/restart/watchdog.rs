//! The service stands still, as a whole or the reactor's thread alone: systemd, which is told that it
//! lives when the main loop and the reactor have both turned, ends it and starts it again, and it goes on
//! with what it had.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::goes_on;
use crate::process::eventually;
use crate::{BOUND, Process, World};

/// The service feeds it after half of that, which leaves a slow machine as long again.
const PERIOD: Duration = Duration::from_secs(16);
/// What the reactor's thread is called.
const REACTOR: &str = "fences";

/// All of it: stopped by a signal.
pub(in crate::scenario) fn all(world: &mut World) -> Result<()> {
    ended(world, |broker| Ok(kill(Pid::from_raw(broker.0), Signal::SIGSTOP)?))
}

/// The reactor alone; the main loop turns on.
pub(in crate::scenario) fn reactor(world: &mut World) -> Result<()> {
    ended(world, |broker| {
        let thread = Pid::from_raw(broker.thread(REACTOR)?);
        hold(thread)?;
        // A thread that is held has been seen to end before its process is over.
        let ended = eventually("the service is ended, whose reactor is stuck", BOUND, || {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            Ok(matches!(
                waitpid(thread, Some(flags))?,
                WaitStatus::Exited(..) | WaitStatus::Signaled(..)
            ))
        });
        if ended.is_err() {
            // So that it can be restarted.
            ptrace::detach(thread, None)?;
        }
        ended
    })
}

fn ended(world: &mut World, stands_still: impl Fn(Process) -> Result<()>) -> Result<()> {
    let watched = world.watch_service(PERIOD)?;
    watched.is_fed()?;
    goes_on(world, |_| watched.ends(&stands_still))
}

/// Stops a thread of another process, and no other one of it.
fn hold(thread: Pid) -> Result<()> {
    ptrace::seize(thread, ptrace::Options::empty()).context("PTRACE_SEIZE")?;
    ptrace::interrupt(thread).context("PTRACE_INTERRUPT")?;
    match waitpid(thread, Some(WaitPidFlag::__WALL))? {
        WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => Ok(()),
        other => bail!("the thread was to stop, and {other:?}"),
    }
}
