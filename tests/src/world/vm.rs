//! The virtual machine, from inside, as root.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{BOUND, Backend};
use crate::uevents::Uevents;
use crate::{Bus, Card, Process, Role};

pub(super) const UNIT: &str = "dmashared.service";
const DROPINS: &str = "/etc/dmashare/dmashared.conf.d";
/// What the image says about the machine.
const CAST: &str = "/run/dmashare-vm.json";
/// A virtio-gpu has a primary and a render node.
const NODES: usize = 2;

#[derive(Deserialize)]
struct Cast {
    egpu: String,
    igpu: String,
    stay: String,
    host_socket: PathBuf,
}

pub(super) struct Vm(Cast);

impl Vm {
    pub fn start(backend: Backend, config: &str) -> Result<(Self, Bus)> {
        let text = fs::read_to_string(CAST)
            .with_context(|| format!("{CAST}: this is not the virtual machine of xtask"))?;
        let vm = Self(serde_json::from_str(&text)?);
        for role in [Role::Egpu, Role::Stay] {
            if vm.card(role)?.is_none() {
                vm.rescan(role)?;
            }
        }
        // Of a scenario that was ended in the midst of it.
        let told = Path::new(HELD).parent().context("a folder")?;
        if told.exists() {
            fs::remove_dir_all(told)?;
            systemctl(&["daemon-reload"])?;
            restart()?;
        }
        fs::create_dir_all(DROPINS)?;
        let fence = format!("[fence]\nbackend = \"{}\"\n", backend.name());
        let changed = [("90-backend.toml", fence.as_str()), ("91-scenario.toml", config)]
            .map(|(name, text)| write_if_other(&Path::new(DROPINS).join(name), text))
            .into_iter()
            .collect::<Result<Vec<_>>>()?
            .contains(&true);
        let bus = Bus::connect("system")?;
        if changed || !is_clean(&bus).unwrap_or(false) {
            restart()?;
        }
        Ok((vm, bus))
    }

    pub fn card(&self, role: Role) -> Result<Option<Card>> {
        let pci = |address: &str| {
            let sysfs = Path::new("/sys/bus/pci/devices").join(address);
            Card::find(role, &sysfs, "virtio_gpu", address)
        };
        match role {
            Role::Egpu => pci(&self.0.egpu),
            Role::Stay => pci(&self.0.stay),
            Role::Igpu => {
                let name = &self.0.igpu;
                let folders = ["/sys/devices/platform", "/sys/devices/faux"];
                let folders = folders.map(|folder| Path::new(folder).join(name));
                let folder = folders.into_iter().find(|folder| folder.exists());
                let Some(folder) = folder else { return Ok(None) };
                Card::find(role, &folder, name, "")
            }
        }
    }

    pub fn remove(&self, role: Role) -> Result<()> {
        let card = self.card(role)?.with_context(|| format!("the card {role:?} is not there"))?;
        let path = format!("/sys/bus/pci/devices/{}/remove", card.pci);
        fs::write(&path, "1").with_context(|| path.clone())
    }

    pub fn hot_unplug(&self) -> Result<()> {
        let path = Path::new("/sys/bus/pci/devices").join(&self.0.egpu);
        let path = path.canonicalize().context("the eGPU is not there")?;
        let devpath = path.to_string_lossy().replacen("/sys", "", 1);
        let uevents = Uevents::listen()?;
        self.ask_host("hotunplug egpu")?;
        uevents.wait_removed(&devpath, BOUND)?;
        Ok(())
    }

    pub fn vanish(&self) -> Result<()> {
        self.ask_host("vanish egpu")
    }

    fn ask_host(&self, request: &str) -> Result<()> {
        let mut host = UnixStream::connect(&self.0.host_socket).context("the host's socket")?;
        host.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(host).read_line(&mut answer)?;
        if answer.trim() != "ok" {
            bail!("the host said {answer:?}");
        }
        Ok(())
    }

    /// A card that does not come back has been unplugged for good.
    pub fn rescan(&self, role: Role) -> Result<Card> {
        let uevents = Uevents::listen()?;
        fs::write("/sys/bus/pci/rescan", "1").context("PCI rescan")?;
        let whole = || {
            let card = self.card(role).ok().flatten();
            card.filter(|card| card.nodes.len() == NODES)
        };
        if let Some(card) = whole() {
            return Ok(card);
        }
        uevents.wait("the card's nodes", BOUND, |_| whole().is_some())?;
        whole().context("the card came and went")
    }
}

fn write_if_other(path: &Path, text: &str) -> Result<bool> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(false);
    }
    fs::write(path, text).with_context(|| path.display().to_string())?;
    Ok(true)
}

/// Whether nothing is left of what came before, so that the service can be used as it is.
fn is_clean(bus: &Bus) -> Result<bool> {
    if !bus.is_owned()? {
        return Ok(false);
    }
    let idle =
        |device: &crate::bus::Device| device.state == "present" && device.counts() == (0, 0, 0);
    Ok(bus.clients()?.is_empty() && bus.devices()?.iter().all(idle))
}

pub(super) fn synthetic(card: &Card, action: &str) -> Result<()> {
    let path = format!("/sys{}/uevent", card.devpath(card.primary())?);
    fs::write(&path, action).with_context(|| path.clone())
}

/// Its output, without the last line break.
pub fn systemctl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("systemctl").args(arguments).output().context("systemctl")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("systemctl {}: {}\n{}", arguments.join(" "), why.trim(), log());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Scenarios restart it more often than the unit's start limit has it.
pub(super) fn restart() -> Result<()> {
    systemctl(&["reset-failed", UNIT, "dmashared.socket"])?;
    systemctl(&["start", "dmashared.socket"])?;
    // Stopped for good in between: nothing is kept over that.
    systemctl(&["stop", UNIT])?;
    systemctl(&["start", UNIT])?;
    Ok(())
}

/// As an upgrade does it: what there is goes on.
pub(super) fn upgrade() -> Result<()> {
    systemctl(&["reset-failed", UNIT, "dmashared.socket"])?;
    systemctl(&["restart", UNIT]).map(drop)
}

/// Where a unit is told something until the next boot.
const HELD: &str = "/run/systemd/system/dmashared.service.d/held.conf";

/// Kills it, and has systemd start it only after `meanwhile`.
pub(super) fn kill_while(meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let held = Path::new(HELD);
    fs::create_dir_all(held.parent().context("a folder")?)?;
    fs::write(held, "[Service]\nRestartSec=1h\n")?;
    systemctl(&["daemon-reload"])?;
    let pid = nix::unistd::Pid::from_raw(broker()?.0);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    let done = crate::process::eventually("systemd waits to start it", BOUND, || {
        Ok(systemctl(&["show", "-P", "SubState", UNIT])? == "auto-restart")
    });
    let done = done.and_then(|()| meanwhile());
    fs::remove_file(held)?;
    // Empty but for others' words.
    _ = fs::remove_dir(held.parent().context("a folder")?);
    systemctl(&["daemon-reload"])?;
    done?;
    // One that is to be restarted cannot be started; this is what systemd itself does after the hour.
    upgrade()
}

/// Kills it, and waits until systemd has started it again.
pub(super) fn kill() -> Result<()> {
    systemctl(&["reset-failed", UNIT, "dmashared.socket"])?;
    let old = broker()?;
    let pid = nix::unistd::Pid::from_raw(old.0);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    came_back(old)
}

/// Waits until systemd has started another one.
pub(super) fn came_back(old: Process) -> Result<()> {
    let until = std::time::Instant::now() + BOUND;
    loop {
        let state = systemctl(&["show", "-P", "ActiveState", UNIT])?;
        let main = systemctl(&["show", "-P", "MainPID", UNIT])?;
        if state == "active" && main != old.0.to_string() && main != "0" {
            return Ok(());
        }
        if state == "failed" || std::time::Instant::now() > until {
            bail!("{UNIT} does not come back: {state}\n{}", log());
        }
    }
}

pub(super) fn stop() -> Result<()> {
    systemctl(&["stop", UNIT, "dmashared.socket"]).map(drop)
}

pub(super) fn broker() -> Result<Process> {
    let pid: i32 = systemctl(&["show", "-P", "MainPID", UNIT])?.parse()?;
    if pid == 0 {
        bail!("{UNIT} does not run");
    }
    Ok(Process(pid))
}

pub(super) fn log() -> String {
    let output = Command::new("journalctl")
        .args(["--unit", UNIT, "--boot", "--lines=60", "--no-pager", "--output=short-monotonic"])
        .output();
    output.map_or_else(
        |error| format!("journalctl: {error}"),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Of its present process; the journal has what a line is about in fields of their own.
pub(super) fn log_of_run() -> Result<String> {
    let pid = format!("_PID={}", broker()?.0);
    let fields = "--output-fields=MESSAGE,DMASHARE_TROUBLE";
    // What it wrote may be on its way still.
    journalctl(&["--sync"])?;
    journalctl(&["--boot", "--no-pager", "--output=cat", fields, &pid])
}

/// Its output.
pub fn journalctl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("journalctl").args(arguments).output().context("journalctl")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("journalctl {}: {}", arguments.join(" "), why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
