//! What the service and the bus say unasked, in their own words.

use std::collections::HashMap;

use zbus::Message;
use zbus::message::Type;
use zbus::zvariant::OwnedObjectPath;

use crate::bus::{CLIENT, DEVICE, JOB, NAME};
use crate::model::Properties;

/// A signal.
#[derive(Debug, PartialEq)]
pub enum Signal {
    /// The service's name has another owner, or none.
    Owner(Option<String>),
    /// An object came, or more of it.
    Added(String, HashMap<String, Properties>),
    /// An object went, or some of it.
    Removed(String, Vec<String>),
    /// Properties of an object's interface have new values.
    Changed(String, String, Properties),
    /// Properties of an object's interface have changed, and some have values that not everybody may see: they
    /// are to be asked for. With those that came.
    Invalidated(String, String, Properties),
    /// A device is gone.
    Lost {
        /// Its object.
        path: String,
        /// Why.
        cause: String,
        /// What it had: buffers, imports, fences.
        counts: (u32, u32, u32),
    },
    /// A device hangs.
    Wedged {
        /// Its object.
        path: String,
        /// How it can be recovered from.
        recovery: String,
        /// Whom the driver blames.
        task: String,
        /// Guard fences that were ended.
        fences: u32,
    },
    /// Somebody asks for a device.
    RemovalRequested {
        /// Its object.
        path: String,
        /// Who asks, in words.
        why: String,
    },
    /// A job ended.
    Ended {
        /// Its object.
        path: String,
        /// How.
        outcome: String,
        /// The same in a sentence; empty where the job's property has it.
        message: String,
    },
}

impl Signal {
    /// Whether the service has left out what this user may see perhaps, and others may not.
    pub(super) fn is_partial(&self) -> bool {
        match self {
            Self::Added(_, interfaces) => {
                interfaces.keys().any(|interface| interface == CLIENT || interface == JOB)
            }
            Self::Invalidated(..) => true,
            _ => false,
        }
    }
}

/// `None` for what is no signal, not the service's (`owner`), or not known.
pub(super) fn read(message: &Message, owner: Option<&str>) -> Option<Signal> {
    let header = message.header();
    if message.message_type() != Type::Signal {
        return None;
    }
    let sender = header.sender()?.as_str();
    let (interface, member) = (header.interface()?.as_str(), header.member()?.as_str());
    let body = message.body();
    if sender == "org.freedesktop.DBus" {
        if member != "NameOwnerChanged" {
            return None;
        }
        let (name, _, new): (String, String, String) = body.deserialize().ok()?;
        return (name == NAME).then(|| Signal::Owner(Some(new).filter(|new| !new.is_empty())));
    }
    if owner != Some(sender) {
        return None;
    }
    let path = header.path()?.as_str().to_owned();
    Some(match (interface, member) {
        ("org.freedesktop.DBus.ObjectManager", "InterfacesAdded") => {
            let (path, interfaces): (OwnedObjectPath, _) = body.deserialize().ok()?;
            Signal::Added(path.as_str().to_owned(), interfaces)
        }
        ("org.freedesktop.DBus.ObjectManager", "InterfacesRemoved") => {
            let (path, interfaces): (OwnedObjectPath, _) = body.deserialize().ok()?;
            Signal::Removed(path.as_str().to_owned(), interfaces)
        }
        ("org.freedesktop.DBus.Properties", "PropertiesChanged") => {
            let (of, changed, invalidated): (String, Properties, Vec<String>) =
                body.deserialize().ok()?;
            if invalidated.is_empty() {
                Signal::Changed(path, of, changed)
            } else {
                Signal::Invalidated(path, of, changed)
            }
        }
        (DEVICE, "Lost") => {
            let (cause, _, buffers, imports, fences): (String, u64, u32, u32, u32) =
                body.deserialize().ok()?;
            Signal::Lost { path, cause, counts: (buffers, imports, fences) }
        }
        (DEVICE, "Wedged") => {
            let (recovery, task, fences) = body.deserialize().ok()?;
            Signal::Wedged { path, recovery, task, fences }
        }
        (DEVICE, "RemovalRequested") => {
            Signal::RemovalRequested { path, why: body.deserialize().ok()? }
        }
        (JOB, "Ended") => {
            let (outcome, message) = body.deserialize().ok()?;
            Signal::Ended { path, outcome, message }
        }
        _ => return None,
    })
}
