//! Who holds a device: what was asked of a look through /proc and sysfs, and what it found. JSON, between
//! the broker and its helper, on D-Bus, and of `dmasharectl holders --json`.

use serde::{Deserialize, Serialize};

/// What the helper is asked. One line of JSON; it answers one, and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who holds a device? The answer is [`Holders`].
    Look(Look),
    /// What does one process hold of given dma-bufs? The answer is [`Kept`].
    Keeps {
        /// The process.
        pid: i32,
        /// Identities (inode numbers) of the dma-bufs.
        inodes: Vec<u64>,
    },
}

/// What one process holds, in words, an entry each; what cannot be seen is said among it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// `fd 7 (dma-buf inode 31)`
    pub holds: Vec<String>,
}

/// What is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The device.
    pub device: LookFor,
    /// The others that are there: whose dma-bufs may be taken for its own.
    #[serde(default)]
    pub others: Vec<LookFor>,
}

/// A device, as far as a look needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookFor {
    /// PCI address, or empty.
    pub pci: String,
    /// The kernel driver.
    pub driver: String,
    /// Its DRM nodes.
    pub nodes: Vec<Node>,
    /// Identities (inode numbers) of dma-bufs that the broker knows to be the device's.
    #[serde(default)]
    pub buffers: Vec<u64>,
    /// Its driver cannot be removed while anybody has it open: every fd is in its way.
    #[serde(default)]
    pub blocks_while_open: bool,
    /// A simulated device: its nodes are regular files, and memfds stand for its dma-bufs.
    #[serde(default)]
    pub simulated: bool,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `/dev/dri/card1`
    pub path: String,
    /// Its device number; of a simulated one, the file's st_dev and st_ino.
    pub major: u64,
    /// See [`Self::major`].
    pub minor: u64,
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// Processes, the active ones first, then by pid.
    pub processes: Vec<Holder>,
    /// What no process holds, and what is to be known besides.
    #[serde(default)]
    pub others: Vec<Other>,
    /// How much was looked at.
    pub looked: Looked,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its id.
    pub pid: i32,
    /// When it started, in the kernel's clock ticks since boot (field 22 of /proc/PID/stat): with the pid
    /// it names this process and no later one.
    pub start: u64,
    /// Its command (/proc/PID/comm).
    pub command: String,
    /// Its user.
    pub uid: u32,
    /// That user's name; the number where it has none.
    pub user: String,
    /// Its logind session, or empty.
    #[serde(default)]
    pub session: String,
    /// Its systemd unit, or empty.
    #[serde(default)]
    pub unit: String,
    /// What a force spares it for, unless told twice.
    #[serde(default)]
    pub role: Role,
    /// What it is to the broker; not a client of it if empty. Filled in by the broker.
    #[serde(default)]
    pub clients: Vec<ClientOf>,
    /// What it holds.
    pub holds: Vec<Held>,
}

impl Holder {
    /// Whether anything that it holds is in an eject's way.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.holds.iter().any(|held| !held.active.is_empty())
    }
}

/// What a process is for its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Nothing in particular.
    #[default]
    Program,
    /// It draws a screen: it is DRM master, of any card.
    Compositor,
    /// It lets people log in: the unit that `display-manager.service` stands for, or a part of it.
    DisplayManager,
    /// Process 1.
    Init,
}

/// A connection to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientOf {
    /// The client's id.
    pub client: u64,
    /// What it calls itself.
    pub name: String,
    /// `wait`, `relaunch`, `kill` or `ignore`.
    pub on_loss: String,
    /// It says that it goes on without the device.
    pub survives: bool,
}

/// One thing, or several of a kind, that a process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What.
    pub what: What,
    /// How many descriptors.
    #[serde(default)]
    pub fds: u32,
    /// How many mappings.
    #[serde(default)]
    pub mappings: u32,
    /// Why it is in an eject's way, in words; empty for what is idle, which is not.
    #[serde(default)]
    pub active: String,
    /// How it is known to be the device's, in words, where that is a guess; empty where it is certain.
    #[serde(default)]
    pub guess: String,
}

/// What is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A DRM node.
    Node {
        /// `/dev/dri/card1`
        path: String,
        /// What the driver says of it in fdinfo, one a DRM client.
        #[serde(default)]
        drm: Vec<DrmClient>,
    },
    /// A dma-buf, by descriptor or by mapping.
    DmaBuf {
        /// Its identity.
        inode: u64,
        /// Its size in bytes; 0 where only a mapping of it is known.
        size: u64,
        /// Who made it, as the kernel names it; empty where that cannot be known.
        exporter: String,
    },
    /// sync_files with pending fences of the driver.
    SyncFile {
        /// The fences' drivers, each once.
        drivers: Vec<String>,
    },
    /// drm_syncobjs.
    Syncobj {
        /// The drivers of what is pending in them, each once; empty where that cannot be known.
        drivers: Vec<String>,
    },
    /// A mapping of a node.
    Mapping {
        /// The node.
        path: String,
        /// How much of it.
        bytes: u64,
    },
    /// A node of the driver's own beside DRM's (`/dev/nvidia0`).
    Character {
        /// Its path.
        path: String,
    },
    /// A node of another function of the slot (sound, USB, i2c).
    Function {
        /// Which function: a PCI address.
        pci: String,
        /// The node.
        path: String,
    },
    /// Not known to this version.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A DRM client of a driver, from fdinfo (Documentation/gpu/drm-usage-stats.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrmClient {
    /// `drm-client-id`
    pub id: u64,
    /// `drm-driver`
    pub driver: String,
    /// It is the card's master.
    #[serde(default)]
    pub master: bool,
    /// Resident memory in KiB over all regions, where the driver says.
    #[serde(default)]
    pub resident_kib: Option<u64>,
    /// An engine of it was busy while it was looked at.
    #[serde(default)]
    pub busy: bool,
}

/// What is held without a process, or cannot be seen, in words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// `fbcon`, `module`, `vfio`, `in-flight`, `store` (process 1's, for services), `unseen`.
    pub kind: String,
    /// A sentence.
    pub text: String,
    /// It is in an eject's way.
    #[serde(default)]
    pub active: bool,
}

/// How much a look looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Processes.
    pub processes: u32,
    /// Their descriptors.
    pub fds: u32,
    /// Processes that it was not allowed to look into.
    pub unseen: u32,
    /// How long it took, in microseconds.
    pub micros: u64,
}
