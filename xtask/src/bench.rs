//! `cargo xtask bench`: what is claimed of speed, measured beside its limit.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use vm_frames::Exec;

use crate::vm::{self, stage};
use crate::{cargo, paths, setup};

/// What the bench command can be told.
#[derive(Args)]
pub struct BenchArgs {
    /// In the virtual machine, on real dma-bufs: there only ratios mean anything
    #[arg(long)]
    vm: bool,
    /// What is measured, and how: `access`, `holders`, `--quick`, `--json`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Measures; the result is this program's exit status.
pub fn run(args: &BenchArgs) -> Result<i32> {
    let mut arguments = args.arguments.clone();
    if arguments.is_empty() {
        arguments.push("access".to_owned());
    }
    if !args.vm && arguments.iter().any(|word| word == "holders") {
        setup::ensure(setup::BENCH, setup::Missing::Install)?;
    }
    // As it is shipped: optimised.
    cargo::build(cargo::BENCH)?;
    let program = paths::target()?.join("release").join(cargo::BENCH_PROGRAM);
    if !args.vm {
        let status = Command::new(&program)
            .args(&arguments)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot start {}", program.display()))?;
        return Ok(status.code().unwrap_or(1));
    }
    let bin = stage::dir()?.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    cargo::copy_file(&program, &bin.join(cargo::BENCH_PROGRAM))?;
    let mut argv = vec![cargo::BENCH_PROGRAM.to_owned(), "--real".to_owned()];
    argv.extend(arguments);
    let exec = Exec { argv, timeout_s: Some(600), ..Exec::default() };
    match vm::commands::in_guest(None, stage::Fill::Build, exec, &mut vm::print)? {
        0 => Ok(0),
        status => bail!("the benchmark failed in the guest ({status})"),
    }
}
