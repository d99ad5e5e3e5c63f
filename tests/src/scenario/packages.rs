//! The Debian packages: installed and used, upgraded under clients, and taken away without a trace.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use dmashare::Connection;

use super::{Skip, restart};
use crate::World;
use crate::scenario::figures::show;
use crate::world::systemctl;

/// Where they lie, by version.
const STAGED: &str = "/mnt/stage/packages";
const NAMES: [&str; 4] = ["dmashared", "dmasharectl", "libdmashare-dev", "libdmashare1"];
/// What the kernel made for root alone, and the service's group was let into.
const OPENED: [&str; 2] = ["/sys/kernel/debug", "/dev/dma_heap/system"];
/// What systemd's tools and dpkg say of what they have done; the machine has no other catalogue.
const USUAL: [&str; 5] = [
    "No items in catalog.",
    "Creating ",
    "Created symlink",
    "Removed ",
    "dpkg: warning: downgrading ",
];
/// What changes by itself, is the kernel's, or is a record of what was done.
const VOLATILE: [&str; 10] =
    ["proc", "sys", "dev", "run", "mnt", "tmp", "root", "var/log", "var/cache", "var/lib/dpkg"];

/// From a lower version, with something of everything there: who is connected sees nothing of it.
pub(super) fn upgraded(world: &mut World) -> Result<()> {
    let (before, current) = (staged("before")?, staged("current")?);
    install(&before)?;
    let (old, version) = (world.broker()?, installed("dmashared")?);
    restart::goes_on(world, |world| {
        install(&current)?;
        ensure!(world.broker()? != old, "the service is the old one still");
        let now = installed("dmashared")?;
        ensure!(now != version, "it is {version} still");
        show(format_args!("{version} → {now}"));
        Ok(())
    })
}

/// The whole way: nothing, installed, used for the first time, purged; and nothing again.
pub(super) fn purged(world: &mut World) -> Result<()> {
    let current = staged("current")?;
    let done = come_and_go(world, &current);
    // For those that come after this one.
    install(&current)?;
    systemctl(&["start", "dmashared.service"])?;
    world.wait_ready()?;
    done
}

fn come_and_go(world: &World, current: &[PathBuf]) -> Result<()> {
    purge()?;
    let nothing = Left::look()?;
    nothing.is_nothing()?;
    install(current)?;
    ensure!(state("dmashared.socket")? == "active", "its socket does not listen");
    ensure!(state("dmashared.service")? == "inactive", "it runs, and nobody has asked");
    let devices = Connection::connect_to(world.socket())?.devices()?;
    ensure!(!devices.is_empty(), "no GPU");
    ensure!(state("dmashared.service")? == "active", "it has answered, and does not run");
    let new = Left::look()?;
    ensure!(new.files.len() > nothing.files.len(), "nothing was installed; this shows nothing");
    show(format_args!(
        "{} files more while it is installed",
        new.files.difference(&nothing.files).count()
    ));
    purge()?;
    let left = Left::look()?;
    left.is_nothing()?;
    if let Some(file) = left.files.difference(&nothing.files).next() {
        bail!("{} is left behind by a purge", file.display());
    }
    if let Some(file) = nothing.files.difference(&left.files).next() {
        bail!("{} is taken away by a purge, and was not the packages'", file.display());
    }
    for (before, after) in nothing.accounts.iter().zip(&left.accounts) {
        ensure!(before == after, "accounts before:\n{before}\nand after:\n{after}");
    }
    Ok(())
}

/// What there is on the machine.
struct Left {
    files: BTreeSet<PathBuf>,
    accounts: Vec<String>,
}

impl Left {
    fn look() -> Result<Self> {
        let mut files = BTreeSet::new();
        walk(Path::new("/"), &mut files)?;
        let accounts = ["passwd", "group", "shadow", "gshadow"]
            .into_iter()
            .map(|name| fs::read_to_string(Path::new("/etc").join(name)).context(name))
            .collect::<Result<_>>()?;
        Ok(Self { files, accounts })
    }

    /// Of the packages.
    fn is_nothing(&self) -> Result<()> {
        for file in &self.files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // The machine's own are called dmashare-vm.
            let ours = name.contains("dmashare") && !name.contains("dmashare-vm");
            // What runs this scenario is not installed.
            ensure!(!ours, "there is {}", file.display());
        }
        ensure!(!Path::new("/run/dmashare").exists(), "there is /run/dmashare");
        for accounts in &self.accounts {
            ensure!(!accounts.contains("dmashare"), "there is an account:\n{accounts}");
        }
        // It fails where there is none.
        let units = Command::new("systemctl")
            .args(["list-unit-files", "--no-legend", "dmashare*"])
            .output()
            .context("systemctl")?;
        let units = String::from_utf8_lossy(&units.stdout);
        ensure!(units.trim().is_empty(), "there are units:\n{units}");
        for path in OPENED {
            let Ok(is) = fs::metadata(path) else { continue };
            ensure!(
                is.gid() == 0 && is.mode() & 0o077 == 0,
                "{path} is open: mode {:o}, group {}",
                is.mode(),
                is.gid()
            );
        }
        Ok(())
    }
}

fn walk(folder: &Path, all: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if VOLATILE.iter().any(|volatile| path == Path::new("/").join(volatile)) {
            continue;
        }
        if kind.is_dir() {
            walk(&path, all)?;
        }
        all.insert(path);
    }
    Ok(())
}

fn staged(version: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(STAGED).join(version);
    let Ok(entries) = fs::read_dir(&folder) else {
        bail!(Skip("no packages are staged (`vm run --packages`)".to_owned()));
    };
    let mut all = Vec::new();
    for entry in entries {
        all.push(entry?.path());
    }
    ensure!(all.len() == NAMES.len(), "{all:?} in {}", folder.display());
    Ok(all)
}

fn install(debs: &[PathBuf]) -> Result<()> {
    // Scenarios have it restarted more often than the unit's start limit has it.
    for unit in ["dmashared.service", "dmashared.socket"] {
        // One that is not installed has not failed either.
        _ = systemctl(&["reset-failed", unit]);
    }
    dpkg(Command::new("dpkg").arg("--install").args(debs))
}

fn purge() -> Result<()> {
    dpkg(Command::new("dpkg").arg("--purge").args(NAMES))
}

fn dpkg(command: &mut Command) -> Result<()> {
    let output = command.env("DEBIAN_FRONTEND", "noninteractive").output().context("dpkg")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "dpkg: {} {said}\n{errors}", output.status);
    // What else maintainers' scripts say is for a person to act on; a downgrade is this scenario's doing.
    let usual = |line: &str| USUAL.iter().any(|usual| line.starts_with(usual));
    let complaint = errors.lines().find(|line| !usual(line));
    ensure!(complaint.is_none(), "dpkg said: {errors}");
    Ok(())
}

fn installed(package: &str) -> Result<String> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${Version}", package])
        .output()
        .context("dpkg-query")?;
    ensure!(output.status.success(), "{package} is not installed");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A unit's ActiveState.
fn state(unit: &str) -> Result<String> {
    systemctl(&["show", "-P", "ActiveState", unit])
}
