//! `org.dmashare.Client1`: a connection to the data plane.

use zbus::interface;

use super::changes::{Changes, changes};
use crate::view::ClientView;

/// A client on the bus.
pub(super) struct Client(pub(super) ClientView);

/// What changed from one state to the next. What is constant for a client's life is not here.
pub(super) fn changed(old: &Client, new: &Client) -> Changes {
    changes!(old, new, {
        "Name": name,
        "OnLoss": on_loss,
        "SurvivesRemoval": survives_removal,
        "Buffers": buffers,
        "Imports": imports,
        "Fences": fences,
        "Timelines": timelines,
    })
}

#[interface(name = "org.dmashare.Client1", introspection_docs = false)]
impl Client {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u64 {
        self.0.id.0
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn pid(&self) -> u32 {
        self.0.pid.unsigned_abs()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn uid(&self) -> u32 {
        self.0.uid
    }

    #[zbus(property)]
    fn name(&self) -> String {
        self.0.name.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn unit(&self) -> String {
        self.0.unit.clone()
    }

    #[zbus(property)]
    fn on_loss(&self) -> String {
        self.0.declared.on_loss.name().to_owned()
    }

    #[zbus(property)]
    fn survives_removal(&self) -> bool {
        self.0.declared.survives
    }

    #[zbus(property)]
    fn buffers(&self) -> u32 {
        self.0.counts.buffers
    }

    #[zbus(property)]
    fn imports(&self) -> u32 {
        self.0.counts.imports
    }

    #[zbus(property)]
    fn fences(&self) -> u32 {
        self.0.counts.fences
    }

    #[zbus(property)]
    fn timelines(&self) -> u32 {
        self.0.counts.timelines
    }
}
