//! `dmashare-bench`: each measurement beside its limit or its rival, in turns (A B A B), in one run. Only
//! ratios mean anything: machines are noisy.

use anyhow::Result;
use clap::{Parser, Subcommand};
use dmashare_tests::{Backend, World};

mod access;
mod turns;

/// Measures dmashare beside its limits
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// On the devices of the virtual machine, with guards by sw_sync, and not on simulated ones
    #[arg(long, global = true)]
    real: bool,
    /// A tenth of the rounds
    #[arg(long, global = true)]
    quick: bool,
    /// JSON, and no table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// begin and end of a CPU access, beside two loads, and beside DMA_BUF_IOCTL_SYNC
    Access,
}

fn main() -> Result<()> {
    dmashare_tests::actor::take_part();
    let cli = Cli::parse();
    let backend = if cli.real { Backend::SwSync } else { Backend::Simulated };
    let world = World::start(backend, "")?;
    let rounds = if cli.quick { 50 } else { 500 };
    let table = match cli.what {
        What::Access => access::measure(&world, rounds)?,
    };
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{table}");
    }
    Ok(())
}
