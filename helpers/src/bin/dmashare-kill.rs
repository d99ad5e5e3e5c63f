//! Ends a process, for the broker alone: a line with a [`Request`] on standard input, which is a socket, a
//! line with an `Answer` on standard output.

use std::io::{self, BufRead, Read, Write};

use anyhow::{Context, Result};
use dmashare_helpers::kill;
use dmashare_proto::kill::Request;

/// A request is two numbers and a word.
const LONGEST: u64 = 1024;

fn main() -> Result<()> {
    kill::check_asker(io::stdin()).context("who asks")?;
    let mut line = String::new();
    io::stdin().lock().take(LONGEST).read_line(&mut line).context("the request")?;
    let request: Request = serde_json::from_str(&line).context("the request")?;
    let mut answer = serde_json::to_vec(&kill::serve(request)).context("the answer")?;
    answer.push(b'\n');
    io::stdout().write_all(&answer).context("the answer")
}
