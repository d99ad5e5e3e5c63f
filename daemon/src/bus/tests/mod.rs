//! The face on a private bus, as a client of the bus sees it.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dmashare_proto::state_page::DeviceState;
use dmashare_proto::{ClientId, DeviceId};
use tempfile::TempDir;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream};

use super::*;
use crate::view::{ClientView, Counts, DeviceView};

mod causes;
mod connect;
mod eject;
mod inhibit;
mod introspection;
mod objects;
mod presence;
mod rehearse;

/// A dbus-daemon of our own, at a place of our own.
struct PrivateBus {
    daemon: Child,
}

impl PrivateBus {
    /// `None` where there is no dbus-daemon: the test is then skipped.
    fn start(dir: &Path) -> Option<Self> {
        let config = dir.join("bus.conf");
        let text = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"#,
            socket(dir).display()
        );
        fs::create_dir_all(dir).unwrap();
        fs::write(&config, text).unwrap();
        let daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--print-address"])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .spawn();
        match daemon {
            Ok(mut daemon) => {
                // It says its address once it listens.
                let mut line = String::new();
                let stdout = daemon.stdout.take().unwrap();
                std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)
                    .unwrap();
                assert!(line.starts_with("unix:path="), "{line:?}");
                Some(Self { daemon })
            }
            Err(error) => {
                eprintln!("skipped: dbus-daemon cannot be started: {error}");
                None
            }
        }
    }

    /// As a crash: the socket's file stays.
    fn kill(mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        if self.daemon.kill().is_ok() {
            drop(self.daemon.wait());
        }
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("socket")
}

fn address(dir: &Path) -> BusAddress {
    BusAddress::Address(format!("unix:path={}", socket(dir).display()))
}

/// The face with both ends of its channels.
struct Face {
    bus: Bus,
    updates: mpsc::UnboundedSender<BusUpdate>,
    connects: mpsc::UnboundedReceiver<ConnectRequest>,
    causes: mpsc::UnboundedReceiver<CauseRequest>,
    rehearsals: mpsc::UnboundedReceiver<RehearseRequest>,
    inhibits: mpsc::UnboundedReceiver<InhibitRequest>,
    ejects: mpsc::UnboundedReceiver<EjectRequest>,
    activity: mpsc::UnboundedReceiver<oneshot::Sender<Vec<Activity>>>,
    usage: mpsc::UnboundedReceiver<UsageRequest>,
}

impl Face {
    fn start(dir: &Path) -> Self {
        let (updates, updates_from) = mpsc::unbounded_channel();
        let (connects_to, connects) = mpsc::unbounded_channel();
        let (causes_to, causes) = mpsc::unbounded_channel();
        let (rehearsals_to, rehearsals) = mpsc::unbounded_channel();
        let (inhibits_to, inhibits) = mpsc::unbounded_channel();
        let (ejects_to, ejects) = mpsc::unbounded_channel();
        let (activity_to, activity) = mpsc::unbounded_channel();
        let (usage_to, usage) = mpsc::unbounded_channel();
        let facts = BusFacts {
            version: "1.2.3".to_owned(),
            backend: "simulated".to_owned(),
            heap: "simulated".to_owned(),
            probe_json: "{}".to_owned(),
            counters: Arc::default(),
        };
        let asks = Asks::new(
            connects_to,
            causes_to,
            rehearsals_to,
            inhibits_to,
            ejects_to,
            activity_to,
            usage_to,
        );
        let bus = start(address(dir), updates_from, asks, facts);
        Self { bus, updates, connects, causes, rehearsals, inhibits, ejects, activity, usage }
    }

    fn tell(&self, update: BusUpdate) {
        self.updates.send(update).unwrap();
    }
}

/// A private bus with the face on it, and a client.
struct Stage {
    face: Face,
    client: Connection,
    bus: PrivateBus,
    dir: TempDir,
}

impl Stage {
    async fn set() -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let bus = PrivateBus::start(dir.path())?;
        let mut face = Face::start(dir.path());
        assert!(within(face.bus.first_attempt()).await, "not on the bus");
        let client = within(address(dir.path()).connect()).await.unwrap();
        Some(Self { face, client, bus, dir })
    }

    /// All signals of the broker from here on.
    async fn signals(&self) -> Signals {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(NAME)
            .unwrap()
            .path_namespace(ROOT)
            .unwrap()
            .build();
        Signals(within(MessageStream::for_match_rule(rule, &self.client, Some(64))).await.unwrap())
    }
}

/// What a client hears.
struct Signals(MessageStream);

impl Signals {
    async fn next(&mut self) -> zbus::Message {
        within(futures_util::StreamExt::next(&mut self.0)).await.unwrap().unwrap()
    }
}

/// The last part of the path, and the member.
fn told(message: &zbus::Message) -> (String, String) {
    let header = message.header();
    let path = header.path().unwrap().as_str();
    let last = path.rsplit('/').next().unwrap().to_owned();
    (last, header.member().unwrap().to_string())
}

async fn within<T>(action: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), action).await.expect("it takes too long")
}

fn device(id: u64) -> DeviceView {
    DeviceView {
        id: DeviceId(id),
        name: "0000:01:00.0".to_owned(),
        pci: "0000:01:00.0".to_owned(),
        driver: "simgpu".to_owned(),
        nodes: vec!["/dev/dri/card1".to_owned()],
        removable: true,
        removable_reason: "configuration".to_owned(),
        state: DeviceState::Present,
        slot: 3,
        counts: Counts::default(),
        implicit_fences: 0,
        cause: None,
        wedged: String::new(),
        report: String::new(),
    }
}

fn client(id: u64) -> ClientView {
    ClientView {
        id: ClientId(id),
        pid: 42,
        uid: nix::unistd::getuid().as_raw(),
        name: "viewer".to_owned(),
        unit: "viewer.service".to_owned(),
        declared: dmashare_proto::message::Declare::default(),
        counts: Counts::default(),
    }
}
