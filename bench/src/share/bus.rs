//! The same two calls over D-Bus, by sd-bus: `sd-bus.c`, beside this folder.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use dmashare_tests::bus::private;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tempfile::TempDir;

use crate::other::{Other, Peer};

/// Who carries the messages.
#[derive(Clone, Copy)]
pub enum Carrier {
    /// The reference implementation.
    Daemon,
    /// The one that most distributions have.
    Broker,
}

/// All of them.
pub const RIVALS: &[(&str, Carrier)] =
    &[("sd-bus over dbus-daemon", Carrier::Daemon), ("sd-bus over dbus-broker", Carrier::Broker)];

/// A bus, a service on it, and a client on either side. What is in the middle is two processes here.
pub struct Shares {
    exporter: Peer,
    orders: UnixStream,
    _importer: Other,
    _service: Peer,
    _bus: Peer,
    _folder: TempDir,
}

impl Shares {
    /// Starts all of them; or says what is missing.
    pub fn start(carrier: Carrier) -> Result<Result<Self, String>> {
        let program = std::env::current_exe()?.with_file_name("dmashare-bench-sd-bus");
        let needed = match carrier {
            Carrier::Daemon => "/usr/bin/dbus-daemon",
            Carrier::Broker => "/usr/bin/dbus-broker",
        };
        for file in [program.as_path(), Path::new(needed)] {
            if !file.exists() {
                return Ok(Err(format!("{} is not there", file.display())));
            }
        }
        Self::begin(carrier, &program).map(Ok)
    }

    fn begin(carrier: Carrier, program: &Path) -> Result<Self> {
        let folder = TempDir::new()?;
        let socket = private::socket_in(folder.path());
        let address = format!("unix:path={}", socket.display());
        let bus = match carrier {
            // What it says first is its address.
            Carrier::Daemon => Peer::start(&mut private::dbus_daemon(folder.path())?)?,
            Carrier::Broker => Peer::start(Command::new(program).arg("controller").arg(&socket))?,
        };
        let service = Peer::start(Command::new(program).args(["service", &address]))?;
        let (tokens, its_tokens) = UnixStream::pair()?;
        let (mut words, its_words) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command.args(["importer", &address]).stdin(OwnedFd::from(its_tokens));
        let importer = Other::start(command.stdout(OwnedFd::from(its_words)))?;
        // The first of its words is for us, the others are for the exporter.
        words.read_exact(&mut [0]).context("the importer over D-Bus did not start")?;
        let (orders, its_orders) = UnixStream::pair()?;
        for socket in [&tokens, &words] {
            // This program starts no other until both are closed here.
            fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let fds = [tokens.as_raw_fd(), words.as_raw_fd()];
        let mut command = Command::new(program);
        command.args(["exporter", &address]).args(fds.map(|fd| fd.to_string()));
        let exporter = Peer::start(command.stdin(OwnedFd::from(its_orders)))?;
        let (_importer, _service, _bus, _folder) = (importer, service, bus, folder);
        Ok(Self { exporter, orders, _importer, _service, _bus, _folder })
    }

    /// Makes so many; gives the nanoseconds of each.
    pub fn take(&mut self, count: u32) -> Result<f64> {
        self.orders.write_all(&count.to_ne_bytes())?;
        let mut took = [0; 8];
        self.exporter.words().read_exact(&mut took).context("the exporter over D-Bus")?;
        Ok(u64::from_ne_bytes(took) as f64 / f64::from(count))
    }
}
