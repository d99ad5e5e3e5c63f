//! A program that says what it does, line by line.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Process;

/// A program with its lines. Killed when dropped.
pub struct Watched {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Watched {
    /// Starts it; its standard output and error are read.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        // The command holds the pipe's writing ends, and would keep it open.
        *command = Command::new("true");
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, said: Vec::new() })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> Process {
        Process(self.child.id().cast_signed())
    }

    /// The next line that `is` wants, of those not read yet.
    ///
    /// # Errors
    /// It did not come in time, or the program has ended: what it said is in the error.
    pub fn wait(&mut self, bound: Duration, is: impl Fn(&str) -> bool) -> Result<String> {
        let end = Instant::now() + bound;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if is(&line) {
                        return Ok(line);
                    }
                }
                Err(why) => {
                    bail!("a line was waited for ({why}); it said:\n{}", self.said.join("\n"));
                }
            }
        }
    }

    /// Waits for its end; whether that was a good one.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn ended(&mut self, bound: Duration) -> Result<bool> {
        let end = Instant::now() + bound;
        // Its lines end with it.
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            self.said.push(line);
        }
        if Instant::now() >= end {
            bail!("it goes on; it said:\n{}", self.said.join("\n"));
        }
        Ok(self.child.wait()?.success())
    }

    /// All that it has said and that was waited for.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.join("\n")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Neither fails but for one that has been waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
