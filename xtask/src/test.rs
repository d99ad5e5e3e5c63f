//! All tests, in tiers by what they need.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::counts::{Counts, Lines};
use crate::progress::Progress;
use crate::vm::{self, image, stage};
use crate::{book, cargo, deny, dist, fuzz, paths, setup, test_c, test_vm, tsan};

/// What the test command can be told.
#[derive(Args)]
pub struct TestArgs {
    /// Only say what is missing on this machine, and install nothing
    #[arg(long)]
    no_install: bool,
    /// Leave out the virtual machine
    #[arg(long)]
    no_vm: bool,
    /// Run this tier only (may be repeated)
    #[arg(long = "tier", value_name = "TIER", value_parser = TIERS.map(|tier| tier.0))]
    tiers: Vec<String>,
}

/// What tiers share.
struct Run {
    no_vm: bool,
    no_install: bool,
    /// The image, under way in the background while the other tiers run.
    image: Option<JoinHandle<Result<()>>>,
}

type Tier = (&'static str, fn(&mut Run) -> Result<Counts>);

const TIERS: [Tier; 13] = [
    ("format", format),
    ("lint", lint),
    ("docs", docs),
    ("book", book),
    ("unit", unit),
    ("tsan", races),
    ("fuzz", fuzzed),
    ("deny", deny),
    ("python", python),
    ("c", c),
    ("simulated", simulated),
    ("packages", packaged),
    ("vm", virtual_machine),
];

/// Runs the tiers; the result is this program's exit status.
pub fn run(args: &TestArgs) -> Result<i32> {
    let wanted = |name: &str| args.tiers.is_empty() || args.tiers.iter().any(|tier| tier == name);
    let with_vm = wanted("vm") && !args.no_vm;
    let mut needs = setup::TEST.to_vec();
    if with_vm {
        needs.extend(setup::VM);
    }
    // The virtual machine's service comes from packages, where these can be had.
    if (with_vm || wanted("packages")) && !args.no_install {
        needs.extend(setup::PACKAGES);
    }
    setup::ensure(&needs, setup::Missing::from_flag(args.no_install))?;

    let image = if with_vm { image_in_background()? } else { None };
    let mut context = Run { no_vm: args.no_vm, no_install: args.no_install, image };
    let mut all = Counts::default();
    let mut failed = Vec::new();
    for (name, tier) in TIERS {
        if !wanted(name) {
            continue;
        }
        println!("=== {name}");
        let start = Instant::now();
        let counts = tier(&mut context).unwrap_or_else(|error| {
            println!("FAILED {name}: {error:#}");
            Counts::one(false)
        });
        println!("=== {name}: {counts} ({:.1} s)\n", start.elapsed().as_secs_f64());
        if counts.failed > 0 {
            failed.push(name);
        }
        all += counts;
    }
    if !failed.is_empty() {
        println!("failed tiers: {}", failed.join(", "));
    }
    println!("{all}");
    Ok(i32::from(all.failed > 0))
}

/// The build of the image waits for the network most of the time.
fn image_in_background() -> Result<Option<JoinHandle<Result<()>>>> {
    if image::cached()?.is_some() {
        return Ok(None);
    }
    let log = paths::vm()?.join("image.log");
    let file = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    println!("the virtual machine's image is built in the background; see {}", log.display());
    let progress = Progress::Logged(Mutex::new(file));
    Ok(Some(thread::spawn(move || image::ensure(&progress).map(drop))))
}

fn skip(why: &str) -> Counts {
    println!("skipped: {why}");
    Counts::SKIPPED
}

fn format(_: &mut Run) -> Result<Counts> {
    check("fmt", cargo::FORMAT, &[])
}

fn lint(_: &mut Run) -> Result<Counts> {
    check("clippy", cargo::LINTS, &[])
}

fn docs(_: &mut Run) -> Result<Counts> {
    check("doc", &[cargo::DOCS], &[("RUSTDOCFLAGS", cargo::DOCS_FLAGS)])
}

fn book(run: &mut Run) -> Result<Counts> {
    let counts = book::check(!run.no_install)?;
    Ok(counts.unwrap_or_else(|| skip("mdbook is not installed, and could not be or was not to be")))
}

/// Cargo commands that all must succeed: one test.
fn check(tool: &str, commands: &[&[&str]], environment: &[(&str, &str)]) -> Result<Counts> {
    if !has(tool)? {
        return Ok(skip(&format!("this toolchain has no cargo {tool}")));
    }
    for arguments in commands {
        println!("cargo {}", arguments.join(" "));
        let status = cargo::cargo(arguments).envs(environment.iter().copied()).status()?;
        if !status.success() {
            println!("FAILED cargo {}", arguments.join(" "));
            return Ok(Counts::one(false));
        }
    }
    Ok(Counts::one(true))
}

/// Whether cargo has this subcommand.
fn has(tool: &str) -> Result<bool> {
    if tool == "doc" {
        return Ok(true);
    }
    let mut command = cargo::cargo(&[tool, "--version"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.context("cannot start cargo")?.success())
}

fn unit(_: &mut Run) -> Result<Counts> {
    libtest(&mut cargo::cargo(cargo::UNIT))
}

/// Races between threads.
fn races(_: &mut Run) -> Result<Counts> {
    Ok(tsan::run()?.map_or_else(|| skip("no ThreadSanitizer here"), Counts::one))
}

/// What strangers send, made up by libFuzzer.
fn fuzzed(_: &mut Run) -> Result<Counts> {
    Ok(fuzz::run()?.unwrap_or_else(|| skip("nothing can be fuzzed here")))
}

fn deny(run: &mut Run) -> Result<Counts> {
    let Some(program) = deny::TOOL.find(!run.no_install)? else {
        return Ok(skip("cargo-deny is not installed, and could not be or was not to be"));
    };
    let mut all = Counts::default();
    for manifest in deny::MANIFESTS {
        println!("cargo deny --manifest-path {manifest} {}", deny::CHECK.join(" "));
        let status = Command::new(&program)
            .args(["deny", "--manifest-path", manifest, "--config", "deny.toml"])
            .args(deny::CHECK)
            .arg("--hide-inclusion-graph")
            .current_dir(paths::root())
            .stdin(Stdio::null())
            .status()
            .context("cannot start cargo-deny")?;
        all += Counts::one(status.success());
    }
    Ok(all)
}

/// The second implementation of the protocol, against its text and against the real service.
fn python(_: &mut Run) -> Result<Counts> {
    let daemon = cargo::build_simulated()?.join("dmashared");
    let dir = paths::root().join("tests/python");
    let mut all = Counts::default();
    let mut scripts: Vec<_> = std::fs::read_dir(&dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| name_of(path).starts_with("test_") && name_of(path).ends_with(".py"))
        .collect();
    scripts.sort();
    for script in scripts {
        let mut command = Command::new("python3");
        command.arg("-B").arg(&script).env("DMASHARED", &daemon).current_dir(paths::root());
        let mut counts = Counts::default();
        let success = stream(&mut command, |line| counts.add_own(line))?;
        all += counts.with_status(success);
    }
    Ok(all)
}

/// Programs in C, against the C library and the real service.
fn c(run: &mut Run) -> Result<Counts> {
    let counts = test_c::run(!run.no_install)?;
    Ok(counts.unwrap_or_else(|| skip("cargo-c is not installed, and was not to be")))
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn simulated(_: &mut Run) -> Result<Counts> {
    let programs = cargo::build_simulated()?;
    let runner = programs.join("dmashare-scenarios");
    if !runner.exists() {
        bail!("the build made no dmashare-scenarios");
    }
    let mut command = Command::new(runner);
    command.args(["run", "--machine", "simulated"]).current_dir(paths::root());
    let mut counts = Counts::default();
    let success = stream(&mut command, |line| counts.add_own(line))?;
    Ok(counts.with_status(success))
}

/// What packages are made of, and the packages themselves, as their distributions' own tools see them.
fn packaged(run: &mut Run) -> Result<Counts> {
    if run.no_install && setup::ensure(setup::PACKAGES, setup::Missing::Report).is_err() {
        return Ok(skip("what makes packages is not installed, and was not to be"));
    }
    setup::ensure(setup::PACKAGES, setup::Missing::from_flag(run.no_install))?;
    dist::check()
}

fn virtual_machine(context: &mut Run) -> Result<Counts> {
    if context.no_vm {
        return Ok(skip("--no-vm"));
    }
    let what = if context.no_install { stage::Fill::BuildNoTools } else { stage::Fill::Packages };
    test_vm::run(what, context.image.take())
}

fn libtest(command: &mut Command) -> Result<Counts> {
    let mut counts = Counts::default();
    let success = stream(command, |line| counts.add_libtest(line))?;
    Ok(counts.with_status(success))
}

/// Runs a command, shows its output, and hands on each line of it; true if it succeeded.
pub fn stream(command: &mut Command, mut line: impl FnMut(&str)) -> Result<bool> {
    use std::io::Read;

    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let mut output = child.stdout.take().context("no output")?;
    let mut lines = Lines::default();
    let mut buffer = [0; 8192];
    loop {
        let length = output.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        vm::print(1, &buffer[..length]);
        lines.push(&buffer[..length], &mut line);
    }
    Ok(child.wait()?.success())
}
