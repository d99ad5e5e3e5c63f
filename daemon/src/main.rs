//! The service's command line.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use dmashared::bus::BusAddress;
use dmashared::catalogue::Journal;
use dmashared::config::{Config, Paths};
use dmashared::shell::start::{Options, run};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

#[cfg(test)]
mod manual;

/// Brokers dma-bufs and fences between processes on different GPUs, and survives their unplug.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Read this file, and the drop-ins beside it, in place of /etc/dmashare/dmashared.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    /// The bus to be on: `system`, `session`, or a D-Bus address.
    #[arg(long, value_name = "BUS", env = "DMASHARE_BUS", default_value = "system")]
    bus: BusAddress,
    /// Listen here in place of the configured socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Keep the file of used ids here in place of the configured folder.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Serve the simulated devices of this folder (builds with the feature `simulate` only).
    #[arg(long, value_name = "DIR")]
    simulate: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let paths = args.config.clone().map_or_else(Paths::system, Paths::file);
    let mut config = match Config::load(&paths) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("dmashared: {error}");
            return ExitCode::from(78); // EX_CONFIG
        }
    };
    if args.check_config {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    config.broker.socket = args.socket.unwrap_or(config.broker.socket);
    config.broker.state_dir = args.state_dir.unwrap_or(config.broker.state_dir);
    start_log(&config.log.level);
    let options = Options { bus: args.bus, simulate: args.simulate };
    match serve(config, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(config, options))
}

/// To the journal with its fields where the service manager has connected it, else to stderr.
fn start_log(level: &str) {
    let filter = || EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = std::env::var_os("JOURNAL_STREAM")
        .and_then(|_| Journal::connect().ok())
        .map(|journal| journal.with_filter(filter()));
    let stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .with_filter(filter())
    });
    tracing_subscriber::registry().with(journal).with(stderr).init();
}
