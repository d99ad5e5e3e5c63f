//! `org.dmashare.Device1`: a GPU.

use zbus::interface;
use zbus::object_server::SignalEmitter;

use super::changes::{Changes, changes};
use crate::view::DeviceView;

/// A GPU on the bus.
pub(super) struct Device(pub(super) DeviceView);

/// What changed from one state to the next. What is constant for a device's life is not here.
pub(super) fn changed(old: &Device, new: &Device) -> Changes {
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
        "Report": report,
    })
}

#[interface(name = "org.dmashare.Device1", introspection_docs = false)]
impl Device {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> u64 {
        self.0.id.0
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.0.name.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn pci(&self) -> String {
        self.0.pci.clone()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn driver(&self) -> String {
        self.0.driver.clone()
    }

    #[zbus(property)]
    fn nodes(&self) -> Vec<String> {
        self.0.nodes.clone()
    }

    #[zbus(property)]
    fn removable(&self) -> bool {
        self.0.removable
    }

    #[zbus(property)]
    fn removable_reason(&self) -> String {
        self.0.removable_reason.clone()
    }

    #[zbus(property)]
    fn state(&self) -> String {
        self.0.state.name().to_owned()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn slot(&self) -> u32 {
        self.0.slot
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

    #[zbus(property)]
    fn implicit_fences(&self) -> u32 {
        self.0.implicit_fences
    }

    #[zbus(property)]
    fn cause(&self) -> String {
        self.0.cause.map_or("", |cause| cause.name()).to_owned()
    }

    // The signal is `Wedged` too.
    #[zbus(property, name = "Wedged")]
    fn wedged(&self) -> String {
        self.0.wedged.clone()
    }

    #[zbus(property)]
    fn report(&self) -> String {
        self.0.report.clone()
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
