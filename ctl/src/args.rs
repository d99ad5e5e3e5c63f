//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use dmasharectl::bus::Bus;
use dmasharectl::rehearse;

const AFTER: &str = "\
Exit codes:
  0  ok
  1  failure (doctor: something that is needed is missing)
  2  wrong usage
  3  the service or the bus cannot be reached
  4  no such device, or the name fits several; no such object

Colours are shown on a terminal only, and not if NO_COLOR is set.";

/// Shows what the dmashare broker has, and what an unplug did.
#[derive(Debug, Parser)]
#[command(name = "dmasharectl", version, after_help = AFTER, max_term_width = 100)]
pub struct Args {
    /// For programs: JSON, in the shapes that JSON.md describes
    #[arg(long, global = true)]
    pub json: bool,
    /// Where the service is: `system`, `session`, or a D-Bus address
    #[arg(long, global = true, env = "DMASHARE_BUS", default_value = "system", value_name = "BUS")]
    pub bus: Bus,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The service, its devices and its clients
    Status,
    /// The GPUs: nodes, whether they can be pulled and why, what is shared of them
    Devices,
    /// What an unplug did, step by step, in microseconds
    Report(ReportArgs),
    /// Why a fence failed or an import was taken back, also after it is gone
    Cause(CauseArgs),
    /// Act as if a GPU were unplugged, to see what programs do then; the hardware is left alone
    Rehearse(RehearseArgs),
    /// What this machine offers, what is missing, and how to get it
    Doctor,
}

/// Which object.
#[derive(Debug, ClapArgs)]
pub struct CauseArgs {
    /// The id of a fence, of an import, or of a timeline, as its owner has it
    pub object: u64,
    /// The timeline's point
    #[arg(default_value_t = 0)]
    pub point: u64,
}

/// Whose loss, of what, and when.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The device is lost for its clients as by an unplug, with the cause `rehearsed`, and comes back as a \
new device. For one client (--client) nobody else notices; what it shares with others goes on.

A client of one's own is free to be chosen. For other users' clients, and for all, polkit asks for \
an administrator's password; as root it does not.")]
pub struct RehearseArgs {
    /// PCI address, name, node (/dev/dri/card1) or id (d1) of a device
    pub device: String,
    /// For this client alone (c6, as `status` shows it)
    #[arg(long, value_name = "N", value_parser = rehearse::client)]
    pub client: Option<u64>,
    /// For all clients (the default)
    #[arg(long, conflicts_with = "client")]
    pub all: bool,
    /// Not now, but in this time: 500ms, 2s, 1min; at most an hour
    #[arg(long, value_name = "TIME", value_parser = rehearse::time, default_value = "0s")]
    pub after: Duration,
}

/// Which unplug.
#[derive(Debug, ClapArgs)]
pub struct ReportArgs {
    /// PCI address, name, node (/dev/dri/card1) or id (d1) of a device: its newest unplug
    #[arg(conflicts_with = "last")]
    pub device: Option<String>,
    /// The newest unplug of any device (the default)
    #[arg(long, conflicts_with = "all")]
    pub last: bool,
    /// Every unplug that is kept (of DEVICE), oldest first
    #[arg(long)]
    pub all: bool,
    /// Also draw it as a timeline into this file; `-` for the picture alone on standard output
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    pub svg: Option<PathBuf>,
}
