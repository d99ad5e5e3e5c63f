//! What can go wrong, in words that say what to do next, and the exit codes.

/// Exit codes, as `--help` documents them. 2 (wrong usage) is given by the argument parser.
pub mod exit {
    /// It failed; for `doctor`: something that is needed is missing.
    pub const FAILURE: u8 = 1;
    /// The service (or the bus) cannot be reached.
    pub const UNREACHABLE: u8 = 3;
    /// No such device, or the name fits several; no such object.
    pub const NO_DEVICE: u8 = 4;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no bus at the address.
    #[error("cannot connect to {}: {why}\n{}", place(.bus), bus_hint(.bus))]
    NoBus {
        /// As the user named it.
        bus: String,
        /// As the bus library says it.
        why: String,
    },
    /// Nobody owns the service's name.
    #[error(
        "dmashared is not running on {}\n\
         start it with: systemctl start dmashared.socket\n\
         see what is missing with: dmasharectl doctor", place(.bus)
    )]
    NotRunning {
        /// As the user named it.
        bus: String,
    },
    /// It did not answer in time.
    #[error(
        "dmashared does not answer: {0}\nlook at: systemctl status dmashared; journalctl -u dmashared"
    )]
    NoAnswer(String),
    /// The bus or the service refused.
    #[error(
        "permission denied: {0}\nthe D-Bus policy does not let this user talk to dmashared: try with \
         sudo, or check org.dmashare.Broker1.conf with: dmasharectl doctor"
    )]
    Denied(String),
    /// The service says why not.
    #[error("dmashared refuses: {0}")]
    Refused(String),
    /// The service answered with an error, or with something that this tool does not understand.
    #[error("dmashared answered unexpectedly: {0}\nare dmasharectl and dmashared of one version?")]
    Unexpected(String),
    /// No device has that name.
    #[error("no device {name:?}\n{}", those_known(.known))]
    NoDevice {
        /// As the user named it.
        name: String,
        /// The devices that there are.
        known: Vec<String>,
    },
    /// Several devices have that name.
    #[error("{name:?} fits several devices: {}\nname one of them", .fits.join(", "))]
    Ambiguous {
        /// As the user named it.
        name: String,
        /// Which it fits.
        fits: Vec<String>,
    },
    /// The service keeps no cause for an object.
    #[error("{0}\nroot is told of every user's")]
    NoCause(String),
    /// There is no report to draw.
    #[error("there is no unplug report to draw")]
    NothingToDraw,
    /// A file could not be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::NoBus { .. } | Self::NotRunning { .. } | Self::NoAnswer(_) => exit::UNREACHABLE,
            Self::NoDevice { .. } | Self::Ambiguous { .. } | Self::NoCause(_) => exit::NO_DEVICE,
            _ => exit::FAILURE,
        }
    }
}

fn place(bus: &str) -> String {
    match bus {
        "system" | "session" => format!("the {bus} bus"),
        address => format!("the bus at {address}"),
    }
}

fn bus_hint(bus: &str) -> &'static str {
    match bus {
        "system" => {
            "is the system bus running (systemctl status dbus)? Another bus is named by --bus"
        }
        "session" => "there is no session bus here: dmashared is on the system bus, --bus system",
        _ => "check the address given by --bus or DMASHARE_BUS",
    }
}

fn those_known(names: &[String]) -> String {
    if names.is_empty() {
        "there are no devices at the moment".to_owned()
    } else {
        format!("there are: {}", names.join(", "))
    }
}
