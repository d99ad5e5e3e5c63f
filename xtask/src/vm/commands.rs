//! The `vm` commands.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use vm_frames::{End, Exec};

use super::stage::Fill;
use super::{Sink, Vm, background, image, shell, stage};
use crate::progress::Progress;
use crate::{cargo, paths, setup};

/// The virtual machine's commands.
#[derive(Subcommand)]
pub enum VmCommand {
    /// Build the image, if it is not in the cache
    Build,
    /// List the scenarios
    List,
    /// Run scenarios (all, if none is named) and print a line for each
    Run {
        /// Use what was staged before, without a new build
        #[arg(long)]
        no_build: bool,
        /// Install packages of the build, and not the programs alone
        #[arg(long, conflicts_with = "no_build")]
        packages: bool,
        /// Their names, as `vm list` shows them
        names: Vec<String>,
    },
    /// Run a command in the virtual machine, with a fresh build in its PATH
    Exec {
        /// A directory of yours, at /mnt/share in the guest
        #[arg(long)]
        share: Option<PathBuf>,
        /// Use what was staged before, without a new build
        #[arg(long)]
        no_build: bool,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Open a shell in the virtual machine
    Shell {
        /// Use what was staged before, without a new build
        #[arg(long)]
        no_build: bool,
    },
    /// Keep a virtual machine in the background, for the other commands to use
    Start {
        /// A directory of yours, at /mnt/share in the guest
        #[arg(long)]
        share: Option<PathBuf>,
        /// Use what was staged before, without a new build
        #[arg(long)]
        no_build: bool,
    },
    /// Stop the virtual machine in the background
    Stop,
    /// The process in the background
    #[command(hide = true)]
    Serve {
        /// As for `start`
        #[arg(long)]
        share: Option<PathBuf>,
    },
}

impl VmCommand {
    /// Runs it; the result is this program's exit status.
    pub fn run(self) -> Result<i32> {
        let progress = Progress::Shown;
        match self {
            Self::Build => {
                setup::ensure(setup::VM, setup::Missing::Install)?;
                let image = image::ensure(&progress)?;
                println!("{}", image.dir.display());
                Ok(0)
            }
            Self::List => list(),
            Self::Run { no_build, packages, names } => {
                let fill = if packages { Fill::Packages } else { filling(no_build) };
                if packages {
                    setup::ensure(setup::PACKAGES, setup::Missing::Install)?;
                }
                in_guest(None, fill, super::scenarios(&names), &mut shell::print)
            }
            Self::Exec { share, no_build, command } => {
                let cwd = share.as_ref().map(|_| "/mnt/share".to_owned());
                let exec = Exec { argv: command, cwd, ..Exec::default() };
                in_guest(share.as_deref(), filling(no_build), exec, &mut shell::print)
            }
            Self::Shell { no_build } => interactive(filling(no_build)),
            Self::Start { share, no_build } => {
                setup::ensure(setup::VM, setup::Missing::Install)?;
                if background::connect()?.is_some() {
                    bail!("one is running already; `vm stop` stops it");
                }
                stage::fill(filling(no_build), &progress)?;
                image::ensure(&progress)?;
                background::start(absolute(share.as_deref())?.as_deref(), &progress)?;
                Ok(0)
            }
            Self::Stop => {
                let what = if background::stop()? { "stopped" } else { "none was running" };
                progress.say(what);
                Ok(0)
            }
            Self::Serve { share } => background::serve(share.as_deref()).map(|()| 0),
        }
    }
}

fn filling(no_build: bool) -> Fill {
    if no_build { Fill::AsItIs } else { Fill::Build }
}

fn absolute(share: Option<&Path>) -> Result<Option<PathBuf>> {
    share
        .map(|path| path.canonicalize().with_context(|| format!("no directory {}", path.display())))
        .transpose()
}

fn list() -> Result<i32> {
    cargo::build(cargo::TESTS)?;
    let runner = paths::debug()?.join("dmashare-scenarios");
    if !runner.exists() {
        bail!("the build made no dmashare-scenarios");
    }
    let status = Command::new(runner)
        .args(["list", "--machine", "vm"])
        .stdin(Stdio::null())
        .status()
        .context("cannot start dmashare-scenarios")?;
    Ok(status.code().unwrap_or(1))
}

/// Runs a command in the machine in the background, or else in one of its own.
pub fn in_guest(share: Option<&Path>, fill: Fill, exec: Exec, sink: Sink<'_>) -> Result<i32> {
    let progress = Progress::Shown;
    setup::ensure(setup::VM, setup::Missing::Install)?;
    stage::fill(fill, &progress)?;
    let share = absolute(share)?;
    let scenarios = exec.argv.first().is_some_and(|program| program == "dmashare-scenarios");
    // What is mounted is settled at boot.
    let stream = if share.is_none() { background::connect()? } else { None };
    let end = if let Some(stream) = stream {
        background::run(stream, exec, sink)?
    } else {
        let vm = Vm::boot(share.as_deref(), &progress)?;
        let end = vm.run(exec, sink)?;
        if end != End::Code(0) && scenarios {
            eprintln!("the guest's logs: {}", vm.save_logs()?);
        }
        end
    };
    match &end {
        End::Failed(why) => eprintln!("{why}"),
        End::TimedOut => eprintln!("timed out"),
        End::Signal(signal) => eprintln!("killed by signal {signal}"),
        End::Code(_) => {}
    }
    Ok(end.status())
}

fn interactive(fill: Fill) -> Result<i32> {
    let progress = Progress::Shown;
    setup::ensure(setup::VM, setup::Missing::Install)?;
    stage::fill(fill, &progress)?;
    if let Some(stream) = background::connect()? {
        let _raw = shell::Raw::enter()?;
        return Ok(background::run(stream, shell::command(), &mut shell::print)?.status());
    }
    let vm = Vm::boot(None, &progress)?;
    let _raw = shell::Raw::enter()?;
    Ok(vm.run_interactive(shell::command())?.status())
}
