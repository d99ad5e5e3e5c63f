//! Ejects on D-Bus.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use dmashare::DeviceId;
use dmashare_proto::holders::Holders;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};

use super::{Bus, NAME, ROOT};

const JOB: &str = "org.dmashare.Job1";

/// An error of the broker's: its name without what all have in common, and its text.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// `Busy`
    pub name: String,
    /// For a person.
    pub text: String,
}

/// An eject.
pub struct Job<'a> {
    bus: &'a Bus,
    /// Its object.
    pub path: String,
}

impl Bus {
    /// Asks for an eject.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn eject(
        &self,
        device: DeviceId,
        options: &[(&str, Value<'_>)],
    ) -> Result<Result<Job<'_>, Refusal>> {
        let options: HashMap<&str, &Value<'_>> =
            options.iter().map(|(key, value)| (*key, value)).collect();
        let path = Self::device_path(device);
        let called =
            self.ask::<OwnedObjectPath>(&path, "org.dmashare.Device1", "Eject", &options)?;
        Ok(called.map(|path| Job { bus: self, path: path.to_string() }))
    }

    /// Who holds a device.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn holders(&self, device: DeviceId) -> Result<Result<Holders, Refusal>> {
        let path = Self::device_path(device);
        let called = self.ask::<String>(&path, "org.dmashare.Device1", "GetHolders", &())?;
        called
            .map(|text| serde_json::from_str(&text).context("its JSON"))
            .map_or_else(|refusal| Ok(Err(refusal)), |holders: Result<Holders>| holders.map(Ok))
    }

    /// Has the kernel look for PCI devices.
    ///
    /// # Errors
    /// It was refused.
    pub fn attach(&self) -> Result<()> {
        let called = self.ask::<()>(ROOT, NAME, "Attach", &())?;
        called.map_err(|refusal| anyhow!("Attach: {refusal:?}"))
    }

    fn ask<T>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl serde::Serialize + zbus::zvariant::DynamicType),
    ) -> Result<Result<T, Refusal>>
    where
        T: serde::de::DeserializeOwned + zbus::zvariant::Type,
    {
        match self.connection.call_method(Some(NAME), path, Some(interface), method, body) {
            Ok(reply) => Ok(Ok(reply.body().deserialize()?)),
            Err(zbus::Error::MethodError(name, text, _)) => {
                let name = name.trim_start_matches("org.dmashare.Error.").to_owned();
                Ok(Err(Refusal { name, text: text.unwrap_or_default() }))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Job<'_> {
    fn property<T: TryFrom<OwnedValue>>(&self, name: &str) -> Result<T> {
        let interface = Some("org.freedesktop.DBus.Properties");
        let body = (JOB, name);
        let reply = self.bus.connection.call_method(
            Some(NAME),
            self.path.as_str(),
            interface,
            "Get",
            &body,
        )?;
        let value: OwnedValue = reply.body().deserialize()?;
        T::try_from(value).map_err(|_| anyhow!("the property {name} has another type"))
    }

    /// Where it is.
    ///
    /// # Errors
    /// It is gone.
    pub fn stage(&self) -> Result<String> {
        self.property("Stage")
    }

    /// What goes on.
    ///
    /// # Errors
    /// It is gone.
    pub fn message(&self) -> Result<String> {
        self.property("Message")
    }

    /// The stages that it was in, in their order.
    ///
    /// # Errors
    /// It is gone.
    pub fn stages(&self) -> Result<Vec<String>> {
        let steps: String = self.property("Steps")?;
        let steps: Vec<serde_json::Value> = serde_json::from_str(&steps)?;
        let mut stages: Vec<String> =
            steps.iter().filter_map(|step| Some(step["stage"].as_str()?.to_owned())).collect();
        stages.dedup();
        Ok(stages)
    }

    /// What its last look found.
    ///
    /// # Errors
    /// It is gone, or has not looked.
    pub fn holders(&self) -> Result<Holders> {
        Ok(serde_json::from_str(&self.property::<String>("Holders")?)?)
    }

    /// Waits until it is in a stage, and its message is as wanted; gives the message.
    ///
    /// # Errors
    /// It is not in time, or has ended.
    pub fn wait_stage(
        &self,
        stage: &str,
        bound: Duration,
        is: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.bus.until(&format!("an eject that is {stage}"), bound, |_| {
            let (found, message) = (self.stage()?, self.message()?);
            if found == "ended" && stage != "ended" {
                bail!("it has ended: {message}");
            }
            Ok((found == stage && is(&message)).then_some(message))
        })
    }

    /// Waits until it has ended: its outcome, and its message.
    ///
    /// # Errors
    /// It did not in time.
    pub fn wait_ended(&self, bound: Duration) -> Result<(String, String)> {
        self.bus.until("the end of an eject", bound, |_| {
            let outcome: String = self.property("Outcome")?;
            Ok(if outcome.is_empty() { None } else { Some((outcome, self.message()?)) })
        })
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// The broker is not there.
    pub fn cancel(&self) -> Result<Result<(), Refusal>> {
        self.bus.ask(&self.path, JOB, "Cancel", &())
    }
}
