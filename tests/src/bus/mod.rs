//! The broker on D-Bus, as any client sees it: its objects, their properties, its signals.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dmashare::{DeviceId, ObjectId};
use dmashare_proto::activity::Activity;
use dmashare_proto::report::UnplugReport;
use dmashare_proto::usage::Usage;
use zbus::blocking::{Connection, MessageIterator, connection::Builder};
use zbus::zvariant::OwnedObjectPath;
use zbus::{Message, message::Type};

mod device;
mod job;
pub mod private;
mod properties;

pub use device::Device;
use device::{Properties, take};
pub use job::{Job, Refusal};

/// The broker's name.
pub const NAME: &str = "org.dmashare.Broker1";
/// The object above all others.
pub const ROOT: &str = "/org/dmashare/Broker1";

type Managed = HashMap<OwnedObjectPath, HashMap<String, Properties>>;

/// A signal that came.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The object that sent it.
    pub path: String,
    /// Its name.
    pub member: String,
    /// The whole of it.
    pub message: Message,
}

#[derive(Default)]
struct Log {
    signals: Mutex<Vec<Signal>>,
    more: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Signal>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to the bus, which hears every signal of the broker's from its beginning on.
pub struct Bus {
    connection: Connection,
    log: Arc<Log>,
}

impl Bus {
    /// Connects to the system's bus (`system`), or to that at an address.
    ///
    /// # Errors
    /// There is none.
    pub fn connect(address: &str) -> Result<Self> {
        let builder = match address {
            "system" => Builder::system()?,
            address => Builder::address(address)?,
        };
        let builder = builder.method_timeout(Duration::from_secs(20));
        let connection = builder.build().with_context(|| format!("the bus at {address}"))?;
        let messages = MessageIterator::from(&connection);
        for rule in [
            format!("type='signal',path_namespace='{ROOT}'"),
            format!("type='signal',member='NameOwnerChanged',arg0='{NAME}'"),
        ] {
            let bus = "org.freedesktop.DBus";
            connection.call_method(
                Some(bus),
                "/org/freedesktop/DBus",
                Some(bus),
                "AddMatch",
                &rule,
            )?;
        }
        let log = Arc::new(Log::default());
        let to = Arc::downgrade(&log);
        std::thread::spawn(move || {
            for message in messages.map_while(Result::ok) {
                let Some(log) = to.upgrade() else { return };
                let header = message.header();
                if header.message_type() != Type::Signal {
                    continue;
                }
                let signal = Signal {
                    path: header.path().map(ToString::to_string).unwrap_or_default(),
                    member: header.member().map(ToString::to_string).unwrap_or_default(),
                    message: message.clone(),
                };
                log.lock().push(signal);
                log.more.notify_all();
            }
        });
        Ok(Self { connection, log })
    }

    /// The connection, for what is not here.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A place in the stream of signals: what comes later comes after it.
    #[must_use]
    pub fn now(&self) -> usize {
        self.log.lock().len()
    }

    /// All signals after a place, in words.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn heard(&self, after: usize) -> Result<Vec<String>> {
        let log = self.log.lock();
        let body = |signal: &Signal| -> Result<String> {
            let body = signal.message.body();
            let body: zbus::zvariant::Structure<'_> = body.deserialize()?;
            Ok(format!("{} {} {body:?}", signal.path, signal.member))
        };
        log[after..].iter().map(body).collect()
    }

    /// The first signal after a place that `is` makes something of, waiting for it.
    ///
    /// # Errors
    /// None came in time.
    pub fn wait<T>(
        &self,
        what: &str,
        after: usize,
        bound: Duration,
        is: impl Fn(&Signal) -> Option<T>,
    ) -> Result<T> {
        let (end, mut next) = (Instant::now() + bound, after);
        let mut log = self.log.lock();
        loop {
            if let Some(found) = log[next..].iter().find_map(&is) {
                return Ok(found);
            }
            next = log.len();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no signal for {what} within {bound:?}");
            }
            log = self.log.more.wait_timeout(log, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a signal after a place has come by now.
    #[must_use]
    pub fn has(&self, after: usize, is: impl Fn(&Signal) -> bool) -> bool {
        self.log.lock()[after..].iter().any(is)
    }

    /// Looks now and after every signal until `look` gives something.
    ///
    /// # Errors
    /// It did not in time; or looking failed for another reason than the broker's absence.
    pub fn until<T>(
        &self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + bound;
        loop {
            let seen = self.now();
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            let more = self.wait(what, seen, left, |_| Some(()));
            if more.is_err() {
                let devices = self.devices();
                bail!("{what}: not within {bound:?}; the devices are {devices:#?}");
            }
        }
    }

    fn managed(&self) -> Result<Managed> {
        let interface = Some("org.freedesktop.DBus.ObjectManager");
        let reply =
            self.connection.call_method(Some(NAME), ROOT, interface, "GetManagedObjects", &())?;
        Ok(reply.body().deserialize()?)
    }

    /// Whether the broker has its name.
    ///
    /// # Errors
    /// The bus is gone.
    pub fn is_owned(&self) -> Result<bool> {
        let bus = "org.freedesktop.DBus";
        let path = "/org/freedesktop/DBus";
        let reply =
            self.connection.call_method(Some(bus), path, Some(bus), "NameHasOwner", &NAME)?;
        Ok(reply.body().deserialize()?)
    }

    /// All devices, lost ones among them.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let mut devices = Vec::new();
        for (_, mut interfaces) in self.managed()? {
            if let Some(properties) = interfaces.remove("org.dmashare.Device1") {
                devices.push(Device::new(properties)?);
            }
        }
        devices.sort_by_key(|device| device.id);
        Ok(devices)
    }

    /// One of them; `None` once it is gone.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn device(&self, id: DeviceId) -> Result<Option<Device>> {
        Ok(self.devices()?.into_iter().find(|device| device.id == id))
    }

    /// The clients' process ids.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn clients(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        for (_, mut interfaces) in self.managed()? {
            if let Some(mut client) = interfaces.remove("org.dmashare.Client1") {
                pids.push(take(&mut client, "Pid")?);
            }
        }
        Ok(pids)
    }

    /// A device's object.
    #[must_use]
    pub fn device_path(id: DeviceId) -> String {
        format!("{ROOT}/device/d{id}")
    }

    /// What guards are made of.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn backend(&self) -> Result<String> {
        self.broker_property("Backend")
    }

    /// What `GetCause` says of an object, to this connection's user: the cause, its errno and its time;
    /// or the name of the error.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn cause(&self, object: ObjectId) -> Result<Result<(String, i32, u64), String>> {
        let body = (object.0, 0_u64);
        let called = self.connection.call_method(Some(NAME), ROOT, Some(NAME), "GetCause", &body);
        match called {
            Ok(reply) => Ok(Ok(reply.body().deserialize()?)),
            Err(zbus::Error::MethodError(name, _, _)) => Ok(Err(name.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// What goes on with each device.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn activity(&self) -> Result<Vec<Activity>> {
        let reply =
            self.connection.call_method(Some(NAME), ROOT, Some(NAME), "GetActivity", &())?;
        let text: String = reply.body().deserialize()?;
        serde_json::from_str(&text).with_context(|| format!("GetActivity gave {text}"))
    }

    /// What is counted, by name.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let stats = Some("org.dmashare.Stats1");
        let reply = self.connection.call_method(Some(NAME), ROOT, stats, "GetCounters", &())?;
        Ok(reply.body().deserialize()?)
    }

    /// What users have in use of what they may: this user's, for root everybody's.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn usage(&self) -> Result<Usage> {
        let reply = self.connection.call_method(Some(NAME), ROOT, Some(NAME), "GetUsage", &())?;
        let text: String = reply.body().deserialize()?;
        serde_json::from_str(&text).with_context(|| format!("GetUsage gave {text}"))
    }

    /// The reports of the last unplugs, the newest last.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn reports(&self) -> Result<Vec<UnplugReport>> {
        let reply = self.connection.call_method(Some(NAME), ROOT, Some(NAME), "GetReports", &())?;
        let text: String = reply.body().deserialize()?;
        serde_json::from_str(&text).with_context(|| format!("GetReports gave {text}"))
    }

    /// The report of one device's unplug.
    ///
    /// # Errors
    /// There is none.
    pub fn report(&self, id: DeviceId) -> Result<UnplugReport> {
        let found = self.reports()?.into_iter().find(|report| report.device == id);
        found.with_context(|| format!("there is no report of the loss of device {id}"))
    }
}
