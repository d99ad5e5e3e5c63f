//! What is built and checked, with which features. The only place that knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;

/// The packaged programs, exactly as they are shipped: the daemon without simulated devices.
pub const SHIPPED: &[&str] =
    &["build", "-p", "dmashared", "-p", "dmashare-helpers", "-p", "dmasharectl"];

/// The same, optimised.
pub const SHIPPED_OPTIMISED: &[&str] =
    &["build", "--release", "-p", "dmashared", "-p", "dmashare-helpers", "-p", "dmasharectl"];

/// What drives the tests and the demonstration on a real kernel.
pub const TESTS: &[&str] = &["build", "-p", "dmashare-tests"];

/// The examples.
pub const EXAMPLES: &[&str] = &["build", "-p", "dmashare-examples"];

/// The benchmarks, with a daemon that has simulated devices for those that run without the virtual
/// machine.
pub const BENCH: &[&str] = &[
    "build",
    "--release",
    "-p",
    "dmashared",
    "-p",
    "dmashare-helpers",
    "-p",
    "dmashare-bench",
    "-p",
    "dmashare-counting-malloc",
    "--all-features",
];

/// What measures.
pub const BENCH_PROGRAM: &str = "dmashare-bench";

/// The same share by others: the source, the name beside [`BENCH_PROGRAM`], and the library that it uses.
pub const BENCH_RIVALS: [(&str, &str, &str); 2] = [
    ("bench/sd-bus.c", "dmashare-bench-sd-bus", "libsystemd"),
    ("bench/pipewire.c", "dmashare-bench-pipewire", "libpipewire-0.3"),
];

/// The guest's agent.
pub const AGENT: &[&str] = &["build", "-p", "xtask", "--bin", "vm-agent"];

/// Everything that runs on simulated devices.
const SIMULATED: &[&str] = &[
    "build",
    "-p",
    "dmashared",
    "-p",
    "dmashare-helpers",
    "-p",
    "dmasharectl",
    "-p",
    "dmashare-tests",
    "-p",
    "dmashare-counting-malloc",
    "--all-features",
];

/// Formatting, of the fuzz targets too, which are a workspace of their own.
pub const FORMAT: &[&[&str]] =
    &[&["fmt", "--all", "--check"], &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]];

/// Lints: of everything, of the daemon as it is shipped, of the library with each feature alone, and
/// of what it is fuzzed by.
pub const LINTS: &[&[&str]] = &[
    &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
    &[
        "clippy",
        "-p",
        "dmashared",
        "-p",
        "dmashare-helpers",
        "-p",
        "dmasharectl",
        "--",
        "-D",
        "warnings",
    ],
    &["clippy", "-p", "dmashare", "--", "-D", "warnings"],
    &["clippy", "-p", "dmashare", "--features", "calloop", "--", "-D", "warnings"],
    &["clippy", "-p", "dmashare", "--features", "tokio", "--", "-D", "warnings"],
    &[
        "clippy",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        "target",
        "--",
        "-D",
        "warnings",
    ],
];

/// Documentation; its warnings are errors, see [`DOCS_FLAGS`].
pub const DOCS: &[&str] = &["doc", "--workspace", "--no-deps", "--all-features"];

/// For RUSTDOCFLAGS.
pub const DOCS_FLAGS: &str = "-D warnings";

/// Unit, property and integration tests.
pub const UNIT: &[&str] = &["test", "--workspace", "--all-features", "--no-fail-fast"];

/// The tests of the kernel's own objects, which only the virtual machine has; built, not run.
pub const KERNEL_TESTS: &[&str] = &[
    "test",
    "-p",
    "dmashare-uapi",
    "--all-features",
    "--test",
    "kernel",
    "--no-run",
    "--message-format=json-render-diagnostics",
];

/// The programs of packages, as they are called in the target directory.
pub const SHIPPED_PROGRAMS: &[&str] = &[
    "dmashared",
    "dmashare-holders",
    "dmashare-keeper",
    "dmashare-kill",
    "dmashare-pci",
    "dmasharectl",
];

/// The programs of the tests' package.
pub const TEST_PROGRAMS: &[&str] = &["dmashare-scenarios", "dmashare-demo"];

/// What counts the service's allocations.
pub const COUNTING_MALLOC: &str = "libdmashare_counting_malloc.so";

/// The examples' programs.
pub const EXAMPLE_PROGRAMS: &[&str] = &["wayland-producer", "vulkan-share"];

/// A cargo command in the repository.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(paths::root()).stdin(Stdio::null());
    command
}

/// Builds; cargo shows its own progress and errors.
pub fn build(arguments: &[&str]) -> Result<()> {
    let status = cargo(arguments).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// Builds a test without running it; where its program is.
pub fn test_program(arguments: &[&str]) -> Result<PathBuf> {
    let output =
        cargo(arguments).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo {} made no program", arguments.join(" ")))
}

/// Builds everything that runs on simulated devices, into a directory of its own: a daemon with
/// simulated devices must not be taken for the shipped one. Hands back the directory.
pub fn build_simulated() -> Result<PathBuf> {
    build(SIMULATED)?;
    let dir = paths::target()?.join("simulated");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for name in SHIPPED_PROGRAMS.iter().chain(TEST_PROGRAMS).chain(&[COUNTING_MALLOC]) {
        copy_program(name, &dir)?;
    }
    Ok(dir)
}

/// Copies a program from the last build. One that does not exist is none of our business here:
/// whoever needs it says so.
pub fn copy_program(name: &str, to: &Path) -> Result<()> {
    let program = paths::debug()?.join(name);
    if program.exists() { copy_file(&program, &to.join(name)) } else { Ok(()) }
}

/// A new file every time, never new contents in the old one: somebody may be running that.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let same = |from: &fs::Metadata, to: &fs::Metadata| {
        from.len() == to.len() && from.modified().ok() == to.modified().ok()
    };
    let before = fs::metadata(from).with_context(|| format!("no {}", from.display()))?;
    if fs::metadata(to).is_ok_and(|to| same(&before, &to)) {
        return Ok(());
    }
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let copy = || {
        fs::copy(from, &unfinished)?;
        // What is the same is known by its time.
        fs::File::options().write(true).open(&unfinished)?.set_modified(before.modified()?)?;
        fs::rename(&unfinished, to)
    };
    copy().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
