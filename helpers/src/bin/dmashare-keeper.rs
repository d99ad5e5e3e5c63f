//! Holds what dmashared gives it, by the connection on standard input, until that is closed at every end.

use std::io;
use std::os::fd::AsFd as _;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    dmashare_helpers::keeper::serve(io::stdin().as_fd()).context("the broker's connection")
}
