//! `cargo xtask bench`: what is claimed of speed, measured beside its limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use vm_frames::Exec;

use crate::vm::{self, stage};
use crate::{cargo, paths, setup};

/// What the bench command can be told.
#[derive(Args)]
pub struct BenchArgs {
    /// In the virtual machine alone, on real dma-bufs: there only ratios mean anything
    #[arg(long)]
    vm: bool,
    /// Without the virtual machine
    #[arg(long, conflicts_with = "vm")]
    no_vm: bool,
    /// What is measured (nothing: everything, with the virtual machine's part), and how: `share`,
    /// `--quick`, `--json`, `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Measures; the result is this program's exit status.
pub fn run(args: &BenchArgs) -> Result<i32> {
    let mut arguments = args.arguments.clone();
    let everything = arguments.iter().all(|word| word == "--quick");
    if everything {
        arguments.insert(0, "all".to_owned());
    }
    if args.vm {
        return in_guest(&arguments, &mut vm::print);
    }
    setup::ensure(setup::BENCH, setup::Missing::Install)?;
    let programs = programs()?;
    if !everything {
        return on_this_machine(&programs, &arguments);
    }
    let folder = programs.join("results");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if !args.no_vm {
        eprintln!("In the virtual machine:");
        let real = measured_in_guest(&arguments, &folder.join("vm.json"))?;
        arguments.extend(["--with".to_owned(), real]);
        // Another build may have taken their places.
        self::programs()?;
        eprintln!("On this machine:");
    }
    let folder = folder.to_str().context("a target folder in UTF-8")?.to_owned();
    arguments.extend(["--out".to_owned(), folder]);
    on_this_machine(&programs, &arguments)
}

fn on_this_machine(programs: &Path, arguments: &[String]) -> Result<i32> {
    let program = programs.join(cargo::BENCH_PROGRAM);
    let status = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(status.code().unwrap_or(1))
}

/// Optimised programs with simulated devices, in a folder of their own: they must not be taken for those
/// that are shipped.
fn programs() -> Result<PathBuf> {
    cargo::build(cargo::BENCH)?;
    let (release, folder) = (paths::target()?.join("release"), paths::target()?.join("bench"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for name in ["dmashared", "dmashare-holders", "dmashare-keeper", cargo::BENCH_PROGRAM]
        .iter()
        .chain(&[cargo::COUNTING_MALLOC])
    {
        cargo::copy_file(&release.join(name), &folder.join(name))?;
    }
    for (source, name, library) in cargo::BENCH_RIVALS {
        let flags = Command::new("pkg-config").args(["--cflags", "--libs", library]).output()?;
        ensure!(flags.status.success(), "pkg-config does not know {library}");
        let flags = String::from_utf8(flags.stdout)?;
        let status = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror", "-o"])
            .arg(folder.join(name))
            .arg(paths::root().join(source))
            .args(flags.split_whitespace())
            .status()
            .context("cannot start cc")?;
        ensure!(status.success(), "{source} does not build");
    }
    Ok(folder)
}

/// Runs it in the guest; its JSON goes to `to`, whose name comes back.
fn measured_in_guest(arguments: &[String], to: &Path) -> Result<String> {
    let mut json = Vec::new();
    let mut sink = |fd: u8, data: &[u8]| {
        if fd == 1 {
            json.extend_from_slice(data);
        } else {
            vm::print(fd, data);
        }
    };
    let mut arguments = arguments.to_vec();
    arguments.push("--json".to_owned());
    let status = in_guest(&arguments, &mut sink)?;
    ensure!(status == 0, "the benchmark failed in the guest ({status})");
    fs::write(to, json).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(to.to_str().context("a target folder in UTF-8")?.to_owned())
}

fn in_guest(arguments: &[String], sink: vm::Sink<'_>) -> Result<i32> {
    let mut argv = vec![cargo::BENCH_PROGRAM.to_owned(), "--real".to_owned()];
    argv.extend_from_slice(arguments);
    let exec = Exec { argv, timeout_s: Some(1200), ..Exec::default() };
    match vm::commands::in_guest(None, stage::Fill::Optimised, exec, sink)? {
        0 => Ok(0),
        status => bail!("the benchmark failed in the guest ({status})"),
    }
}
