//! What is built, with which features. The only place that knows.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;

/// The packaged programs, exactly as they are shipped: the daemon without simulated devices.
pub const SHIPPED: &[&str] = &["build", "-p", "dmashared", "-p", "dmasharectl"];

/// What drives the tests and the demonstration.
pub const TESTS: &[&str] = &["build", "-p", "dmashare-tests"];

/// The guest's agent.
pub const AGENT: &[&str] = &["build", "-p", "xtask", "--bin", "vm-agent"];

/// The programs that go into the virtual machine, if they have been built.
pub const STAGED: &[&str] =
    &["dmashared", "dmasharectl", "dmashare-scenarios", "dmashare-demo", "vm-agent"];

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

/// Where a program lies after its build.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(paths::debug()?.join(name))
}
