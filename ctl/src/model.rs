//! What the service shows, as this tool holds it. States and causes stay words: a newer service may
//! have more of them than this tool knows.

use std::collections::HashMap;

use serde::Serialize;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use crate::failure::Failure;

/// A D-Bus object's properties.
pub type Properties = HashMap<String, OwnedValue>;

/// The service itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its version.
    pub version: String,
    /// Which guards it makes.
    pub backend: String,
    /// Connections to it.
    pub clients: u32,
    /// What neutral buffers are made from, or `none`.
    pub heap: String,
    /// Neutral buffers.
    pub neutral_buffers: u32,
    /// Their bytes.
    pub neutral_bytes: u64,
    /// What holds ejects up.
    pub inhibitors: Vec<Inhibitor>,
}

/// What holds ejects up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inhibitor {
    /// Its id.
    pub id: u64,
    /// Of which device; `null` for each.
    pub device: Option<u64>,
    /// `delay` or `block`.
    pub mode: String,
    /// Why.
    pub why: String,
    /// What its holder calls itself.
    pub who: String,
    /// The holder's process.
    pub pid: u32,
    /// The holder's user.
    pub uid: u32,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its id, never used again.
    pub id: u64,
    /// PCI address, else its sysfs name.
    pub name: String,
    /// PCI address, or empty.
    pub pci: String,
    /// Kernel driver.
    pub driver: String,
    /// `/dev/dri/…`
    pub nodes: Vec<String>,
    /// Whether it can be pulled.
    pub removable: bool,
    /// How that is known.
    pub removable_reason: String,
    /// `present`, `draining`, `lost`, `gone`.
    pub state: String,
    /// Its slot on the state page.
    pub slot: u32,
    /// Live objects by kind.
    pub counts: DeviceCounts,
    /// Why it was lost; `null` while it is not.
    pub cause: Option<String>,
    /// How a hang of it can be recovered from, as its driver last said; `null` if it never hung.
    pub wedged: Option<String>,
}

/// Live objects of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceCounts {
    /// Exported buffers.
    pub buffers: u32,
    /// Imports of them.
    pub imports: u32,
    /// Pending fences.
    pub fences: u32,
    /// Timelines.
    pub timelines: u32,
    /// Implicit fences still pending, once it is lost.
    pub implicit_fences: u32,
}

/// Why something ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// A fence, an import or a timeline.
    pub object: u64,
    /// The timeline's point, else 0.
    pub point: u64,
    /// Why.
    pub cause: String,
    /// The positive errno that stands for it.
    pub errno: i32,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
}

/// A connection to the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Its id.
    pub id: u64,
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What it calls itself.
    pub name: String,
    /// Its systemd unit, or empty.
    pub unit: String,
    /// What it wants done with it on a loss: `wait`, `relaunch`, `kill`, `ignore`.
    pub on_loss: String,
    /// Whether it says that its user loses nothing then.
    pub survives_removal: bool,
    /// Live objects that it has.
    pub counts: ClientCounts,
}

/// Live objects of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientCounts {
    /// Exported buffers.
    pub buffers: u32,
    /// Imports.
    pub imports: u32,
    /// Pending fences.
    pub fences: u32,
    /// Timelines.
    pub timelines: u32,
}

pub(crate) fn take<T>(properties: &mut Properties, name: &str) -> Result<T, Failure>
where
    T: TryFrom<OwnedValue>,
    T::Error: std::fmt::Display,
{
    let value = properties
        .remove(name)
        .ok_or_else(|| Failure::Unexpected(format!("the property {name} is missing")))?;
    T::try_from(value).map_err(|error| Failure::Unexpected(format!("property {name}: {error}")))
}

/// An inhibitor as the property has it.
type Row = (u64, OwnedObjectPath, String, String, String, u32, u32);

impl From<Row> for Inhibitor {
    fn from((id, device, mode, why, who, pid, uid): Row) -> Self {
        let number = device.as_str().rsplit_once("/d").and_then(|(_, id)| id.parse().ok());
        Self { id, device: number, mode, why, who, pid, uid }
    }
}

impl Service {
    pub(crate) fn take(mut of: Properties) -> Result<Self, Failure> {
        Ok(Self {
            version: take(&mut of, "Version")?,
            backend: take(&mut of, "Backend")?,
            clients: take(&mut of, "Clients")?,
            heap: take(&mut of, "Heap")?,
            neutral_buffers: take(&mut of, "NeutralBuffers")?,
            neutral_bytes: take(&mut of, "NeutralBytes")?,
            inhibitors: take::<Vec<Row>>(&mut of, "Inhibitors")?
                .into_iter()
                .map(Inhibitor::from)
                .collect(),
        })
    }
}

impl Device {
    pub(crate) fn take(mut of: Properties) -> Result<Self, Failure> {
        let of = &mut of;
        let cause: String = take(of, "Cause")?;
        let wedged: String = take(of, "Wedged")?;
        Ok(Self {
            id: take(of, "Id")?,
            name: take(of, "Name")?,
            pci: take(of, "Pci")?,
            driver: take(of, "Driver")?,
            nodes: take(of, "Nodes")?,
            removable: take(of, "Removable")?,
            removable_reason: take(of, "RemovableReason")?,
            state: take(of, "State")?,
            slot: take(of, "Slot")?,
            counts: DeviceCounts {
                buffers: take(of, "Buffers")?,
                imports: take(of, "Imports")?,
                fences: take(of, "Fences")?,
                timelines: take(of, "Timelines")?,
                implicit_fences: take(of, "ImplicitFences")?,
            },
            cause: Some(cause).filter(|cause| !cause.is_empty()),
            wedged: Some(wedged).filter(|recovery| !recovery.is_empty()),
        })
    }
}

impl Client {
    pub(crate) fn take(mut of: Properties) -> Result<Self, Failure> {
        let of = &mut of;
        Ok(Self {
            id: take(of, "Id")?,
            pid: take(of, "Pid")?,
            uid: take(of, "Uid")?,
            name: take(of, "Name")?,
            unit: take(of, "Unit")?,
            on_loss: take(of, "OnLoss")?,
            survives_removal: take(of, "SurvivesRemoval")?,
            counts: ClientCounts {
                buffers: take(of, "Buffers")?,
                imports: take(of, "Imports")?,
                fences: take(of, "Fences")?,
                timelines: take(of, "Timelines")?,
            },
        })
    }
}
