//! The scenarios as a program: `list`, `run`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use dmashare_tests::{Machine, actor, runner};

/// The whole-system tests of dmashare
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the names of the scenarios
    List {
        /// `simulated` or `vm`
        #[arg(long)]
        machine: Machine,
    },
    /// Run scenarios (all, if none is named) and print a line for each
    Run {
        /// `simulated` (anywhere) or `vm` (inside of the virtual machine, as root)
        #[arg(long)]
        machine: Machine,
        /// Write what was measured into this file, as JSON
        #[arg(long, value_name = "FILE")]
        figures: Option<PathBuf>,
        /// All that follow this one, by its whole name
        #[arg(long, value_name = "NAME", conflicts_with = "names")]
        after: Option<String>,
        /// Their names, or the beginnings of them
        names: Vec<String>,
    },
    /// One scenario, in this process
    #[command(hide = true)]
    One {
        #[arg(long)]
        machine: Machine,
        name: String,
    },
}

fn main() -> ExitCode {
    actor::take_part();
    perform(Args::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn perform(command: Command) -> Result<ExitCode> {
    match command {
        Command::List { machine } => {
            runner::list(machine);
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { machine, figures, after, names } => {
            runner::run(machine, &names, after.as_deref(), figures.as_deref())
        }
        Command::One { machine, name } => Ok(runner::one(machine, &name)),
    }
}
