//! A private bus with a stand-in for the service.

mod service;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use zbus::blocking::Connection;

pub use service::Told;

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
