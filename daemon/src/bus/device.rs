//! `org.dmashare.Device1`: a GPU.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zbus::message::Header;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::zvariant::{OwnedObjectPath, OwnedValue};
use zbus::{Connection, interface};

use super::Asks;
use super::changes::{Changes, changes, tell};
use super::eject::{Caller, EjectError, eject, holders};
use super::job::job_path;
use super::rehearse::{RehearseError, rehearse};
use super::sight;
use crate::view::DeviceView;

/// A GPU on the bus. zbus holds an object for as long as one of its methods runs, and `Rehearse` waits
/// for people; so what is shown is changed inside of it.
pub(super) struct Device {
    view: Mutex<DeviceView>,
    asks: Asks,
}

impl Device {
    pub(super) fn new(view: DeviceView, asks: Asks) -> Self {
        Self { view: Mutex::new(view), asks }
    }

    fn view(&self) -> MutexGuard<'_, DeviceView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a new state in the place of a device's, and tells what changed.
pub(super) async fn replace(object: &InterfaceRef<Device>, view: DeviceView) -> zbus::Result<()> {
    let changes = {
        let device = object.get().await;
        let old = std::mem::replace(&mut *device.view(), view);
        let old = Device::new(old, device.asks.clone());
        changed(&old, &device)
    };
    tell(object, changes).await
}

/// What changed from one state to the next. What is constant for a device's life is not here.
fn changed(old: &Device, new: &Device) -> Changes {
    changes!(old, new, {
        "Nodes": nodes,
        "Removable": removable,
        "RemovableReason": removable_reason,
        "State": state,
        "Buffers": buffers,
        "Imports": imports,
        "Fences": fences,
        "Timelines": timelines,
        "ImplicitFences": implicit_fences,
        "Cause": cause,
        "Wedged": wedged,
    }, hidden old.view(), new.view(), {
        "Report": report,
    })
}

#[interface(name = "org.dmashare.Device1", introspection_docs = false)]
impl Device {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u64 {
        self.view().id.0
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.view().name.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn pci(&self) -> String {
        self.view().pci.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn driver(&self) -> String {
        self.view().driver.clone()
    }

    #[zbus(property)]
    fn nodes(&self) -> Vec<String> {
        self.view().nodes.clone()
    }

    #[zbus(property)]
    fn removable(&self) -> bool {
        self.view().removable
    }

    #[zbus(property)]
    fn removable_reason(&self) -> String {
        self.view().removable_reason.clone()
    }

    #[zbus(property)]
    fn state(&self) -> String {
        self.view().state.name().to_owned()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn slot(&self) -> u32 {
        self.view().slot
    }

    #[zbus(property)]
    fn buffers(&self) -> u32 {
        self.view().counts.buffers
    }

    #[zbus(property)]
    fn imports(&self) -> u32 {
        self.view().counts.imports
    }

    #[zbus(property)]
    fn fences(&self) -> u32 {
        self.view().counts.fences
    }

    #[zbus(property)]
    fn timelines(&self) -> u32 {
        self.view().counts.timelines
    }

    #[zbus(property)]
    fn implicit_fences(&self) -> u32 {
        self.view().implicit_fences
    }

    #[zbus(property)]
    fn cause(&self) -> String {
        self.view().cause.map_or("", |cause| cause.name()).to_owned()
    }

    // The signal is `Wedged` too.
    #[zbus(property, name = "Wedged")]
    fn wedged(&self) -> String {
        self.view().wedged.clone()
    }

    #[zbus(property(emits_changed_signal = "invalidates"))]
    async fn report(
        &self,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> String {
        let eyes = self.asks.viewers.eyes(bus, header.as_ref()).await;
        sight::reports(&self.view().report, eyes)
    }

    /// Makes the broker behave as if the device were lost.
    async fn rehearse(
        &self,
        client: u64,
        after_ms: u32,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(), RehearseError> {
        let device = self.view().id;
        rehearse(&self.asks, device, client, after_ms, bus, &header).await
    }

    /// Begins an eject: a job.
    #[zbus(out_args("job"))]
    async fn eject(
        &self,
        options: HashMap<String, OwnedValue>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<OwnedObjectPath, EjectError> {
        let device = self.view().id;
        let caller = Caller { asks: &self.asks, bus, header: &header };
        Ok(job_path(eject(caller, device, options).await?).into())
    }

    /// Who holds it, as JSON.
    #[zbus(out_args("holders"))]
    async fn get_holders(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<String, EjectError> {
        let device = self.view().id;
        holders(Caller { asks: &self.asks, bus, header: &header }, device).await
    }

    /// It is lost. The property changes have come before.
    #[zbus(signal)]
    pub(super) async fn lost(
        emitter: &SignalEmitter<'_>,
        cause: &str,
        at_ns: u64,
        buffers: u32,
        imports: u32,
        fences: u32,
    ) -> zbus::Result<()>;

    /// Its driver says that it hangs; it is still there. The property has changed before.
    #[zbus(signal, name = "Wedged")]
    pub(super) async fn is_wedged(
        emitter: &SignalEmitter<'_>,
        recovery: &str,
        task: &str,
        fences: u32,
    ) -> zbus::Result<()>;

    /// Its users are asked to let go of it; it is still there.
    #[zbus(signal)]
    pub(super) async fn removal_requested(
        emitter: &SignalEmitter<'_>,
        why: &str,
    ) -> zbus::Result<()>;
}
