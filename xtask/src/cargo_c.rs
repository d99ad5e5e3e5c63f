//! cargo-c: builds the C library as distributions do. Debian's own (0.9.14 in bookworm) does not know
//! this edition of Rust, so it is built where the machine has none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::tool::Tool;

const TOOL: Tool = Tool {
    package: "cargo-c",
    // The newest that the oldest toolchain here builds.
    version: "0.10.16+cargo-0.91.0",
    program: "cargo-capi",
    // Unoptimised: it is built once, runs for a second, and most of that is cargo's own work.
    arguments: &["--debug", "--bin", "cargo-capi"],
    environment: &[
        ("CARGO_PROFILE_DEV_DEBUG", "0"),
        ("CARGO_PROFILE_DEV_OPT_LEVEL", "0"),
        ("CARGO_PROFILE_DEV_STRIP", "symbols"),
    ],
    is_enough,
};

/// Where the C library is put for those who build against it, as under /usr.
pub fn prefix() -> Result<PathBuf> {
    Ok(paths::target()?.join("c/usr"))
}

/// That it cannot be built is an error.
fn program(build: bool) -> Result<Option<PathBuf>> {
    let program = TOOL.find(build)?;
    if build && program.is_none() {
        bail!("cargo-c cannot be built");
    }
    Ok(program)
}

/// Where the program is, built if need be; `None` where it is the machine's own, which is found.
pub fn folder() -> Result<Option<PathBuf>> {
    let program = program(true)?.context("no cargo-c")?;
    Ok(program.parent().filter(|folder| folder.is_absolute()).map(Path::to_path_buf))
}

/// From 0.10 on: `cargo-c 0.10.16+cargo-0.91.0`.
fn is_enough(version: &str) -> bool {
    let Some(number) = version.split_whitespace().find_map(|word| {
        let mut parts = word.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }) else {
        return false;
    };
    number >= (0, 10)
}

/// Builds the C library and puts it under [`prefix`], with header and pkg-config file. False where
/// there is no cargo-c, and none is to be built.
pub fn install(build: bool) -> Result<bool> {
    let Some(program) = program(build)? else { return Ok(false) };
    let prefix = prefix()?;
    println!("cargo cinstall -p dmashare-c --prefix {}", prefix.display());
    let status = Command::new(program)
        .args(["capi", "install", "--package", "dmashare-c", "--profile", "dev", "--libdir", "lib"])
        .arg("--prefix")
        .arg(&prefix)
        // It has a cargo of its own inside, and the two would each build anew what the other has built.
        .arg("--target-dir")
        .arg(paths::target()?.join("c/build"))
        .current_dir(paths::root())
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo-capi")?;
    if !status.success() {
        bail!("cargo cinstall failed");
    }
    Ok(true)
}

/// What a C compiler is told to build against it: nothing but what pkg-config says.
pub fn flags(what: &[&str]) -> Result<Vec<String>> {
    let output = Command::new("pkg-config")
        .args(what)
        .arg("dmashare")
        .env("PKG_CONFIG_PATH", prefix()?.join("lib/pkgconfig"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start pkg-config")?;
    if !output.status.success() {
        bail!("pkg-config does not find dmashare");
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_version_that_knows_this_edition() {
        assert!(super::is_enough("cargo-c 0.10.16+cargo-0.91.0\n"));
        assert!(super::is_enough("cargo-c 1.0.0"));
        assert!(!super::is_enough("cargo-c 0.9.14+cargo-0.66\n"));
        assert!(!super::is_enough(""));
    }
}
