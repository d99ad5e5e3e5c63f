//! cargo-deny: which licences, versions and sources a dependency may have (`deny.toml`).

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::{cargo, paths};

/// What is built where the machine has none of its own: a version, so that every clone shares it.
const VERSION: &str = "0.20.2";

/// What is shipped, and what it is fuzzed by, which has a lock file of its own.
pub const MANIFESTS: [&str; 2] = ["Cargo.toml", "fuzz/Cargo.toml"];

/// Advisories are not among them: they need a database of the day, and would fail an old commit.
pub const CHECK: &[&str] = &["--all-features", "check", "bans", "licenses", "sources"];

/// The program: the machine's own, else the cache's, else built into the cache. `None` where it is
/// neither there nor to be built, or cannot be built.
pub fn program(build: bool) -> Result<Option<PathBuf>> {
    let own = cargo::cargo(&["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    if own.success() {
        return Ok(Some(PathBuf::from("cargo-deny")));
    }
    let root = paths::cache()?.join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(Some(program));
    }
    if !build {
        return Ok(None);
    }
    println!("cargo-deny {VERSION} is built into {}; this takes some minutes", root.display());
    let status =
        cargo::cargo(&["install", "--locked", "--version", VERSION, "cargo-deny", "--root"])
            .arg(&root)
            .stdin(Stdio::null())
            .status()
            .context("cannot start cargo")?;
    Ok((status.success() && program.is_file()).then_some(program))
}
