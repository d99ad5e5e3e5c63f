//! Writes to sysfs, for one request: a [`dmashare_proto::sysfs::Request`] on standard input, its `Answer`s
//! on standard output.

use std::io::{self, BufRead as _};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use dmashare_helpers::pci::{self, Place};

/// A request is some device names.
const LONGEST: u64 = 64 * 1024;

/// Writes to sysfs for dmashared: asks programs to let go of a GPU, and has the kernel remove it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where sysfs is.
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    sysfs: PathBuf,
    /// Do it in this folder of simulated devices (builds with the feature `simulate` only).
    #[arg(long, value_name = "DIR")]
    simulate: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let place = match args.simulate {
        None => Place::Sysfs(args.sysfs),
        #[cfg(feature = "simulate")]
        Some(folder) => Place::Simulated(folder),
        #[cfg(not(feature = "simulate"))]
        Some(_) => anyhow::bail!("this build has no simulated devices"),
    };
    let mut line = String::new();
    io::Read::take(io::stdin().lock(), LONGEST).read_line(&mut line).context("the request")?;
    let request = serde_json::from_str(&line).context("the request")?;
    pci::serve(&place, request, &mut io::stdout().lock());
    Ok(())
}
