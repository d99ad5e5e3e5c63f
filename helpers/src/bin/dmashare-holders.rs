//! Looks who holds a device, or what a process holds: a line with a [`Request`] on standard input, a line
//! with the answer on standard output.

use std::io::{self, BufRead, Read, Write};

use anyhow::{Context, Result, ensure};
use dmashare_helpers::holders;
use dmashare_proto::holders::Request;

/// A request that is longer is none: it names every dma-buf of a device, by some twenty bytes each.
const LONGEST: u64 = 16 << 20;

fn main() -> Result<()> {
    let mut line = String::new();
    // Not to its end: whoever asks by a socket waits for the answer.
    io::stdin().lock().take(LONGEST).read_line(&mut line).context("the request")?;
    ensure!(line.ends_with('\n') || (line.len() as u64) < LONGEST, "the request is too long");
    let answer = match serde_json::from_str(&line).context("the request")? {
        Request::Look(look) => serde_json::to_vec(&holders::look(&look).context("the look")?),
        Request::Keeps { pid, inodes } => serde_json::to_vec(&holders::keeps(pid, &inodes)),
    };
    let mut answer = answer.context("the answer")?;
    answer.push(b'\n');
    io::stdout().write_all(&answer).context("the answer")
}
