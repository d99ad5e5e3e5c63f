//! The service on D-Bus.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dmashare_proto::report::UnplugReport;
use dmashare_proto::usage::Usage;
use serde::{Deserialize, Serialize};
use zbus::blocking::connection::Builder;
use zbus::blocking::{Connection, Proxy};
use zbus::proxy::MethodFlags;
use zbus::zvariant::{OwnedObjectPath, Type};

use crate::failure::Failure;
use crate::model::{Client, Device, Ended, Properties, Service};
use crate::render::text::clean;

pub(crate) const NAME: &str = "org.dmashare.Broker1";
pub(crate) const PATH: &str = "/org/dmashare/Broker1";
pub(crate) const DEVICE: &str = "org.dmashare.Device1";
pub(crate) const CLIENT: &str = "org.dmashare.Client1";
pub(crate) const JOB: &str = "org.dmashare.Job1";
/// A service that hangs must not hang the tool.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The service asks polkit, which asks people: for two minutes at most.
pub(crate) const ANSWER_OF_PEOPLE_WITHIN: Duration = Duration::from_secs(130);

/// Which bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// The machine's.
    #[default]
    System,
    /// The login session's.
    Session,
    /// Any, by its D-Bus address.
    Address(String),
}

impl FromStr for Bus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "system" => Ok(Self::System),
            "session" => Ok(Self::Session),
            text if text.contains(':') => Ok(Self::Address(text.to_owned())),
            _ => Err("expected `system`, `session` or an address like `unix:path=/run/bus`".into()),
        }
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::Session => "session",
            Self::Address(address) => address,
        })
    }
}

/// What the service says about its choice of a guard backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The one that it uses.
    pub backend: String,
    /// Each that it looked at, best first.
    #[serde(default)]
    pub tried: Vec<Tried>,
}

/// One backend that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its name.
    pub backend: String,
    /// Whether it works.
    pub ok: bool,
    /// Why not, or what was found.
    #[serde(default)]
    pub why: String,
}

/// Everything that the service shows, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of their ids.
    pub devices: Vec<Device>,
    /// In the order of their ids.
    pub clients: Vec<Client>,
}

/// A connection to the running service.
pub struct Broker {
    connection: Connection,
    bus: String,
}

impl Broker {
    /// Connects to the bus.
    ///
    /// # Errors
    /// There is no bus, or it refuses.
    pub fn connect(bus: &Bus) -> Result<Self, Failure> {
        Self::connect_for(bus, ANSWER_WITHIN)
    }

    /// The same for what somebody may have to be asked.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_to_wait(bus: &Bus) -> Result<Self, Failure> {
        Self::connect_for(bus, ANSWER_OF_PEOPLE_WITHIN)
    }

    fn connect_for(bus: &Bus, patience: Duration) -> Result<Self, Failure> {
        let connection = match bus {
            Bus::System => Builder::system(),
            Bus::Session => Builder::session(),
            Bus::Address(address) => Builder::address(address.as_str()),
        }
        .and_then(|builder| builder.method_timeout(patience).build())
        .map_err(|error| no_bus(&bus.to_string(), error))?;
        Ok(Self { connection, bus: bus.to_string() })
    }

    /// Whether the service runs: asked of the bus, since any call to the service starts it.
    ///
    /// # Errors
    /// The bus does not answer.
    pub fn is_running(&self) -> Result<bool, Failure> {
        let bus = "org.freedesktop.DBus";
        self.connection
            .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "NameHasOwner", &NAME)
            .and_then(|answer| answer.body().deserialize())
            .map_err(|error| self.failure(&error))
    }

    /// The service itself.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub fn service(&self) -> Result<Service, Failure> {
        let of: Properties = self.call("org.freedesktop.DBus.Properties", "GetAll", &(NAME,))?;
        Service::take(of)
    }

    /// Its devices and clients, in one call.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub fn snapshot(&self) -> Result<Snapshot, Failure> {
        type Objects = HashMap<OwnedObjectPath, HashMap<String, Properties>>;
        let objects: Objects =
            self.call("org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &())?;
        let mut snapshot = Snapshot::default();
        for mut interfaces in objects.into_values() {
            if let Some(properties) = interfaces.remove(DEVICE) {
                snapshot.devices.push(Device::take(properties)?);
            }
            if let Some(properties) = interfaces.remove(CLIENT) {
                snapshot.clients.push(Client::take(properties)?);
            }
        }
        snapshot.devices.sort_by_key(|device| device.id);
        snapshot.clients.sort_by_key(|client| client.id);
        Ok(snapshot)
    }

    /// The kept unplug reports, newest last.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub fn reports(&self) -> Result<Vec<UnplugReport>, Failure> {
        self.json("GetReports")
    }

    /// What this user has in use of what they may; for root, everybody's.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub fn usage(&self) -> Result<Usage, Failure> {
        self.json("GetUsage")
    }

    /// What it has counted since it was started, by name.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>, Failure> {
        self.call("org.dmashare.Stats1", "GetCounters", &())
    }

    /// How it chose its guard backend.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub fn probe(&self) -> Result<Probed, Failure> {
        self.json("Probe")
    }

    /// Why an object of this user's ended.
    ///
    /// # Errors
    /// It keeps no cause for it; it does not answer, or not as expected.
    pub fn cause(&self, object: u64, point: u64) -> Result<Ended, Failure> {
        let (cause, errno, at_ns) = self.call(NAME, "GetCause", &(object, point))?;
        Ok(Ended { object, point, cause, errno, at_ns })
    }

    /// Has the loss of a device rehearsed; client 0 is all of them.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub fn rehearse(&self, device: u64, client: u64, after_ms: u32) -> Result<(), Failure> {
        let path = format!("{PATH}/device/d{device}");
        let flags = MethodFlags::AllowInteractiveAuth.into();
        Proxy::new(&self.connection, NAME, path, DEVICE)
            .and_then(|it| it.call_with_flags("Rehearse", flags, &(client, after_ms)))
            .map(|_: Option<()>| ())
            .map_err(|error| self.failure(&error))
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, method: &str) -> Result<T, Failure> {
        let text: String = self.call(NAME, method, &())?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::Unexpected(format!("{method}: {error}")))
    }

    fn call<B, R>(&self, interface: &str, method: &str, body: &B) -> Result<R, Failure>
    where
        B: Serialize + zbus::zvariant::DynamicType,
        R: for<'de> Deserialize<'de> + Type,
    {
        self.connection
            .call_method(Some(NAME), PATH, Some(interface), method, body)
            .and_then(|answer| answer.body().deserialize())
            .map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &zbus::Error) -> Failure {
        failure(&self.bus, error)
    }
}

/// What an error of the bus `bus`, or of the service on it, means.
pub(crate) fn failure(bus: &str, error: &zbus::Error) -> Failure {
    match error {
        zbus::Error::MethodError(name, text, _) => {
            let text = clean(text.as_deref().unwrap_or_else(|| name.as_str()));
            if let Some(name) = name.strip_prefix("org.dmashare.Error.") {
                return match name {
                    "UnknownObject" => Failure::NoCause(text),
                    "NotAuthorized" => Failure::NotAuthorised(text),
                    "DeviceLost" | "UnknownDevice" => Failure::Lost(text),
                    "Refused" | "Busy" => Failure::Blocked(text),
                    _ => Failure::Refused(text),
                };
            }
            match name.strip_prefix("org.freedesktop.DBus.Error.").unwrap_or_default() {
                "ServiceUnknown" | "NameHasNoOwner" => Failure::NotRunning { bus: bus.to_owned() },
                "AccessDenied" => Failure::Denied(text),
                "NoReply" | "Timeout" | "TimedOut" | "Disconnected" => Failure::NoAnswer(text),
                name if name.starts_with("Spawn.") => Failure::NoAnswer(text),
                _ => Failure::Unexpected(text),
            }
        }
        zbus::Error::InputOutput(io) => Failure::NoAnswer(io.to_string()),
        error => Failure::Unexpected(clean(&error.to_string())),
    }
}

/// Why there is no connection to a bus.
pub(crate) fn no_bus(bus: &str, error: zbus::Error) -> Failure {
    match error {
        zbus::Error::InputOutput(io) if io.kind() == std::io::ErrorKind::PermissionDenied => {
            Failure::Denied(io.to_string())
        }
        error => Failure::NoBus { bus: bus.to_owned(), why: error.to_string() },
    }
}
