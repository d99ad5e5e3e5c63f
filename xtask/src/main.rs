//! `cargo xtask`: set-up, tests, the demonstration, and the virtual machine.

use clap::{CommandFactory, Parser, Subcommand};

mod cargo;
mod paths;
mod progress;
mod setup;
mod vm;

/// Set-up, tests, demonstration and virtual machine of dmashare
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// A real kernel with GPUs that can be pulled: build, list, run, shell, exec, start, stop
    Vm {
        #[command(subcommand)]
        command: vm::commands::VmCommand,
    },
}

fn main() {
    let result = match Cli::parse().task {
        None => Cli::command().print_help().map(|()| 0).map_err(Into::into),
        Some(Task::Vm { command }) => command.run(),
    };
    let status = result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        1
    });
    std::process::exit(status);
}
