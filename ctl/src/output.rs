//! Standard output, and the clock of the service's times.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
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

/// Writes a file that others read at any time: it is the last one, or this one, and never half.
///
/// # Errors
/// It cannot be written there; then the last one stays.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    // Never through what somebody else has put there: root may write into others' folders.
    let mut file = fs::File::create_new(&new)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The first error is the one to be told.
        _ = fs::remove_file(&new);
    }
    written
}

/// CLOCK_MONOTONIC, in nanoseconds; `None` where there is no such clock.
#[must_use]
pub fn now_ns() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(Duration::from(now).as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dmashare.prom");
        write_whole(&path, "one\n").unwrap();
        write_whole(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        // A folder cannot be replaced by a file.
        fs::create_dir(dir.path().join("folder")).unwrap();
        // What is in the place of the new file is not written to, and not taken away.
        let other = dir.path().join("other");
        fs::write(&other, "other\n").unwrap();
        let there = dir.path().join(format!("dmashare.prom.{}", std::process::id()));
        std::os::unix::fs::symlink(&other, &there).unwrap();
        write_whole(&path, "four\n").unwrap_err();
        assert_eq!(fs::read_to_string(&other).unwrap(), "other\n");
        fs::remove_file(&there).unwrap();
        fs::remove_file(&other).unwrap();
        write_whole(&dir.path().join("folder"), "three\n").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
