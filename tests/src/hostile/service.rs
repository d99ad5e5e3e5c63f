//! A broker of a scenario's own, started in a way that the harness's is not: without a bus, without
//! a device, with a configuration that is wrong.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{BOUND, World};

/// A folder with what one broker needs, and the broker while it runs.
pub struct Service {
    dir: TempDir,
    child: Option<Child>,
    program: PathBuf,
    before: Vec<String>,
    simulated: bool,
}

impl Service {
    /// Of the same program that the world's broker runs; on devices of its own, of which there are
    /// none yet (simulated), or on those that the machine has.
    pub fn new(world: &World, simulated: bool) -> Result<Self> {
        let program = fs::read_link(format!("/proc/{}/exe", world.broker()?.0))?;
        let dir = tempfile::Builder::new().prefix("dmashare-").tempdir()?;
        fs::write(dir.path().join("dmashared.toml"), "")?;
        Ok(Self { dir, child: None, program, before: Vec::new(), simulated })
    }

    /// A file or folder of it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs it by way of another program (`unshare`).
    pub fn by(&mut self, words: &[&str]) {
        self.before = words.iter().map(|&word| word.to_owned()).collect();
    }

    /// Where its clients connect.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("broker.sock")
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn command(&self, bus: &str) -> Result<Command> {
        let mut words = self.before.iter().map(AsRef::as_ref).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().context("a program")?);
        command.args(words).args(["--bus", bus]);
        if self.simulated {
            command.arg("--simulate").arg(self.dir.path());
        }
        for (option, name) in
            [("--socket", "broker.sock"), ("--state-dir", "state"), ("--config", "dmashared.toml")]
        {
            command.arg(option).arg(self.path(name));
        }
        let log = File::create(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env_remove("JOURNAL_STREAM").env_remove("LISTEN_FDS");
        Ok(command)
    }

    /// Starts it, and waits until it says that it is ready.
    pub fn start(&mut self, bus: &str) -> Result<()> {
        let notify = self.path("notify.sock");
        let ready = UnixDatagram::bind(&notify)?;
        let step = Duration::from_millis(250);
        ready.set_read_timeout(Some(step))?;
        let child = self.command(bus)?.env("NOTIFY_SOCKET", &notify).spawn()?;
        self.child = Some(child);
        let end = Instant::now() + BOUND;
        let mut message = [0; 256];
        loop {
            if let Ok(len) = ready.recv(&mut message)
                && message[..len].starts_with(b"READY=1")
            {
                return Ok(());
            }
            let child = self.child.as_mut().context("it was just started")?;
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status}:\n{}", self.log());
            }
            ensure!(Instant::now() < end, "it was not ready within {BOUND:?}:\n{}", self.log());
        }
    }

    /// Starts it where it is to end by itself; gives how it did.
    pub fn run(&mut self, bus: &str) -> Result<ExitStatus> {
        let child = self.command(bus)?.spawn()?;
        let pidfd = dmashare_uapi::pidfd::open(child.id().cast_signed())?;
        let child = self.child.insert(child);
        let ended = dmashare_uapi::sync_file::wait(std::os::fd::AsFd::as_fd(&pidfd), Some(BOUND))?;
        ensure!(ended, "it runs, though it should not");
        Ok(child.wait()?)
    }

    /// Stops it as its service manager does.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let status = child.wait()?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Adds a simulated device, and has udev tell of it.
    pub fn plug(&self, name: &str) -> Result<()> {
        let folder = self.path("devices").join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("card0"), "")?;
        fs::write(
            folder.join("device.toml"),
            format!("driver = \"{name}-sim\"\nnodes = [\"card0\"]\n"),
        )?;
        UnixDatagram::unbound()?.send_to(b"add", self.path("udev.sock"))?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails where the process has ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A bus of a scenario's own. Ended when dropped.
pub struct PrivateBus(Child);

impl PrivateBus {
    /// Starts one that listens on a path; returns when it does.
    pub fn start(path: &Path) -> Result<Self> {
        let config = path.with_extension("conf");
        let address = format!("unix:path={}", path.display());
        let text = format!(
            "<busconfig><type>session</type><listen>{address}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/><allow own=\"*\"/>\
             <allow receive_sender=\"*\"/></policy></busconfig>"
        );
        fs::write(&config, text)?;
        let mut child = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("dbus-daemon (package dbus)")?;
        let stdout = child.stdout.take();
        let bus = Self(child);
        // It prints its address when it listens.
        stdout.context("its output")?.read_exact(&mut [0]).context("dbus-daemon did not start")?;
        Ok(bus)
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
