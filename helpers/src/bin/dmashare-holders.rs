//! Looks who holds a device: a [`dmashare_proto::holders::Look`] on standard input, `Holders` on standard
//! output.

use std::io;

use anyhow::{Context, Result};
use dmashare_helpers::holders;

fn main() -> Result<()> {
    let look = serde_json::from_reader(io::stdin().lock()).context("the request")?;
    let found = holders::look(&look).context("the look")?;
    serde_json::to_writer(io::stdout().lock(), &found).context("the answer")
}
