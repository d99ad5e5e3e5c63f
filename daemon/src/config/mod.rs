//! The configuration: `/etc/dmashare/dmashared.toml` and drop-ins beside it, fully resolved into one
//! plain struct before the service starts. Nothing is guessed: an unknown key, a wrong type or a
//! value out of range is an error with file, line and key.
//!
//! `example.toml` documents every key, with its default.

use std::path::PathBuf;
use std::time::Duration;

mod device_match;
mod driver;
mod error;
mod files;
mod keys;
mod limits;
mod lists;
mod value;

pub use device_match::{DeviceMatch, DeviceOverride};
pub use driver::{DriverOverride, WhileOpen};
pub use error::ConfigError;
pub use files::Paths;
pub use limits::Limits;

/// What the service runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[broker]`
    pub broker: Broker,
    /// `[fence]`
    pub fence: Fence,
    /// `neutral.heap`: what neutral buffers are made from.
    pub heap: Heap,
    /// `[eject]`
    pub eject: Eject,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
    /// `devices.liveness_ms`: how often a device is looked at while a fence of it is stuck; zero: only
    /// after a deadline.
    pub liveness: Duration,
    /// `[[device]]`, in the order in which they were read: the last one that matches wins.
    pub devices: Vec<DeviceOverride>,
    /// `[[driver]]`, each driver once.
    pub drivers: Vec<DriverOverride>,
}

/// Where clients find the broker, and how long they may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// The clients' socket, where systemd passes none.
    pub socket: PathBuf,
    /// Where what must outlive a restart is kept.
    pub state_dir: PathBuf,
    /// How long after a loss a client may hold its imports.
    pub ack_timeout: Duration,
    /// What is done with a client that holds them longer.
    pub overdue: Overdue,
}

/// What is done with a client that did not acknowledge a loss in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It is named.
    Report,
    /// It is named and disconnected.
    Disconnect,
    /// It is named and killed.
    Kill,
}

/// How guards are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// What makes them.
    pub backend: Backend,
    /// The sw_sync file in debugfs.
    pub sw_sync_path: PathBuf,
    /// When a fence times out whose owner asks for no deadline.
    pub deadline: Duration,
    /// The longest deadline that a client may ask for.
    pub max_deadline: Duration,
}

/// What makes guard fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The best that this kernel offers.
    Auto,
    /// `sw_sync`
    SwSync,
    /// `vgem`
    Vgem,
    /// No guards: fences that need one are refused.
    None,
}

/// What neutral buffers are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heap {
    /// The best that this kernel offers, and the next one where that is full.
    Auto,
    /// `/dev/udmabuf`
    Udmabuf,
    /// `/dev/dma_heap/system`
    System,
    /// Nothing: none are made.
    None,
}

impl Heap {
    /// The word in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Udmabuf => "udmabuf",
            Self::System => "system",
            Self::None => "none",
        }
    }
}

/// How ejects go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eject {
    /// How long delay inhibitors hold one up at most.
    pub delay: Duration,
    /// Where the helpers' sockets are.
    pub helpers: PathBuf,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level or directives as `tracing_subscriber::EnvFilter` reads them; valid.
    pub level: String,
}

impl Overdue {
    /// The word in the file, and in an unplug report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Disconnect => "disconnect",
            Self::Kill => "kill",
        }
    }
}

impl Backend {
    /// The word in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::SwSync => "sw_sync",
            Self::Vgem => "vgem",
            Self::None => "none",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            broker: Broker::default(),
            fence: Fence::default(),
            heap: Heap::Auto,
            eject: Eject::default(),
            limits: Limits::default(),
            log: Log::default(),
            liveness: Duration::from_secs(1),
            devices: Vec::new(),
            drivers: Vec::new(),
        }
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            socket: "/run/dmashare/broker.sock".into(),
            state_dir: "/run/dmashare".into(),
            ack_timeout: Duration::from_secs(2),
            overdue: Overdue::Disconnect,
        }
    }
}

impl Default for Fence {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            sw_sync_path: "/sys/kernel/debug/sync/sw_sync".into(),
            deadline: Duration::from_secs(10),
            max_deadline: Duration::from_secs(60),
        }
    }
}

impl Default for Eject {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), helpers: "/run/dmashare/helpers".into() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned() }
    }
}

impl Config {
    /// Reads the files. Those that are missing say nothing, unless [`Paths::must_exist`].
    ///
    /// # Errors
    /// The first thing that is wrong: a file that cannot be read, that is no TOML, or that has an
    /// unknown key, a wrong type or a value out of range.
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        Self::of_texts(&paths.read()?)
    }

    /// The same of texts that were read, the lowest rank first, with the names that errors give them.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_texts(texts: &[(PathBuf, String)]) -> Result<Self, ConfigError> {
        let mut reader = keys::Reader::default();
        for (path, text) in texts {
            reader.read(path, text)?;
        }
        reader.finish()
    }
}

#[cfg(test)]
mod tests;
