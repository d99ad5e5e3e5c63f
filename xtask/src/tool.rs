//! Programs of others that are built by cargo: the machine's own, else the cache's, else built into the cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{cargo, paths};

/// One of them.
pub struct Tool {
    /// On crates.io.
    pub package: &'static str,
    /// What is built where the machine has none that will do.
    pub version: &'static str,
    /// The file's name.
    pub program: &'static str,
    /// For `cargo install`.
    pub arguments: &'static [&'static str],
    /// For the same.
    pub environment: &'static [(&'static str, &'static str)],
    /// Whether the machine's own will do, by what it says to `--version`.
    pub is_enough: fn(&str) -> bool,
}

impl Tool {
    /// Where it is. `None` where it is neither there nor to be built, or cannot be built.
    pub fn find(&self, build: bool) -> Result<Option<PathBuf>> {
        let Self { package, version, .. } = self;
        let own = PathBuf::from(self.program);
        if says(&own).is_some_and(|said| (self.is_enough)(&said)) {
            return Ok(Some(own));
        }
        let root = paths::cache()?.join(format!("{package}-{version}"));
        let program = root.join("bin").join(self.program);
        if program.is_file() || !build {
            return Ok(program.is_file().then_some(program));
        }
        println!("{package} {version} is built into {}; this takes some minutes", root.display());
        let status = cargo::cargo(&["install", "--locked", "--version", version])
            .args(self.arguments)
            .args([package, "--root"])
            .arg(&root)
            .envs(self.environment.iter().copied())
            .status()
            .context("cannot start cargo")?;
        Ok((status.success() && program.is_file()).then_some(program))
    }
}

fn says(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
