//! What the documents have people type into a shell, typed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::World;
use crate::scenario::figures::show;

const DOCUMENTS: [&str; 2] =
    [include_str!("../../../README.md"), include_str!("../../../docs/book/daemon.md")];
/// The device of the documents.
const DEVICE: &str = "/device/d1";

/// Each call of busctl, on the system's bus.
pub(super) fn run(world: &mut World) -> Result<()> {
    let device = world.device(&world.egpu()?)?.id;
    let mut seen = 0;
    for line in DOCUMENTS.iter().flat_map(|text| calls(text)) {
        let call = line.replace(DEVICE, &format!("/device/d{}", device.0));
        if call.contains(" monitor ") {
            listens(&call).context(call)?;
        } else {
            let out = Command::new("sh").args(["-c", &call]).output().context("sh")?;
            let said = String::from_utf8_lossy(&out.stderr);
            ensure!(
                out.status.success() && !out.stdout.is_empty(),
                "{call}: {} {said}",
                out.status
            );
        }
        seen += 1;
    }
    ensure!(seen >= 5, "{seen} calls were found in the documents");
    show(format_args!("{seen} calls of the documents"));
    Ok(())
}

/// What goes on until it is ended: begun, and ended once it says that it listens.
fn listens(call: &str) -> Result<()> {
    let mut monitor = Command::new("sh")
        .args(["-c", &format!("exec {call}")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("sh")?;
    let mut said = String::new();
    let stderr = monitor.stderr.take().context("its errors")?;
    let read = BufReader::new(stderr).read_line(&mut said);
    monitor.kill()?;
    monitor.wait()?;
    read?;
    ensure!(said.contains("Monitoring"), "it says {said:?}");
    Ok(())
}

/// Those in blocks for a shell.
fn calls(text: &'static str) -> Vec<&'static str> {
    let (mut calls, mut is_shell) = (Vec::new(), false);
    for line in text.lines() {
        if line.starts_with("```") {
            is_shell = line == "```sh";
        } else if is_shell && line.starts_with("busctl ") {
            calls.push(line);
        }
    }
    calls
}
