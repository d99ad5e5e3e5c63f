//! `dmashare-bench`: each measurement beside its limit or its rival, in turns (A B A B), in one run. Only
//! ratios mean anything: machines are noisy.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::report::{Part, Section};

mod access;
mod all;
mod detection;
mod growth;
mod guard;
mod holders;
mod idle;
mod machine;
mod other;
mod plot;
mod rate;
mod report;
mod restart;
mod share;
mod turns;
mod unplug;

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
    /// A folder for the table, the JSON and the pictures
    #[arg(long, global = true, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// What was measured elsewhere (JSON), to be put into the same table
    #[arg(long, global = true, value_name = "FILE")]
    with: Vec<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// Nothing: for what was measured before (--with), to be shown and drawn once more
    Nothing,
    /// All of these that can be measured here, one after the other
    All,
    /// begin and end of a CPU access, beside two loads, and beside DMA_BUF_IOCTL_SYNC
    Access,
    /// A look at who holds a node, beside lsof, with 500 processes and 50,000 open files
    Holders,
    /// A dma-buf from one process to another, beside bare relays, and beside the same over D-Bus
    Share,
    /// Shares a second of 1 to 256 clients, beside a bare relay (simulated)
    Rate,
    /// From a source's end to the wake of who waits for its guard, beside a bare loop
    Guard {
        /// Other fences that are pending
        #[arg(long, default_value_t = 0)]
        others: usize,
    },
    /// An unplug of a card that much was shared of, beside a bare loop and a bare broadcast
    Unplug {
        /// Guards, and imports, as many of each
        #[arg(long)]
        objects: Option<usize>,
    },
    /// From the kernel's event of a removal to the gate being closed, beside udevd's event (--real)
    Detection,
    /// From the service's start to its first answer, with and without what a former life has left (simulated)
    Restart {
        /// Buffers that it has left
        #[arg(long, default_value_t = 10_000)]
        buffers: usize,
    },
    /// A share, an unplug and the service's heap, beside 10, 100, and so on objects (simulated)
    Growth {
        /// At most so many
        #[arg(long)]
        most: Option<usize>,
    },
    /// How often an idle service wakes up (simulated)
    Idle,
    /// One of the other processes
    #[command(flatten)]
    Other(OtherProcess),
}

#[derive(Subcommand)]
#[command(hide = true)]
enum OtherProcess {
    /// The process in the middle
    #[command(hide = true)]
    Relay,
    /// The one that is asked
    #[command(hide = true)]
    AskedRelay,
    /// The one that many connect to
    #[command(hide = true)]
    AskedRelayAt {
        /// Where it listens
        path: PathBuf,
    },
    /// The importer behind a relay
    #[command(hide = true)]
    PeerOfRelay,
    /// The importer behind one that is asked
    #[command(hide = true)]
    PeerOfAskedRelay,
    /// The importer behind the broker
    #[command(hide = true)]
    PeerOfBroker {
        /// Where the broker listens
        socket: PathBuf,
    },
    /// One of many clients of a relay
    #[command(hide = true)]
    ClientOfRelay {
        /// Where it listens
        path: PathBuf,
    },
    /// One of many clients of the broker
    #[command(hide = true)]
    ClientOfBroker {
        /// Where the broker listens
        socket: PathBuf,
        /// A simulated card's node
        node: PathBuf,
    },
    /// One of the processes that have files open
    #[command(hide = true)]
    Stand {
        /// Where files are
        folder: PathBuf,
        /// It has the node
        #[arg(long)]
        with_node: bool,
    },
}

impl OtherProcess {
    fn run(&self) -> Result<()> {
        match self {
            Self::Relay => share::relay::relay(),
            Self::AskedRelay => share::relay::asked_relay(),
            Self::AskedRelayAt { path } => share::relay::asked_relay_at(path),
            Self::PeerOfRelay => share::relay::peer(),
            Self::PeerOfAskedRelay => share::relay::asked_peer(),
            Self::PeerOfBroker { socket } => share::peer_of_broker(socket),
            Self::ClientOfRelay { path } => rate::client_of_relay(path),
            Self::ClientOfBroker { socket, node } => rate::client_of_broker(socket, node),
            Self::Stand { folder, with_node } => holders::stand(folder, *with_node),
        }
    }
}

fn main() -> ExitCode {
    dmashare_tests::actor::take_part();
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let how = all::How { real: cli.real, quick: cli.quick };
    let sections = match &cli.what {
        What::Other(other) => return other.run(),
        What::Nothing => {
            ensure!(!cli.with.is_empty(), "what is to be shown? --with FILE says it");
            Vec::new()
        }
        What::All => how.all()?,
        What::Access => vec![how.access()?],
        What::Holders => vec![how.holders()?],
        What::Share => vec![how.share()?],
        What::Rate => vec![how.rate()?],
        What::Guard { others } => vec![how.guard(*others)?],
        What::Unplug { objects } => vec![how.unplug(*objects)?],
        What::Detection => vec![how.detection()?],
        What::Restart { buffers } => vec![how.restart(*buffers)?],
        What::Growth { most } => vec![how.growth(*most)?],
        What::Idle => vec![how.idle()?],
    };
    tell(cli, sections)
}

fn tell(cli: &Cli, sections: Vec<Section>) -> Result<()> {
    let mut parts = Vec::new();
    if !sections.is_empty() {
        let machine = machine::Machine::describe(cli.real)?;
        parts.push(Part { machine, quick: cli.quick, sections });
    }
    for path in &cli.with {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let others: Vec<Part> = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what --json writes", path.display()))?;
        parts.extend(others);
    }
    if cli.json {
        println!("{}", serde_json::to_string(&parts)?);
    } else {
        parts.iter().for_each(|part| println!("{part}"));
    }
    if let Some(folder) = &cli.out {
        report::write(&parts, folder)?;
        eprintln!("{}: results.md, results.json, and the pictures.", folder.display());
    }
    Ok(())
}
