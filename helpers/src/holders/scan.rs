//! The scan: every descriptor and every mapping of a process, as fast as /proc gives them. What each is, is
//! for [`Eyes`] to see.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom, StatxFlags, openat, seek, statx};
use rustix::io::Errno;

use super::eyes::Eyes;
use super::fdinfo::BufferInfo;
use super::maps::Mapped;
use super::seen::{MountNamespace, Seen};
use super::target::Target;

/// Entries of a folder that are read at once, in bytes.
const ENTRIES: usize = 32 * 1024;
/// /proc/PID/maps comes a page at a time, and a path may be as long.
const LINES: usize = 16 * 1024;
/// Numbers without a descriptor, after which counting up is the slower way.
const GAPS: u32 = 8;
/// Of a descriptor's number, and a zero.
const DIGITS: usize = 11;

/// A worker, with what it has learnt of this machine.
pub(super) struct Scanner<'a> {
    entries: Box<[MaybeUninit<u8>]>,
    lines: Box<[u8]>,
    eyes: Eyes<'a>,
    /// Mount namespaces in which paths are to be trusted: process 1's, and our own. None where files stand
    /// for nodes.
    hosts: Vec<MountNamespace>,
}

/// What became of a process.
pub(super) enum Outcome {
    /// It has something.
    Seen(Seen),
    /// It has nothing, or is gone.
    Nothing,
    /// It may not be looked into.
    Unseen,
}

impl<'a> Scanner<'a> {
    pub fn new(target: &'a Target, proc: BorrowedFd<'_>) -> Self {
        let of = |name: &CStr| {
            let dir = openat(proc, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
            MountNamespace::of(dir)
        };
        let hosts = [c"1", c"self"].into_iter().filter_map(of);
        let hosts = hosts.filter(|_| !target.has_simulated).collect();
        let entries = vec![MaybeUninit::uninit(); ENTRIES].into_boxed_slice();
        Self { entries, lines: vec![0; LINES].into_boxed_slice(), eyes: Eyes::new(target), hosts }
    }

    /// How many descriptors it has looked at, and the dma-bufs among them.
    pub fn into_findings(self) -> (u32, HashMap<u64, BufferInfo>) {
        (self.eyes.fds, self.eyes.buffers)
    }

    /// Looks into one process.
    pub fn process(&mut self, proc: BorrowedFd<'_>, pid: i32, name: &CStr) -> Outcome {
        let Ok(mut seen) = Seen::new(proc, pid, name, &self.hosts) else {
            return Outcome::Nothing;
        };
        let (fds, refused) = (self.eyes.fds, self.eyes.refused);
        let found = self.descriptors(&mut seen).and_then(|()| self.mappings(&mut seen));
        let (fds, refused) = (self.eyes.fds - fds, self.eyes.refused - refused);
        match found {
            Err(Errno::ACCESS | Errno::PERM) if seen.is_empty() => Outcome::Unseen,
            // Its folder may be listed, and that is all.
            Ok(()) if seen.is_empty() && fds > 0 && refused == fds => Outcome::Unseen,
            // What it had of them, if it has ended meanwhile.
            _ if seen.is_empty() => Outcome::Nothing,
            _ => Outcome::Seen(seen),
        }
    }

    /// The folder's size is how many it has (Linux 6.2), and the lowest numbers are given out first: most
    /// are found by counting up, which is faster than to have them listed. The rest is listed.
    fn descriptors(&mut self, seen: &mut Seen) -> Result<(), Errno> {
        let fds = open(seen, c"fd", OFlags::DIRECTORY)?;
        let size = statx(&fds, c"", AtFlags::EMPTY_PATH, StatxFlags::SIZE)?.stx_size;
        let (mut left, mut missed, mut next) = (size, 0, 0);
        while left > 0 && missed < GAPS {
            let mut digits = [0; DIGITS];
            if self.eyes.descriptor(&fds, name_of(next, &mut digits), next, seen) {
                left -= 1;
            } else {
                missed += 1;
            }
            next += 1;
        }
        if size > 0 && left == 0 {
            return Ok(());
        }
        // The folder's offsets are the numbers, behind `.` and `..`.
        seek(&fds, SeekFrom::Start(u64::from(next.unsigned_abs()) + 2))?;
        let mut entries = RawDir::new(&fds, &mut self.entries);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(fd) = number(name).filter(|&fd| fd >= next) {
                self.eyes.descriptor(&fds, name, fd, seen);
            }
        }
        Ok(())
    }

    fn mappings(&mut self, seen: &mut Seen) -> Result<(), Errno> {
        let maps = open(seen, c"maps", OFlags::empty())?;
        let mut kept = 0;
        loop {
            let read = rustix::io::read(&maps, &mut self.lines[kept..])?;
            if read == 0 {
                return Ok(());
            }
            let end = kept + read;
            let whole = self.lines[..end].iter().rposition(|&byte| byte == b'\n');
            let whole = whole.map_or(0, |at| at + 1);
            for line in self.lines[..whole].split(|&byte| byte == b'\n') {
                if let Some(mapped) = Mapped::parse(line) {
                    self.eyes.mapping(&mapped, seen);
                }
            }
            // A line that does not fit is none that is looked for.
            kept = if end - whole == LINES { 0 } else { end - whole };
            self.lines.copy_within(end - kept..end, 0);
        }
    }
}

fn open(seen: &Seen, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(&seen.dir, name, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty())
}

/// The name of a number.
fn name_of(number: i32, digits: &mut [u8; DIGITS]) -> &CStr {
    let (mut at, mut left) = (DIGITS - 1, number.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    CStr::from_bytes_with_nul(&digits[at..]).unwrap_or_default()
}

/// A name that is a number; `.` and `..` are not.
fn number(name: &CStr) -> Option<i32> {
    let digits = name.to_bytes();
    digits.iter().try_fold(0i32, |sum, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        sum.checked_mul(10)?.checked_add(i32::try_from(digit).ok()?)
    })
}

/// # Errors
/// /proc cannot be opened.
pub(super) fn proc_folder() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc", flags, Mode::empty())?)
}

/// All processes that there are.
///
/// # Errors
/// /proc cannot be read.
pub(super) fn processes(proc: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
    let mut buffer = vec![MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(proc.as_fd(), &mut buffer);
    let mut pids = Vec::new();
    while let Some(entry) = entries.next() {
        pids.extend(number(entry?.file_name()));
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (fd, name) in
            [(0, c"0"), (9, c"9"), (10, c"10"), (1203, c"1203"), (i32::MAX, c"2147483647")]
        {
            assert_eq!((name_of(fd, &mut [0; DIGITS]), number(name)), (name, Some(fd)));
        }
        for other in [c".", c"..", c"self", c"-1", c"2147483648"] {
            assert_eq!(number(other), None);
        }
    }
}
