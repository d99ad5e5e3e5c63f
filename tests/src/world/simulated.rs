//! The simulated machine: a folder of devices, a private bus, and the daemon as a child.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dmashare_proto::keeper::{Batch, Change, Key, ToKeeper, encode};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, send, socket,
    socketpair,
};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::BOUND;
use crate::bus::private;
use crate::{Bus, Card, Process, Role};

/// A process that ends with this.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // It fails where the process has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What systemd would hold for the broker.
struct Inherited {
    /// The broker's end of the connection to the keeper.
    connection: OwnedFd,
    /// The clients' socket.
    listener: OwnedFd,
}

impl Inherited {
    /// Whether programs that are started get it: no one else's, or it would not end with this.
    fn pass(&self, on: bool) -> Result<()> {
        let flags = if on { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        for fd in [&self.connection, &self.listener] {
            fcntl(fd, FcntlArg::F_SETFD(flags))?;
        }
        Ok(())
    }
}

pub(super) struct Simulated {
    // In the order in which they go.
    broker: Option<Kept>,
    /// What the broker has over its restarts, and what it inherits.
    keeper: Option<(Kept, Inherited)>,
    _bus: Kept,
    seqnum: AtomicU64,
    dir: TempDir,
}

impl Simulated {
    pub fn start(config: &str) -> Result<(Self, Bus)> {
        let dir = tempfile::Builder::new().prefix("dmashare-").tempdir()?;
        let bus = start_bus(dir.path())?;
        let mut this =
            Self { broker: None, keeper: None, _bus: bus, seqnum: AtomicU64::new(1), dir };
        for role in [Role::Egpu, Role::Igpu, Role::Stay] {
            this.make(role)?;
        }
        fs::create_dir(this.path("dmashared.conf.d"))?;
        fs::write(this.path("dmashared.toml"), "")?;
        fs::write(this.path("dmashared.conf.d/91-scenario.toml"), config)?;
        let bus = Bus::connect(&this.bus_address())?;
        this.restart()?;
        Ok((this, bus))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn bus_address(&self) -> String {
        format!("unix:path={}", private::socket_in(self.dir.path()).display())
    }

    pub fn socket(&self) -> PathBuf {
        self.path("broker.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("dmashared.log")).unwrap_or_default()
    }

    /// Another life of the service, which has nothing of the former one's.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        let (keeper, connection) = start_keeper()?;
        let listener = listen_at(&self.socket())?;
        self.keeper = Some((keeper, Inherited { connection, listener }));
        self.begin(&[])
    }

    /// The service dies in the midst of what it does.
    pub fn kill(&mut self) -> Result<()> {
        let mut broker = self.broker.take().context("dmashared does not run")?;
        broker.0.kill()?;
        broker.0.wait()?;
        Ok(())
    }

    /// Stopped and started, as an upgrade does it.
    pub fn upgrade(&mut self) -> Result<()> {
        let mut broker = self.broker.take().context("dmashared does not run")?;
        kill(Pid::from_raw(broker.0.id().cast_signed()), Signal::SIGTERM)?;
        let status = broker.0.wait()?;
        if !status.success() {
            bail!("dmashared ended with {status}:\n{}", self.log());
        }
        self.begin(&[])
    }

    /// It has died, or is about to: it is waited for.
    pub fn reap(&mut self) -> Result<()> {
        if let Some(mut broker) = self.broker.take() {
            broker.0.wait()?;
        }
        Ok(())
    }

    /// Puts a record in the place of one that the keeper has.
    pub fn spoil(&self, key: Key, bytes: &[u8]) -> Result<()> {
        let (_, inherited) = self.keeper.as_ref().context("no keeper")?;
        let change = Change::Put { bytes: bytes.to_vec(), fds: None };
        let batch = Batch { entries: vec![(key, change)], ..Batch::default() };
        let message = encode(&ToKeeper::Batch(batch))?;
        send(inherited.connection.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Another life of the service, which goes on with what the keeper has; `below` are the words of a
    /// program that starts it.
    pub fn begin(&mut self, below: &[String]) -> Result<()> {
        let (_, inherited) = self.keeper.as_ref().context("no keeper")?;
        let ready = self.path("notify.sock");
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let notify = UnixDatagram::bind(&ready)?;
        let program = daemon();
        let log = File::options().append(true).create(true).open(self.path("dmashared.log"))?;
        // As systemd passes what it stores: from descriptor 3 on, with their names.
        let script = format!(
            "exec 3<&{} 4<&{}; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=dmashared.socket:keeper; \
             exec \"$@\"",
            inherited.listener.as_raw_fd(),
            inherited.connection.as_raw_fd()
        );
        let mut command = Command::new("bash");
        command
            .args(["-c", &script, "bash"])
            .args(below)
            .arg(&program)
            .arg("--simulate")
            .arg(self.dir.path())
            .arg("--bus")
            .arg(self.bus_address())
            .arg("--socket")
            .arg(self.socket())
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--config")
            .arg(self.path("dmashared.toml"))
            .env("NOTIFY_SOCKET", &ready)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        inherited.pass(true)?;
        let child = command.spawn().with_context(|| {
            format!("{}: `cargo build -p dmashared --features simulate`", program.display())
        });
        inherited.pass(false)?;
        let mut child = Kept(child?);
        // It says that it is ready, or ends and says why.
        let step = Duration::from_millis(250);
        notify.set_read_timeout(Some(step))?;
        let mut message = [0; 256];
        for _ in 0..BOUND.as_millis() / step.as_millis() {
            if let Ok(len) = notify.recv(&mut message)
                && message[..len].starts_with(b"READY=1")
            {
                self.broker = Some(child);
                return Ok(());
            }
            if let Some(status) = child.0.try_wait()? {
                bail!("dmashared ended with {status}:\n{}", self.log());
            }
        }
        bail!("dmashared was not ready within {BOUND:?}:\n{}", self.log())
    }

    pub fn stop(&mut self) -> Result<()> {
        let Some(mut broker) = self.broker.take() else { return Ok(()) };
        // For good: nobody comes for what it had.
        kill(Pid::from_raw(broker.0.id().cast_signed()), Signal::SIGINT)?;
        let status = broker.0.wait()?;
        self.keeper = None;
        if !status.success() {
            bail!("dmashared ended with {status}:\n{}", self.log());
        }
        Ok(())
    }

    pub fn broker(&self) -> Result<Process> {
        let broker = self.broker.as_ref().context("dmashared does not run")?;
        Ok(Process(broker.0.id().cast_signed()))
    }

    fn make(&self, role: Role) -> Result<PathBuf> {
        let (name, pci, removable, nodes) = facts(role);
        let folder = self.path("devices").join(name);
        fs::create_dir_all(&folder)?;
        for node in nodes {
            fs::write(folder.join(node), "")?;
        }
        if !pci.is_empty() {
            fs::write(folder.join("config"), [0xf4, 0x1a, 0x50, 0x10])?;
        }
        let toml = format!(
            "driver = \"{name}-sim\"\npci = \"{pci}\"\nremovable = {removable}\nnodes = {nodes:?}\n"
        );
        // Written last: without it the folder is not complete.
        fs::write(folder.join("device.toml"), toml)?;
        Ok(folder)
    }

    pub fn card(&self, role: Role) -> Result<Option<Card>> {
        let (name, pci, _, nodes) = facts(role);
        let sysfs = self.path("devices").join(name);
        let nodes: Vec<PathBuf> = nodes.iter().map(|node| sysfs.join(node)).collect();
        let driver = format!("{name}-sim");
        let card = Card { role, driver, pci: pci.to_owned(), nodes, sysfs, simulated: true };
        Ok(card.primary().exists().then_some(card))
    }

    pub fn plug(&self, role: Role) -> Result<Card> {
        self.make(role)?;
        match UnixDatagram::unbound()?.send_to(b"add", self.path("udev.sock")) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionRefused => {
                return Err(error).context("udevd's socket");
            }
            // Or nobody listens.
            _ => {}
        }
        self.card(role)?.context("the card was just made")
    }

    pub fn unplug(&self, role: Role) -> Result<()> {
        let card = self.card(role)?.with_context(|| format!("the card {role:?} is not there"))?;
        fs::remove_dir_all(&card.sysfs)?;
        for node in &card.nodes {
            self.uevent("remove", &card.devpath(node)?, "drm", "")?;
        }
        let device = card.sysfs.file_name().unwrap_or_default().to_string_lossy();
        self.uevent("remove", &format!("/devices/sim/{device}"), "pci", "")
    }

    /// Its folder stays: nothing but the card itself says that it is gone.
    pub fn vanish(&self) -> Result<()> {
        let card = self.card(Role::Egpu)?.context("the eGPU is not there")?;
        // At once, for a reader sees all of it or nothing.
        let new = self.path("all-ones");
        fs::write(&new, [0xff; 4])?;
        Ok(fs::rename(new, card.sysfs.join("config"))?)
    }

    pub fn wedge(&self, card: &Card, words: &str, injected: bool) -> Result<()> {
        let (more, prefix) = if injected { ("SYNTH_UUID=0\0", "SYNTH_ARG_") } else { ("", "") };
        let lines = words.split(' ').map(|word| format!("{prefix}{word}\0"));
        let more: String = std::iter::once(more.to_owned()).chain(lines).collect();
        self.uevent("change", &card.devpath(card.primary())?, "drm", &more)
    }

    pub fn synthetic(&self, card: &Card, action: &str) -> Result<()> {
        self.uevent(action, &card.devpath(card.primary())?, "drm", "SYNTH_UUID=0\0")
    }

    /// As lib/kobject_uevent.c writes them.
    fn uevent(&self, action: &str, path: &str, subsystem: &str, more: &str) -> Result<()> {
        let seqnum = self.seqnum.fetch_add(1, Ordering::Relaxed);
        let text = format!(
            "{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0{more}SEQNUM={seqnum}\0"
        );
        let socket = UnixDatagram::unbound()?;
        match socket.send_to(text.as_bytes(), self.path("uevent.sock")) {
            // Nobody listens; the kernel does not mind either.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            sent => sent.map(drop).context("the uevent socket"),
        }
    }
}

fn facts(role: Role) -> (&'static str, &'static str, bool, &'static [&'static str]) {
    match role {
        Role::Egpu => ("egpu", "0000:03:00.0", true, &["card0", "renderD128"]),
        Role::Igpu => ("igpu", "", false, &["card1"]),
        Role::Stay => ("stay", "0000:00:03.0", false, &["card2", "renderD129"]),
    }
}

/// DMASHARED, else what lies beside this program, or one folder above (a test of cargo's).
fn daemon() -> PathBuf {
    if let Some(path) = std::env::var_os("DMASHARED") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("dmashared"));
    beside.into_iter().find(|path| path.exists()).unwrap_or_else(|| "dmashared".into())
}

/// A keeper, and the broker's end of the connection, which programs that are started get.
fn start_keeper() -> Result<(Kept, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let program = daemon().with_file_name("dmashare-keeper");
    // The child has its own end alone: it ends with the last one of the others.
    let child = Command::new(&program)
        .stdin(Stdio::from(theirs))
        .spawn()
        .with_context(|| format!("{}: `cargo build -p dmashare-helpers`", program.display()))?;
    Ok((Kept(child), ours))
}

/// As systemd listens for the service: it goes on while there is none.
fn listen_at(path: &Path) -> Result<OwnedFd> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

fn start_bus(dir: &Path) -> Result<Kept> {
    let mut command = private::dbus_daemon(dir)?;
    let mut child = command.stdout(Stdio::piped()).spawn().context("dbus-daemon (package dbus)")?;
    let mut stdout = child.stdout.take().context("its output")?;
    let child = Kept(child);
    // It prints its address when it listens.
    let mut byte = [0];
    stdout.read_exact(&mut byte).context("dbus-daemon did not start")?;
    Ok(child)
}
