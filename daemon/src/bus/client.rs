//! `org.dmashare.Client1`: a connection to the data plane.

use zbus::message::Header;
use zbus::{Connection, interface};

use super::Asks;
use super::changes::{Changes, changes};
use crate::view::ClientView;

/// A client on the bus. Its own user sees it; others see that it is there.
pub(super) struct Client {
    pub(super) view: ClientView,
    pub(super) asks: Asks,
}

/// What others do not see.
pub(super) const HIDDEN: &[&str] = &[
    "Pid",
    "Name",
    "Unit",
    "OnLoss",
    "SurvivesRemoval",
    "Buffers",
    "Imports",
    "Fences",
    "Timelines",
];

/// What changed from one state to the next. What is constant for a client's life is not here.
pub(super) fn changed(old: &Client, new: &Client) -> Changes {
    changes!(old, new, {}, hidden old.view, new.view, {
        "Name": name,
        "OnLoss": declared.on_loss,
        "SurvivesRemoval": declared.survives,
        "Buffers": counts.buffers,
        "Imports": counts.imports,
        "Fences": counts.fences,
        "Timelines": counts.timelines,
    })
}

impl Client {
    /// What the caller sees of it.
    async fn seen(&self, bus: &Connection, header: Option<&Header<'_>>) -> Option<&ClientView> {
        let eyes = self.asks.viewers.eyes(bus, header).await;
        eyes.see(self.view.uid).then_some(&self.view)
    }
}

#[interface(name = "org.dmashare.Client1", introspection_docs = false)]
impl Client {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u64 {
        self.view.id.0
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn uid(&self) -> u32 {
        self.view.uid
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn pid(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> u32 {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.pid.unsigned_abs()).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn name(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.name.clone()).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn unit(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.unit.clone()).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn on_loss(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.declared.on_loss.name().to_owned()).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn survives_removal(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> bool {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.declared.survives).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn buffers(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> u32 {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.counts.buffers).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn imports(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> u32 {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.counts.imports).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn fences(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> u32 {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.counts.fences).unwrap_or_default()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn timelines(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> u32 {
        let seen = self.seen(bus, header.as_ref()).await;
        seen.map(|view| view.counts.timelines).unwrap_or_default()
    }
}
