//! The library's mappings under ThreadSanitizer: a program of its own, since the standard library and its
//! test harness are not instrumented.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::test::stream;
use crate::{cargo, paths};

/// What makes rustc instrument; the second flag lets it link an uninstrumented standard library.
const FLAGS: &str = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer";

/// Whether no race was seen; `None` if this toolchain cannot look for them, with the reason printed.
pub fn run() -> Result<Option<bool>> {
    let Some(host) = host()? else { return Ok(None) };
    let suppressions = paths::root().join("client-lib/tests/tsan/suppressions");
    let options = format!("suppressions={} halt_on_error=0", suppressions.display());
    let mut command = cargo::cargo(&["test", "-p", "dmashare", "--test", "mapping_threads"]);
    command
        // With a target, the flags are not for build scripts and macros.
        .args(["--target", &host, "--target-dir", "target/tsan"])
        .env("RUSTFLAGS", FLAGS)
        // Sanitizers are not for the stable compiler, which has them all the same.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("TSAN_OPTIONS", options);
    Ok(Some(stream(&mut command, |_| {})?))
}

/// The host's target, if its rustc takes the flags and has the runtime.
fn host() -> Result<Option<String>> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(paths::root()).stdin(Stdio::null()).env("RUSTC_BOOTSTRAP", "1");
    let output = rustc
        .args(FLAGS.split(' '))
        .args(["--print", "target-libdir", "--print", "host-tuple"])
        .output()
        .context("cannot start rustc")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        println!("rustc does not take {FLAGS}: {}", said.trim());
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let (directory, host) = lines.next().zip(lines.next()).context("rustc printed too little")?;
    let files = std::fs::read_dir(directory).with_context(|| format!("cannot list {directory}"))?;
    let has_runtime = files
        .filter_map(Result::ok)
        .any(|file| file.file_name().to_string_lossy().ends_with("_rt.tsan.a"));
    if !has_runtime {
        println!("the toolchain has no runtime of ThreadSanitizer");
        return Ok(None);
    }
    Ok(Some(host.to_owned()))
}
