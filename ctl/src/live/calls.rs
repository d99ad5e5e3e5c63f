//! Calls of the service that do not stop this tool from following it.

use std::collections::HashMap;
use std::time::Duration;

use dmashare_proto::activity::Activity;
use dmashare_proto::holders::Holders;
use serde::{Deserialize, Serialize};
use zbus::proxy::MethodFlags;
use zbus::zvariant::{DynamicType, OwnedObjectPath, Type, Value};
use zbus::{Connection, Proxy};

use super::{Objects, Signal};
use crate::bus::{DEVICE, JOB, NAME, PATH, failure};
use crate::failure::Failure;
use crate::model::{Properties, Service};
use crate::world::copy;

const THE_BUS: &str = "org.freedesktop.DBus";

/// How an eject is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EjectOptions {
    /// 0: end nobody; 1: by the policies; 2: spare nobody.
    pub force: u8,
    /// How long it may take; as long as the service has it if `None`.
    pub timeout: Option<Duration>,
    /// Only look.
    pub dry_run: bool,
    /// Do not ask programs that only know udev.
    pub no_nudge: bool,
    /// Also take the authorisation from its Thunderbolt domain.
    pub deauthorize: bool,
}

impl EjectOptions {
    /// What differs from the service's defaults.
    fn in_words(&self) -> HashMap<&'static str, Value<'static>> {
        let mut options = HashMap::new();
        if self.force > 0 {
            options.insert("force", Value::U32(self.force.into()));
        }
        if let Some(timeout) = self.timeout {
            let ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            options.insert("timeout-ms", Value::U32(ms));
        }
        if self.dry_run {
            options.insert("dry-run", Value::Bool(true));
        }
        if self.no_nudge {
            options.insert("nudge", Value::from("never"));
        }
        if self.deauthorize {
            options.insert("deauthorize", Value::Bool(true));
        }
        options
    }
}

/// Calls the service.
#[derive(Clone)]
pub struct Caller {
    connection: Connection,
    bus: String,
}

impl Caller {
    pub(super) fn new(connection: Connection, bus: String) -> Self {
        Self { connection, bus }
    }

    pub(super) fn bus(&self) -> &str {
        &self.bus
    }

    /// Has the bus send what a rule matches.
    pub(super) async fn listen(&self, rule: &str) -> Result<(), Failure> {
        self.ask_bus("AddMatch", &rule).await.map_err(|error| self.failure(&error))
    }

    /// The connection that has a name.
    pub(super) async fn owner(&self, name: &str) -> Result<Option<String>, Failure> {
        match self.ask_bus("GetNameOwner", &name).await {
            Ok(owner) => Ok(Some(owner)),
            Err(zbus::Error::MethodError(error, ..)) if error.ends_with(".NameHasNoOwner") => {
                Ok(None)
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// All objects.
    pub(super) async fn objects(&self) -> Result<Objects, Failure> {
        let manager = "org.freedesktop.DBus.ObjectManager";
        self.call(PATH, manager, "GetManagedObjects", &(), false).await
    }

    /// The service itself.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub async fn service(&self) -> Result<Service, Failure> {
        let properties = "org.freedesktop.DBus.Properties";
        Service::take(self.call(PATH, properties, "GetAll", &NAME, false).await?)
    }

    pub(super) async fn job(&self, path: &OwnedObjectPath) -> Result<Properties, Failure> {
        self.properties(path.as_str(), JOB).await
    }

    async fn properties(&self, path: &str, interface: &str) -> Result<Properties, Failure> {
        self.call(path, "org.freedesktop.DBus.Properties", "GetAll", &interface, false).await
    }

    /// A signal with what it left out, as far as this user may see that. What has gone meanwhile stays as it
    /// was told: a signal says so next.
    pub(super) async fn whole(&self, partial: &Signal) -> Signal {
        match partial {
            Signal::Added(path, interfaces) => {
                let mut all = HashMap::new();
                for (interface, told) in interfaces {
                    let properties = self.properties(path, interface).await;
                    all.insert(interface.clone(), properties.unwrap_or_else(|_| copy(told)));
                }
                Signal::Added(path.clone(), all)
            }
            Signal::Invalidated(path, interface, told) => {
                let properties = self.properties(path, interface).await;
                let properties = properties.unwrap_or_else(|_| copy(told));
                Signal::Changed(path.clone(), interface.clone(), properties)
            }
            _ => unreachable!("only these are partial"),
        }
    }

    /// Who holds a device. `ask`: somebody may be asked whether the caller may see others' processes.
    ///
    /// # Errors
    /// It refuses, does not answer, or not as expected.
    pub async fn holders(&self, device: u64, ask: bool) -> Result<Holders, Failure> {
        let path = format!("{PATH}/device/d{device}");
        let text: String = self.call(&path, DEVICE, "GetHolders", &(), ask).await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::Unexpected(format!("GetHolders: {error}")))
    }

    /// What goes on with each device.
    ///
    /// # Errors
    /// It does not answer, or not as expected.
    pub async fn activity(&self) -> Result<Vec<Activity>, Failure> {
        let text: String = self.call(PATH, NAME, "GetActivity", &(), false).await?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::Unexpected(format!("GetActivity: {error}")))
    }

    /// Starts to eject a device.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub async fn eject(
        &self,
        device: u64,
        options: &EjectOptions,
    ) -> Result<OwnedObjectPath, Failure> {
        let path = format!("{PATH}/device/d{device}");
        self.call(&path, DEVICE, "Eject", &(options.in_words(),), true).await
    }

    /// Cancels an eject.
    ///
    /// # Errors
    /// It is too late; it refuses, or does not answer.
    pub async fn cancel(&self, id: u64) -> Result<(), Failure> {
        self.call(&format!("{PATH}/job/j{id}"), JOB, "Cancel", &(), true).await
    }

    /// Has the kernel look for new devices.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub async fn attach(&self) -> Result<(), Failure> {
        self.call(PATH, NAME, "Attach", &(), true).await
    }

    async fn call<B, R>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
        ask: bool,
    ) -> Result<R, Failure>
    where
        B: Serialize + DynamicType,
        R: for<'de> Deserialize<'de> + Type,
    {
        let called = async {
            let flags =
                if ask { MethodFlags::AllowInteractiveAuth.into() } else { Default::default() };
            let proxy = Proxy::new(&self.connection, NAME, path, interface).await?;
            let answer: Option<R> = proxy.call_with_flags(method, flags, body).await?;
            // None is what a call has that wants no answer.
            answer.ok_or(zbus::Error::InvalidReply)
        };
        called.await.map_err(|error| self.failure(&error))
    }

    async fn ask_bus<R>(&self, method: &str, about: &&str) -> zbus::Result<R>
    where
        R: for<'de> Deserialize<'de> + Type,
    {
        self.connection
            .call_method(Some(THE_BUS), "/org/freedesktop/DBus", Some(THE_BUS), method, about)
            .await?
            .body()
            .deserialize()
    }

    fn failure(&self, error: &zbus::Error) -> Failure {
        failure(&self.bus, error)
    }
}
