//! The examples that cargo does not build.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cargo, cargo_c, paths};

/// Builds kms-importer, the example in C, as a program of its own would be: from what pkg-config says. It
/// is put into a folder together with the library, where it finds it. False where there is no cargo-c.
pub fn kms_importer(to: &Path, build_tools: bool) -> Result<bool> {
    if !cargo_c::install(build_tools)? {
        return Ok(false);
    }
    let prefix = cargo_c::prefix()?;
    let (source, program) =
        (paths::root().join("examples/kms-importer/kms-importer.c"), to.join("kms-importer"));
    // libdrm goes in as it is: the guest has none.
    let output = Command::new("gcc")
        .args([
            "-std=c11",
            "-D_GNU_SOURCE",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
        ])
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args(cargo_c::flags(&["--cflags", "--libs"])?)
        .args(["-I/usr/include/libdrm", "-l:libdrm.a", "-Wl,-rpath,$ORIGIN"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start gcc")?;
    if !output.status.success() {
        bail!("kms-importer cannot be compiled:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let library = "libdmashare.so.1";
    cargo::copy_file(&prefix.join("lib").join(library), &to.join(library))?;
    Ok(true)
}
