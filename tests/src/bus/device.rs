//! A Device1 object.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow};
use dmashare::DeviceId;
use zbus::zvariant::OwnedValue;

/// An object's properties by their names.
pub(super) type Properties = HashMap<String, OwnedValue>;

/// A Device1 object's properties.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the property of its name in org.dmashare.Broker1.xml")]
pub struct Device {
    pub id: DeviceId,
    pub name: String,
    pub pci: String,
    pub driver: String,
    pub nodes: Vec<String>,
    pub removable: bool,
    pub state: String,
    pub buffers: u32,
    pub imports: u32,
    pub timelines: u32,
    pub fences: u32,
    pub implicit_fences: u32,
    pub cause: String,
    pub wedged: String,
}

impl Device {
    /// Buffers, imports and fences.
    #[must_use]
    pub fn counts(&self) -> (u32, u32, u32) {
        (self.buffers, self.imports, self.fences)
    }

    pub(super) fn new(mut from: Properties) -> Result<Self> {
        Ok(Self {
            id: DeviceId(take(&mut from, "Id")?),
            name: take(&mut from, "Name")?,
            pci: take(&mut from, "Pci")?,
            driver: take(&mut from, "Driver")?,
            nodes: take(&mut from, "Nodes")?,
            removable: take(&mut from, "Removable")?,
            state: take(&mut from, "State")?,
            buffers: take(&mut from, "Buffers")?,
            imports: take(&mut from, "Imports")?,
            timelines: take(&mut from, "Timelines")?,
            fences: take(&mut from, "Fences")?,
            implicit_fences: take(&mut from, "ImplicitFences")?,
            cause: take(&mut from, "Cause")?,
            wedged: take(&mut from, "Wedged")?,
        })
    }
}

pub(super) fn take<T: TryFrom<OwnedValue>>(from: &mut Properties, name: &str) -> Result<T> {
    let value = from.remove(name).with_context(|| format!("no property {name}"))?;
    T::try_from(value).map_err(|_| anyhow!("the property {name} has another type"))
}
