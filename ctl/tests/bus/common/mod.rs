//! A private bus with a stand-in for the service.

mod jobs;
mod notifications;
mod service;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use zbus::blocking::Connection;

pub use jobs::Plan;
pub use notifications::{Notification, Notifications};
pub use service::{Client, PATH, Told};

/// What a bus lets its users do.
pub enum Policy {
    Open,
    /// Nobody may call the service.
    NoCalls,
}

/// A `dbus-daemon`, killed when it is dropped.
pub struct PrivateBus {
    daemon: Child,
    pub address: String,
    pub dir: TempDir,
}

impl PrivateBus {
    pub fn start(policy: &Policy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let denied = match policy {
            Policy::Open => "",
            Policy::NoCalls => "<deny send_destination=\"org.dmashare.Broker1\"/>",
        };
        let config = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\
             <type>session</type><listen>unix:dir={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/><allow own=\"*\"/>{denied}</policy></busconfig>",
            dir.path().display()
        );
        let file = dir.path().join("bus.conf");
        std::fs::write(&file, config).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", file.display()))
            .args(["--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            // It complains of limits that it may not raise.
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is needed for this test: apt install dbus");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.ends_with('\n'), "dbus-daemon did not start");
        Self { daemon, address: address.trim().to_owned(), dir }
    }

    /// Serves `told` until the connection is dropped.
    pub fn serve(&self, told: Told) -> Connection {
        service::serve(&self.address, told)
    }

    /// Runs the tool on this bus.
    pub fn ctl(&self, args: &[&str]) -> Ran {
        let mut command = ctl();
        command.env("DMASHARE_BUS", &self.address).args(args);
        ran(command.output().unwrap())
    }

    /// Starts the tool on this bus, its output to be read while it runs.
    pub fn start_ctl(&self, args: &[&str]) -> Running {
        let mut command = ctl();
        command.env("DMASHARE_BUS", &self.address).args(args);
        Running::start(&mut command)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

/// The tool, with nothing of the tester's environment that it looks at.
pub fn ctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmasharectl"));
    command.env_remove("DMASHARE_BUS").env("TZ", "UTC");
    command
}

/// What a run of the tool gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("ended by a signal"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A run takes a second, on a machine that has much else to do.
const RUNS_AT_MOST: Duration = Duration::from_secs(60);

/// The tool while it runs; killed when it is dropped.
pub struct Running {
    child: Child,
    /// Kills it when it has run for too long; ended by being dropped.
    _watchdog: Sender<()>,
    out: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (watchdog, ended) = channel();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        std::thread::spawn(move || {
            if ended.recv_timeout(RUNS_AT_MOST) == Err(RecvTimeoutError::Timeout) {
                // Not waited for yet, so the number is still its own.
                kill(pid, Signal::SIGKILL).unwrap();
            }
        });
        Self { child, _watchdog: watchdog, out }
    }

    /// The next line, without its end; empty if there is none any more.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// The rest of what it says, and its code.
    pub fn end(mut self) -> Ran {
        let mut out = String::new();
        self.out.read_to_string(&mut out).unwrap();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let code = self.child.wait().unwrap().code().expect("ended by a signal");
        Ran { code, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
