//! What can go wrong, in words that say what to do next, and the exit codes.

/// Exit codes, as `--help` documents them. 2 (wrong usage) is given by the argument parser.
pub mod exit {
    /// It failed; for `doctor`: something that is needed is missing.
    pub const FAILURE: u8 = 1;
    /// The service (or the bus) cannot be reached.
    pub const UNREACHABLE: u8 = 3;
    /// No such device (any more), or the name fits several; no such object.
    pub const NO_DEVICE: u8 = 4;
    /// Somebody holds the device, blocks ejects, or is at one already.
    pub const REFUSED: u8 = 5;
    /// polkit, or whom it asked, said no.
    pub const NOT_AUTHORISED: u8 = 6;
    /// The eject was cancelled.
    pub const CANCELLED: u8 = 7;
    /// The kernel did not remove the device, or not yet.
    pub const KERNEL: u8 = 8;

    /// Every code with what it says, for `--help` and the manual.
    pub const ALL: [(u8, &str); 9] = [
        (0, "ok; eject: it is safe to unplug, or would be (--dry-run)"),
        (FAILURE, "failure (doctor: something that is needed is missing; attach: no device came)"),
        (2, "wrong usage"),
        (UNREACHABLE, "the service or the bus cannot be reached"),
        (NO_DEVICE, "no such device (any more), or the name fits several; no such object"),
        (REFUSED, "refused: somebody holds the device, blocks ejects, or is at one already"),
        (NOT_AUTHORISED, "not authorised"),
        (CANCELLED, "the eject was cancelled"),
        (KERNEL, "the kernel did not remove the device, or has not yet: it is stuck"),
    ];
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
    /// Somebody blocks it, or another job is at it.
    #[error("dmashared refuses: {0}")]
    Blocked(String),
    /// The device was lost before it could be done.
    #[error("dmashared refuses: {0}\nthe devices that are there: dmasharectl devices")]
    Lost(String),
    /// An authority said no, or could not be asked.
    #[error(
        "not authorised: {0}\nas root nobody is asked; else polkit asks on a terminal or the desktop"
    )]
    NotAuthorised(String),
    /// A job ended, and the device is not ejected.
    #[error("{text}")]
    NotEjected {
        /// What happened to what, and below it what to do.
        text: String,
        /// One of [`exit`].
        code: u8,
    },
    /// Nothing came after a rescan.
    #[error(
        "no new device came within {0}\nis it plugged in, and powered? A Thunderbolt device must be \
         authorised: boltctl list"
    )]
    NoneCame(String),
    /// Standard output is no terminal.
    #[error("`top` needs a terminal\nfor programs: dmasharectl status --json, or watch --json")]
    NoTerminal,
    /// What waits could not be set up.
    #[error("no event loop: {0}")]
    NoRuntime(std::io::Error),
    /// The terminal does not do as it is told.
    #[error("the terminal cannot be used: {0}")]
    Terminal(std::io::Error),
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
            Self::NoDevice { .. } | Self::Ambiguous { .. } | Self::NoCause(_) | Self::Lost(_) => {
                exit::NO_DEVICE
            }
            Self::Blocked(_) => exit::REFUSED,
            Self::NotAuthorised(_) => exit::NOT_AUTHORISED,
            Self::NotEjected { code, .. } => *code,
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
