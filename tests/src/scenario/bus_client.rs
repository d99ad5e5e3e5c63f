//! Scenario 10: A client that knows nothing of this project: busctl.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::pair::Pair;
use crate::actor::Task;
use crate::bus::{NAME, ROOT};
use crate::scenario::figures::show;
use crate::{BOUND, Bus, Unplug, World};

/// busctl on the broker's bus.
fn busctl(world: &World) -> Command {
    let mut command = Command::new("busctl");
    match world.bus_address().as_str() {
        "system" => command.arg("--system"),
        address => command.arg(format!("--address={address}")),
    };
    command.args(["--no-pager", "--full"]);
    command
}

fn output(world: &World, arguments: &[&str]) -> Result<String> {
    let output = busctl(world).args(arguments).output().context("busctl")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "busctl {}: {}", arguments.join(" "), why.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

struct Monitor {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Monitor {
    fn start(world: &World) -> Result<Self> {
        let mut child = busctl(world)
            .args(["monitor", NAME])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (to, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("its output")?;
        let stderr = child.stderr.take().context("its errors")?;
        let errors_to = to.clone();
        std::thread::spawn(move || forward(BufReader::new(stdout), &to));
        std::thread::spawn(move || forward(BufReader::new(stderr), &errors_to));
        let mut monitor = Self { child, lines, seen: Vec::new() };
        monitor.wait(&["Monitoring bus message stream"])?;
        Ok(monitor)
    }

    /// Until each of the words was in a line.
    fn wait(&mut self, words: &[&str]) -> Result<()> {
        let end = Instant::now() + BOUND;
        loop {
            let missing = |word: &&&str| !self.seen.iter().any(|line| line.contains(**word));
            let Some(missing) = words.iter().find(missing) else { return Ok(()) };
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(_) => bail!("busctl monitor did not show {missing}:\n{}", self.seen.join("\n")),
            }
        }
    }
}

fn forward(from: impl BufRead, to: &mpsc::Sender<String>) {
    for line in from.lines().map_while(Result::ok) {
        if to.send(line).is_err() {
            return;
        }
    }
}

pub(super) fn run(world: &mut World) -> Result<()> {
    if Command::new("busctl").arg("--version").output().is_err() {
        return Err(super::Skip("there is no busctl (package systemd)".to_owned()).into());
    }
    let pair = Pair::new(world)?;
    let buffer = pair.share_buffer(world, 32, 32)?;
    world.wait_counts(pair.device, (1, 1, 0))?;
    let path = Bus::device_path(pair.device);

    ensure!(output(world, &["list"])?.contains(NAME), "busctl list does not show {NAME}");
    let tree = output(world, &["tree", "--list", NAME])?;
    ensure!(tree.lines().any(|line| line == path), "busctl tree does not show {path}:\n{tree}");
    let device = output(world, &["introspect", NAME, &path])?;
    for word in ["org.dmashare.Device1", ".Lost", ".RemovalRequested", ".Buffers", ".Report"] {
        ensure!(device.contains(word), "busctl introspect does not show {word}:\n{device}");
    }
    let root = output(world, &["introspect", NAME, ROOT])?;
    for word in ["org.dmashare.Broker1", ".Connect", ".GetReports", ".GetManagedObjects"] {
        ensure!(root.contains(word), "busctl introspect does not show {word}:\n{root}");
    }
    let get = |name| output(world, &["get-property", NAME, &path, "org.dmashare.Device1", name]);
    ensure!(get("Imports")?.trim() == "u 1", "Imports is {}", get("Imports")?);
    ensure!(get("State")?.trim() == "s \"present\"", "State is {}", get("State")?);

    let mut monitor = Monitor::start(world)?;
    pair.importer.call(Task::Release { key: buffer.imported })?;
    monitor.wait(&["PropertiesChanged", "\"Imports\""])?;
    world.unplug(Unplug::Remove)?;
    monitor.wait(&["Member=Lost", "InterfacesRemoved"])?;
    world.wait_gone(pair.device)?;

    let call = ["call", NAME, ROOT, NAME, "GetReports"];
    let reports = output(world, &call)?;
    ensure!(reports.contains("unplugged"), "GetReports does not show the unplug: {reports}");
    show(format_args!("busctl monitor showed {} lines", monitor.seen.len()));
    Ok(())
}
