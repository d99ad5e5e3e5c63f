//! What long work says while it goes on: a line at the start and at the end of every step.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;

/// Where the lines go. Standard output stays free for results.
pub enum Progress {
    /// To standard error.
    Shown,
    /// Into a log, for work in the background.
    Logged(Mutex<File>),
}

impl Progress {
    /// One line.
    pub fn say(&self, line: &str) {
        let line = format!("{line}\n");
        let written = match self {
            Self::Shown => std::io::stderr().write_all(line.as_bytes()),
            Self::Logged(file) => file.lock().expect("no holder panics").write_all(line.as_bytes()),
        };
        // There is no better place to complain in.
        if written.is_err() {
            std::process::exit(1);
        }
    }

    /// A step: what is done, then how long it took.
    pub fn step<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.say(&format!("[ .. ] {what}"));
        let start = Instant::now();
        let result = work();
        let mark = if result.is_ok() { " ok " } else { "fail" };
        self.say(&format!("[{mark}] {what} ({:.1} s)", start.elapsed().as_secs_f64()));
        result
    }
}
