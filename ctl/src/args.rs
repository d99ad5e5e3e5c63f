//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;
use dmasharectl::bus::Bus;
use dmasharectl::failure::exit;
use dmasharectl::live::EjectOptions;
use dmasharectl::rehearse;
use dmasharectl::span::span;

/// Below the help of the whole: the exit codes, as the manual has them too.
fn after() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, says) in exit::ALL {
        text += &format!("  {code}  {says}\n");
    }
    text + "\nColours are shown on a terminal only, and not if NO_COLOR is set."
}

/// Shows what the dmashare broker has, who holds a GPU and what an unplug did, and ejects GPUs.
#[derive(Debug, Parser)]
#[command(name = "dmasharectl", version, after_help = after(), max_term_width = 100)]
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
    /// Who holds a GPU, also who knows nothing of the broker, and what would be in an eject's way
    Holders(HoldersArgs),
    /// Eject a GPU, so that it is safe to unplug; refused while anybody holds on to it
    Eject(EjectArgs),
    /// Have the kernel look for GPUs, as after an eject, and say which came
    Attach(AttachArgs),
    /// What your programs make the service hold, and how much they may; as root: everybody's
    Quotas,
    /// Counters and sums for monitoring, in the text format of Prometheus
    Metrics(MetricsArgs),
    /// What happens, a line each, as it happens
    Watch,
    /// A screen of devices, clients, ejects and events, as they change
    Top,
    /// What an unplug did, step by step, in microseconds
    Report(ReportArgs),
    /// Why a fence failed or an import was taken back, also after it is gone
    Cause(CauseArgs),
    /// Act as if a GPU were unplugged, to see what programs do then; the hardware is left alone
    Rehearse(RehearseArgs),
    /// What this machine offers, what is missing, and how to get it
    Doctor,
    /// Say on the desktop what becomes of GPUs; a unit of the user's runs it (dmashare-notify)
    Notify,
    /// Completions for a shell, on standard output
    Completions {
        /// For which
        shell: Shell,
    },
    /// Writes the manual's pages into a folder.
    #[command(hide = true)]
    Man {
        /// Which.
        dir: PathBuf,
    },
}

/// Of which device, and how it is shown.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Your own processes are shown to you; for those of others polkit may ask for a password.")]
pub struct HoldersArgs {
    /// PCI address, name, node (/dev/dri/card1) or id (d1) of a device
    pub device: String,
    /// By session and unit, then process, then what it holds
    #[arg(long)]
    pub tree: bool,
}

/// What to eject, and how.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Whoever delays ejects is waited for, clients are asked to let go, and programs that only know udev are \
nudged (a synthetic `remove`, which compositors answer by closing the card). Then it is looked who holds \
on: if anybody does it is refused, all is taken back, and who it was is shown. Else every function of the \
slot is removed, the GPU last.

Ctrl-C cancels and waits until all is taken back; a second one leaves at once. From the removal on it is \
too late to cancel.")]
pub struct EjectArgs {
    /// PCI address, name, node (/dev/dri/card1) or id (d1) of a device
    pub device: String,
    /// End who holds on, but for init, the display manager and compositors; twice: them too
    #[arg(long, action = ArgAction::Count)]
    pub force: u8,
    /// How long all of it may take: 500ms, 2s, 1min; at most an hour [default: the service's, 10s]
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub timeout: Option<Duration>,
    /// Only say who would be in the way; nothing is asked of anybody, nothing is changed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not nudge programs that only know udev
    #[arg(long)]
    pub no_nudge: bool,
    /// Also take the authorisation from the device's Thunderbolt domain
    #[arg(long)]
    pub deauthorize: bool,
}

impl EjectArgs {
    /// As the service is to be told.
    pub fn options(&self) -> EjectOptions {
        EjectOptions {
            force: self.force.min(2),
            timeout: self.timeout,
            dry_run: self.dry_run,
            no_nudge: self.no_nudge,
            deauthorize: self.deauthorize,
        }
    }
}

/// Where metrics go.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Counters begin with the service's process, which is not started for this (dmashare_up says whether it \
runs). With --textfile they are written for node_exporter's textfile collector, and never half: a file of \
another name is put in the place of the last one.")]
pub struct MetricsArgs {
    /// Write them here (dmashare.prom in the collector's folder), in place of standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub textfile: Option<PathBuf>,
}

/// How long it is waited for.
#[derive(Debug, ClapArgs)]
pub struct AttachArgs {
    /// How long a device is waited for
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "5s")]
    pub timeout: Duration,
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
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "0s")]
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
