//! The command line, of the demo and of the processes that it starts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::Machine;

/// Pulls an eGPU in the middle of a frame, and tells what happened and when.
#[derive(Parser)]
#[command(name = "dmashare-demo", version, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// One of the demo's own processes.
    #[command(subcommand)]
    pub part: Option<Part>,
    /// What the demo runs on and writes.
    #[command(flatten)]
    pub run: RunOptions,
}

/// The demo itself.
#[derive(Args)]
pub struct RunOptions {
    /// What it runs on.
    #[arg(long, value_name = "simulated|vm", default_value_t = Machine::Simulated)]
    pub machine: Machine,
    /// Draw the timeline into this file.
    #[arg(long, value_name = "PATH", default_value = "demo.svg")]
    pub svg: PathBuf,
    /// Write all that was measured into this file.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Frames to share before the eGPU is pulled.
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(3..))]
    pub frames: u32,
}

/// The processes that the demo starts.
#[derive(Subcommand)]
pub enum Part {
    /// Draws frames on the eGPU.
    #[command(hide = true)]
    Producer(PartOptions),
    /// Shows frames on the iGPU.
    #[command(hide = true)]
    Consumer(PartOptions),
    /// Has the same buffers and the last fence on the iGPU, without the broker.
    #[command(hide = true)]
    Bystander(PartOptions),
}

/// What such a process is told.
#[derive(Args)]
pub struct PartOptions {
    /// What it runs on.
    #[arg(long)]
    pub machine: Machine,
    /// The broker's socket.
    #[arg(long)]
    pub socket: PathBuf,
    /// The DRM node of its GPU.
    #[arg(long)]
    pub node: PathBuf,
    /// The socket between producer and consumer, which the consumer binds.
    #[arg(long)]
    pub frames_socket: PathBuf,
    /// Frames to share; the one after them is never finished.
    #[arg(long)]
    pub frames: u32,
}

impl PartOptions {
    /// The socket between producer and bystander, which the bystander binds.
    #[must_use]
    pub fn raw_socket(&self) -> PathBuf {
        self.frames_socket.with_extension("raw")
    }
}
