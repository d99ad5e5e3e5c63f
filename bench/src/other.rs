//! The other processes of a benchmark.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// One of them. Dropped, it is killed.
pub struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It fails where the process has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Other {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        Ok(Self(command.spawn().with_context(|| format!("cannot start {}", program.display()))?))
    }

    /// Starts this program with other words, between two sockets or files.
    pub fn own<W: AsRef<OsStr>>(
        words: &[W],
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
    ) -> Result<Self> {
        let program = std::env::current_exe()?;
        Self::start(Command::new(program).args(words).stdin(stdin).stdout(stdout))
    }
}

/// A process that says a byte when it is ready, and one for each buffer that it has.
pub struct Peer {
    _process: Other,
    words: UnixStream,
}

impl Peer {
    /// Starts it, and waits for its first word. `command` gets its end of the words as its standard
    /// output.
    pub fn start(command: &mut Command) -> Result<Self> {
        let (words, its_words) = UnixStream::pair()?;
        let process = Other::start(command.stdout(OwnedFd::from(its_words)))?;
        let mut peer = Self { _process: process, words };
        peer.words.read_exact(&mut [0]).with_context(|| {
            format!("{} did not start", Path::new(command.get_program()).display())
        })?;
        Ok(peer)
    }

    /// This program with other words.
    pub fn own<W: AsRef<OsStr>>(words: &[W], stdin: impl Into<Stdio>) -> Result<Self> {
        Self::start(Command::new(std::env::current_exe()?).args(words).stdin(stdin))
    }

    /// Waits for its word.
    pub fn has_it(&mut self) {
        self.words.read_exact(&mut [0]).expect("the other process's word");
    }

    /// What it says.
    pub fn words(&mut self) -> &mut UnixStream {
        &mut self.words
    }
}

/// Says that word.
pub fn say(words: &mut impl Write) -> Result<()> {
    words.write_all(&[1])?;
    Ok(words.flush()?)
}
