//! umockdev's testbed with the service in it, and a bus for the two of us.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getegid, geteuid, write};
use tempfile::TempDir;
use tokio::time::timeout;
use zbus::Connection;
use zbus::fdo::{DBusProxy, ObjectManagerProxy};
use zbus::zvariant::OwnedValue;

const NAME: &str = "org.dmashare.Broker1";
/// A service that takes longer to come or to go has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// udevd's files on this machine. They say nothing about the recorded ones, and umockdev lets them through.
const UDEV: &str = "/run/udev";

/// A bus of our own.
pub struct Bus {
    daemon: Child,
    address: String,
    connection: Connection,
    _dir: TempDir,
}

impl Bus {
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("bus.conf");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\
             <listen>unix:path={}/bus</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/>\
             </policy></busconfig>",
            dir.path().display()
        );
        fs::write(&config, text).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--print-address"])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is needed for this test: apt install dbus");
        // It says its address once it listens.
        let address = first_line(&mut daemon);
        let connection = zbus::connection::Builder::address(address.as_str())
            .unwrap()
            .build()
            .await
            .expect("the test's own bus");
        Self { daemon, address, connection, _dir: dir }
    }

    /// The properties of every device that the service shows.
    pub async fn devices(&self) -> Vec<HashMap<String, OwnedValue>> {
        let objects = ObjectManagerProxy::builder(&self.connection)
            .destination(NAME)
            .unwrap()
            .path("/org/dmashare/Broker1")
            .unwrap()
            .build()
            .await
            .unwrap()
            .get_managed_objects()
            .await
            .unwrap();
        objects
            .into_values()
            .filter_map(|mut interfaces| interfaces.remove("org.dmashare.Device1"))
            .collect()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

/// The service on a recorded machine.
pub struct Testbed {
    umockdev: Child,
    /// What the service has as /sys.
    pub sysfs: PathBuf,
    dir: TempDir,
}

impl Testbed {
    /// Starts the service, and waits until it is on the bus.
    pub async fn start(bus: &Bus, recording: &Path, config: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = fs::read_to_string(recording).unwrap();
        let (_sources, devices) = text.split_once("\n\n").unwrap();
        fs::write(path("machine.umockdev"), devices).unwrap();
        fs::write(path("dmashared.toml"), config).unwrap();
        let mut command = Command::new("umockdev-run");
        command.arg("--device").arg(path("machine.umockdev")).args(["--", "sh", "-c"]);
        // The testbed is where nobody but its inhabitants knows.
        command.arg("echo \"$UMOCKDEV_DIR\"; exec \"$@\"").arg("sh");
        command.arg(env!("CARGO_BIN_EXE_dmashared")).args(["--bus", &bus.address]);
        command.arg("--config").arg(path("dmashared.toml"));
        command.arg("--socket").arg(path("broker.sock"));
        command.arg("--state-dir").arg(path("state"));
        command.stdout(Stdio::piped()).stderr(fs::File::create(path("log")).unwrap());
        hide_udev(&mut command);
        let dbus = DBusProxy::new(&bus.connection).await.unwrap();
        let mut owners = dbus.receive_name_owner_changed_with_args(&[(0, NAME)]).await.unwrap();
        let mut umockdev = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("umockdev-run is needed for this test: apt install umockdev")
            }
            Err(error) => panic!(
                "umockdev-run cannot be started with {UDEV} hidden, which takes a user \
                 namespace, or root: {error}"
            ),
        };
        let root = first_line(&mut umockdev);
        let testbed = Self { umockdev, sysfs: Path::new(&root).join("sys"), dir };
        assert!(root.starts_with('/'), "umockdev-run made no testbed: {}", testbed.log());
        let owned = timeout(PATIENCE, owners.next()).await;
        assert!(owned.is_ok(), "the service is not on the bus: {}", testbed.log());
        testbed
    }

    /// What the service, and umockdev, have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Tells the service to stop, and waits until it is off the bus and gone.
    pub async fn stop(mut self, bus: &Bus) {
        let dbus = DBusProxy::new(&bus.connection).await.unwrap();
        let mut owners = dbus.receive_name_owner_changed_with_args(&[(0, NAME)]).await.unwrap();
        self.terminate();
        let left = timeout(PATIENCE, owners.next()).await;
        assert!(left.is_ok(), "the service does not stop: {}", self.log());
        let status = self.umockdev.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// umockdev-run hands the signal on, and clears its testbed away.
    fn terminate(&self) {
        let pid = Pid::from_raw(self.umockdev.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if matches!(self.umockdev.try_wait(), Ok(None)) {
            self.terminate();
            _ = self.umockdev.wait();
        }
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Puts an empty folder over udevd's, for the child alone: where udevd runs, the service waits for its
/// word on every node, and it has none on recorded ones.
fn hide_udev(command: &mut Command) {
    if !Path::new(UDEV).exists() {
        return;
    }
    let (uid, gid) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS;
    if !uid.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{uid} {uid} 1")),
        (c"/proc/self/gid_map", format!("{gid} {gid} 1")),
    ];
    let hide = move || {
        unshare(flags)?;
        if flags.contains(CloneFlags::CLONE_NEWUSER) {
            for (file, text) in &maps {
                let file = open(*file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
                write(&file, text.as_bytes())?;
            }
        }
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("tmpfs"), UDEV, Some("tmpfs"), MsFlags::empty(), none)?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls and allocates nothing: the texts are made
    // before, and paths of this length are copied to the stack.
    unsafe { command.pre_exec(hide) };
}
