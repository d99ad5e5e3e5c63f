//! What the bus shows: plain snapshots, made by the shell and owned by whoever gets them.

use dmashare_proto::job::{Outcome, Stage};
use dmashare_proto::message::{Cause, Declare, InhibitMode};
use dmashare_proto::state_page::DeviceState;
use dmashare_proto::{ClientId, DeviceId, ObjectId};

/// A device as shown on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// PCI address, else its sysfs name.
    pub name: String,
    /// PCI address, or empty.
    pub pci: String,
    /// Kernel driver.
    pub driver: String,
    /// `/dev/dri/…`
    pub nodes: Vec<String>,
    /// Whether it can be pulled.
    pub removable: bool,
    /// How that is known.
    pub removable_reason: String,
    /// Its state.
    pub state: DeviceState,
    /// Its slot on the state page.
    pub slot: u32,
    /// Live objects by kind.
    pub counts: Counts,
    /// Implicit fences still pending, once it is lost.
    pub implicit_fences: u32,
    /// Why it was lost.
    pub cause: Option<Cause>,
    /// What its driver last named as recovery from a hang; empty until then.
    pub wedged: String,
    /// The unplug report as JSON, empty while it is present.
    pub report: String,
}

/// Live objects by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Exported buffers.
    pub buffers: u32,
    /// Imports of them.
    pub imports: u32,
    /// Pending fences.
    pub fences: u32,
    /// Timelines.
    pub timelines: u32,
}

/// A client as shown on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientView {
    /// Its id.
    pub id: ClientId,
    /// Its process when it connected.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// What it calls itself.
    pub name: String,
    /// Its systemd unit, or empty.
    pub unit: String,
    /// What it states of itself.
    pub declared: Declare,
    /// Live objects that it has, over all devices.
    pub counts: Counts,
}

/// What holds ejects up, as shown on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InhibitorView {
    /// Its id.
    pub id: ObjectId,
    /// Of which device; `None` for each.
    pub device: Option<DeviceId>,
    /// How long.
    pub mode: InhibitMode,
    /// Why.
    pub why: String,
    /// What its holder calls itself.
    pub who: String,
    /// The holder's process.
    pub pid: i32,
    /// The holder's user.
    pub uid: u32,
}

/// An eject as shown on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// Its id.
    pub id: u64,
    /// Of which device.
    pub device: DeviceId,
    /// What people call that.
    pub device_name: String,
    /// Who asked for it.
    pub uid: u32,
    /// Where it is.
    pub stage: Stage,
    /// What goes on, or how it ended.
    pub message: String,
    /// The last look's findings as JSON; empty before.
    pub holders: String,
    /// Until when all before the removal is to be done, CLOCK_MONOTONIC in nanoseconds; 0: no limit.
    pub deadline_ns: u64,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// It only looks.
    pub dry_run: bool,
    /// The stages so far, as JSON.
    pub steps: String,
}

impl Default for JobView {
    fn default() -> Self {
        Self {
            id: 0,
            device: DeviceId(0),
            device_name: String::new(),
            uid: 0,
            stage: Stage::Inhibited,
            message: String::new(),
            holders: String::new(),
            deadline_ns: 0,
            outcome: None,
            dry_run: false,
            steps: "[]".to_owned(),
        }
    }
}

/// What the shell tells the bus.
#[derive(Clone, Debug)]
pub enum BusUpdate {
    /// A device is new or has changed.
    Device(DeviceView),
    /// A device is gone and its object goes.
    DeviceGone(DeviceId),
    /// A device is lost (its view comes first).
    Lost {
        /// The device.
        device: DeviceId,
        /// Why.
        cause: Cause,
        /// CLOCK_MONOTONIC, nanoseconds.
        at_ns: u64,
        /// What it had.
        had: Counts,
    },
    /// A device is wedged (its view comes first).
    Wedged {
        /// The device.
        device: DeviceId,
        /// What its driver names as recovery.
        recovery: String,
        /// Who is blamed, or empty.
        task: String,
        /// Fences that ended by it.
        fences: u32,
    },
    /// Somebody asks the users of a device to let go of it; it is still there.
    RemovalRequested {
        /// The device.
        device: DeviceId,
        /// Who asks, in words.
        why: String,
    },
    /// A client is new or has changed.
    Client(ClientView),
    /// A client is gone.
    ClientGone(ClientId),
    /// How many neutral buffers there are, and their bytes.
    Neutral {
        /// Buffers.
        buffers: u32,
        /// Bytes, those that are being made too.
        bytes: u64,
    },
    /// All inhibitors that are held.
    Inhibitors(Vec<InhibitorView>),
    /// An eject is new or has changed.
    Job(Box<JobView>),
    /// An eject that ended is forgotten.
    JobGone(u64),
    /// All kept unplug reports as a JSON array, newest last.
    Reports(String),
}
