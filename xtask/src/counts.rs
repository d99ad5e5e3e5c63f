//! How many tests passed, failed and were skipped, read from what their runners print.

use std::fmt;
use std::ops::AddAssign;

/// Results of a tier, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Not run.
    pub skipped: usize,
}

impl Counts {
    /// One check as a whole.
    pub fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into(), skipped: 0 }
    }

    /// A tier that cannot run.
    pub const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };

    /// A runner that fails without naming a failed test (it did not build, it was killed) has
    /// failed all the same.
    pub fn with_status(mut self, success: bool) -> Self {
        if !success && self.failed == 0 {
            self.failed = 1;
        }
        self
    }

    /// Adds what a line of libtest's output says, if it is a summary.
    pub fn add_libtest(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result: ") else { return };
        let Some((_, figures)) = rest.split_once(". ") else { return };
        for figure in figures.split("; ") {
            match figure.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.skipped += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// Adds what a line of our own runners says: `ok NAME …`, `FAILED NAME: why` or
    /// `skipped NAME: why`.
    pub fn add_own(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("ok", _)) => self.passed += 1,
            Some(("FAILED", _)) => self.failed += 1,
            Some(("skipped", _)) => self.skipped += 1,
            _ => {}
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Hands on every line that is now complete.
    pub fn push(&mut self, data: &[u8], mut line: impl FnMut(&str)) {
        self.0.extend_from_slice(data);
        while let Some(end) = self.0.iter().position(|&byte| byte == b'\n') {
            let rest = self.0.split_off(end + 1);
            line(String::from_utf8_lossy(&self.0).trim_end());
            self.0 = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: usize, failed: usize, skipped: usize) -> Counts {
        Counts { passed, failed, skipped }
    }

    #[test]
    fn libtest_summaries_add_up() {
        let mut all = Counts::default();
        for line in [
            "running 3 tests",
            "test a::b ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.00s",
        ] {
            all.add_libtest(line);
        }
        assert_eq!(all, counts(13, 2, 1));
        assert_eq!(all.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn own_lines_add_up() {
        let mut all = Counts::default();
        for line in [
            "ok coldplug 1.23 s",
            "FAILED replug: the daemon grew",
            "skipped vgem: not loaded",
            "okay, that is no result",
            "  ok neither is this",
        ] {
            all.add_own(line);
        }
        assert_eq!(all, counts(1, 1, 1));
    }

    #[test]
    fn a_failed_run_is_a_failure_once() {
        assert_eq!(counts(3, 0, 0).with_status(false), counts(3, 1, 0));
        assert_eq!(counts(3, 2, 0).with_status(false), counts(3, 2, 0));
        assert_eq!(counts(3, 0, 0).with_status(true), counts(3, 0, 0));
    }

    #[test]
    fn lines_come_whole() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for data in [&b"ok a 1"[..], b" s\nok b", b"\n", b"FAILED"] {
            lines.push(data, |line| seen.push(line.to_owned()));
        }
        assert_eq!(seen, ["ok a 1 s", "ok b"]);
    }
}
