//! Properties that are looked at one by one.

use anyhow::{Context, Result, anyhow};
use zbus::zvariant::OwnedValue;

use super::device::take;
use super::{Bus, NAME, ROOT};

impl Bus {
    /// One of the broker's own.
    ///
    /// # Errors
    /// The broker is not there, or has none of that name and type.
    pub fn broker_property<T: TryFrom<OwnedValue>>(&self, name: &str) -> Result<T> {
        let interface = Some("org.freedesktop.DBus.Properties");
        let reply = self
            .connection
            .call_method(Some(NAME), ROOT, interface, "Get", &(NAME, name))
            .with_context(|| format!("the property {name}"))?;
        let value: OwnedValue = reply.body().deserialize()?;
        T::try_from(value).map_err(|_| anyhow!("the property {name} has another type"))
    }

    /// One of the client's that calls itself `client` in a process; `None` where there is no such client
    /// (yet).
    ///
    /// # Errors
    /// The broker is not there, or has none of that name and type.
    pub fn client_property<T: TryFrom<OwnedValue>>(
        &self,
        pid: u32,
        client: &str,
        name: &str,
    ) -> Result<Option<T>> {
        for (_, mut interfaces) in self.managed()? {
            let Some(mut properties) = interfaces.remove("org.dmashare.Client1") else { continue };
            let is_it = take::<u32>(&mut properties, "Pid")? == pid
                && take::<String>(&mut properties, "Name")? == client;
            if is_it {
                return take(&mut properties, name).map(Some);
            }
        }
        Ok(None)
    }
}
