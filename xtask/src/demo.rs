//! The demonstration: two GPUs share, and one is pulled.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use vm_frames::Exec;

use crate::vm::{self, commands::in_guest, stage::Fill};
use crate::{cargo, paths, setup};

/// What the demonstration can be told.
#[derive(Args)]
pub struct DemoArgs {
    /// On a real kernel, in the virtual machine, instead of on simulated devices
    #[arg(long)]
    vm: bool,
    /// Only say what is missing on this machine, and install nothing
    #[arg(long)]
    no_install: bool,
}

/// Runs it; the result is this program's exit status.
pub fn run(args: &DemoArgs) -> Result<i32> {
    let mut needs = setup::DEMO.to_vec();
    if args.vm {
        needs.extend(setup::VM);
    }
    setup::ensure(&needs, setup::Missing::from_flag(args.no_install))?;
    let svg = paths::target()?.join("demo.svg");
    let status = if args.vm {
        let share = paths::vm()?.join("demo");
        fs::create_dir_all(&share).context("cannot create the shared directory")?;
        let argv = ["dmashare-demo", "--machine", "vm", "--svg", "/mnt/share/demo.svg"];
        let exec =
            Exec { argv: argv.map(Into::into).into(), timeout_s: Some(600), ..Exec::default() };
        let status = in_guest(Some(&share), Fill::Build, exec, &mut vm::print)?;
        let drawn = share.join("demo.svg");
        if drawn.exists() {
            fs::rename(&drawn, &svg).context("cannot put the picture in its place")?;
        }
        status
    } else {
        let program = cargo::build_simulated()?.join("dmashare-demo");
        if !program.exists() {
            bail!("the build made no dmashare-demo");
        }
        let status = Command::new(program)
            .args(["--machine", "simulated", "--svg"])
            .arg(&svg)
            .current_dir(paths::root())
            .stdin(Stdio::null())
            .status()
            .context("cannot start dmashare-demo")?;
        status.code().unwrap_or(1)
    };
    if status == 0 {
        println!("timeline: {}", svg.display());
    }
    Ok(status)
}
