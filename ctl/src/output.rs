//! Standard output, and the clock of the service's times.

use std::io::{self, Write as _};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::failure::Failure;

/// Whether anybody reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// As far as is known.
    Reads,
    /// Who reads has seen enough, as `head` has.
    Left,
}

/// Writes to standard output.
///
/// # Errors
/// It cannot be written to; that nobody reads any more is no error.
pub fn print(text: &str) -> Result<Reader, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Left),
        Err(error) => Err(Failure::Write { path: "standard output".to_owned(), error }),
    }
}

/// Writes an object for programs.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &Value) -> Result<Reader, Failure> {
    print(&format!("{value:#}\n"))
}

/// CLOCK_MONOTONIC, in nanoseconds; `None` where there is no such clock.
#[must_use]
pub fn now_ns() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(Duration::from(now).as_nanos()).ok()
}
