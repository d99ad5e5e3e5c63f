//! Reading a mapping in a loop while its device goes away.

use anyhow::Result;
use dmashare::Access;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::{Deserialize, Serialize};

use super::objects::Imported;
use crate::clock::now_ns;

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Reads whose bracket ended well.
    pub good: u64,
    /// Whether a bracket that was open over the loss ended with it.
    pub end_fails: bool,
    /// When it was told, CLOCK_MONOTONIC in nanoseconds.
    pub told_ns: u64,
    /// The errno of the loss.
    pub errno: i32,
    /// Whether `begin` failed with the loss afterwards, every time.
    pub begin_fails: bool,
    /// Bytes of the mapping that are not 0 after it was revoked.
    pub left_over: u64,
}

/// Reads until the loss is told. A SIGBUS or SIGSEGV ends the process with status 70.
pub(super) fn read_until_lost(import: &Imported, at_it: impl Fn()) -> Result<Reading> {
    for signal in [Signal::SIGBUS, Signal::SIGSEGV] {
        let action = SigAction::new(SigHandler::Handler(die), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler calls nothing but write(2) and _exit(2), which it may.
        unsafe { sigaction(signal, &action)? };
    }
    let memory = &import.memory;
    let mut bytes = vec![0; memory.len()];
    let mut good = 0;
    let held = memory.begin(Access::Read)?;
    let lost = loop {
        let bracket = match memory.begin(Access::Read) {
            Ok(bracket) => bracket,
            Err(error) => break error,
        };
        memory.copy_to_slice(0, &mut bytes)?;
        match bracket.end() {
            Ok(()) => {
                good += 1;
                if good == 3 {
                    at_it();
                }
            }
            Err(error) => break error,
        }
    };
    let told_ns = now_ns();
    if !lost.is_device_lost() {
        return Err(lost.into());
    }
    let end_fails = held.end().is_err_and(|error| error.is_device_lost());
    // Whoever meets the loss has the mapping revoked when the call returns.
    memory.copy_to_slice(0, &mut bytes)?;
    let begin_fails =
        (0..100).all(|_| memory.begin(Access::Read).is_err_and(|error| error.is_device_lost()));
    Ok(Reading {
        good,
        end_fails,
        told_ns,
        errno: lost.errno(),
        begin_fails,
        left_over: bytes.iter().filter(|&&byte| byte != 0).count() as u64,
    })
}

extern "C" fn die(_: libc::c_int) {
    const TEXT: &[u8] = b"a read of a mapping was met by a signal\n";
    // SAFETY: the text is valid for its length; write(2) is async-signal-safe.
    unsafe { libc::write(2, TEXT.as_ptr().cast(), TEXT.len()) };
    // SAFETY: async-signal-safe, and it does not return.
    unsafe { libc::_exit(70) }
}
