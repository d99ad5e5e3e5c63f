//! `dmashare-bench`: each measurement beside its limit or its rival, in turns (A B A B), in one run. Only
//! ratios mean anything: machines are noisy.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use dmashare_tests::{Backend, World};

mod access;
mod growth;
mod guard;
mod holders;
mod restart;
mod share;
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
    /// A look at who holds a node, beside lsof, with 500 processes and 50,000 open files
    Holders,
    /// A dma-buf from one process to another, beside a bare relay
    Share,
    /// From a source's end to the wake of who waits for its guard, beside a bare loop
    Guard {
        /// Other fences that are pending
        #[arg(long, default_value_t = 0)]
        others: usize,
    },
    /// From the service's start to its first answer, with and without what a former life has left (simulated)
    Restart {
        /// Buffers that it has left
        #[arg(long, default_value_t = 10_000)]
        buffers: usize,
    },
    /// A share, an unplug and the service's memory, beside 10, 100, and so on objects (simulated)
    Growth {
        /// At most so many
        #[arg(long, default_value_t = 10_000)]
        most: usize,
    },
    /// The process in the middle
    #[command(hide = true)]
    Relay,
    /// The importer behind it
    #[command(hide = true)]
    PeerOfRelay,
    /// The importer behind the broker
    #[command(hide = true)]
    PeerOfBroker {
        /// Where the broker listens
        socket: PathBuf,
    },
    /// One of those processes
    #[command(hide = true)]
    Stand {
        /// Where files are
        folder: PathBuf,
        /// It has the node
        #[arg(long)]
        with_node: bool,
    },
}

fn main() -> Result<()> {
    dmashare_tests::actor::take_part();
    let cli = Cli::parse();
    let rounds = |all: usize| if cli.quick { all / 10 } else { all };
    let backend = if cli.real { Backend::SwSync } else { Backend::Simulated };
    let table = match &cli.what {
        What::Access => access::measure(&World::start(backend, "")?, rounds(500))?,
        What::Share => share::measure(&World::start(backend, "")?, rounds(500))?,
        What::Guard { others } => {
            let world = World::start(backend, guard::CONFIG)?;
            guard::measure(&world, rounds(2000), *others)?
        }
        What::Restart { buffers } => {
            dmashare_tests::hostile::new_files_limit()?;
            restart::measure(rounds(50), *buffers)?
        }
        What::Growth { most } => {
            let growth = growth::measure(*most)?;
            if cli.json {
                println!("{}", serde_json::to_string_pretty(&growth)?);
            } else {
                print!("{growth}");
            }
            return Ok(());
        }
        What::Relay => return share::relay(),
        What::PeerOfRelay => return share::peer_of_relay(),
        What::PeerOfBroker { socket } => return share::peer_of_broker(socket),
        What::Holders => holders::measure(rounds(30))?,
        What::Stand { folder, with_node } => return holders::stand(folder, *with_node),
    };
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{table}");
    }
    Ok(())
}
