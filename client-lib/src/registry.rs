//! Which imports there are of which device, and which devices are known to be lost.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dmashare_proto::message::{self, Cause};
use dmashare_proto::{DeviceId, ObjectId};

use crate::device::Device;
use crate::import_core::ImportCore;

#[derive(Default)]
struct Tables {
    imports: HashMap<DeviceId, HashMap<ObjectId, Weak<ImportCore>>>,
    /// Until the device is *Gone*.
    lost: HashMap<DeviceId, Cause>,
    /// Those of them that were rehearsed, for good: no state page tells of a loss that is this client's
    /// alone.
    #[cfg(feature = "tokio")]
    rehearsed: std::collections::HashSet<DeviceId>,
}

/// The lock is never held while a mapping is replaced or an fd closed.
#[derive(Default)]
pub(crate) struct Registry(Mutex<Tables>);

/// What a loss took from this connection.
pub(crate) struct Swept {
    pub(crate) lost: message::DeviceLost,
    pub(crate) imports: Vec<(ObjectId, Weak<ImportCore>)>,
    pub(crate) failed: Vec<(ObjectId, io::Error)>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters an import; says whether its device was lost before, so that no sweep will come.
    pub(crate) fn add(&self, import: &Arc<ImportCore>) -> bool {
        let mut tables = self.lock();
        // No loss takes what has no device.
        let Some(device) = import.device.as_ref().map(Device::id) else { return false };
        tables.imports.entry(device).or_default().insert(import.id, Arc::downgrade(import));
        tables.lost.contains_key(&device)
    }

    /// Strikes out an import that is dropped.
    pub(crate) fn remove(&self, device: DeviceId, import: ObjectId) {
        let mut tables = self.lock();
        if let Some(imports) = tables.imports.get_mut(&device) {
            imports.remove(&import);
            if imports.is_empty() {
                tables.imports.remove(&device);
            }
        }
    }

    /// Imports of a device that are to be copied when somebody asks for it, in the order of their ids.
    pub(crate) fn to_preserve(&self, device: DeviceId) -> Vec<Arc<ImportCore>> {
        let mut imports: Vec<_> = (self.lock().imports.get(&device).into_iter().flatten())
            .filter_map(|(_, import)| import.upgrade())
            .collect();
        // Out of the lock: dropping the last handle of one takes it.
        imports.retain(|import| import.preserve.load(Ordering::Relaxed));
        imports.sort_unstable_by_key(|import| import.id);
        imports
    }

    /// Why the device was lost, if the event was read and it is not *Gone*.
    pub(crate) fn cause(&self, device: DeviceId) -> Option<Cause> {
        self.lock().lost.get(&device).copied()
    }

    /// Whether its loss was told.
    #[cfg(feature = "tokio")]
    pub(crate) fn was_lost(&self, device: DeviceId) -> bool {
        let tables = self.lock();
        tables.lost.contains_key(&device) || tables.rehearsed.contains(&device)
    }

    pub(crate) fn forget(&self, device: DeviceId) {
        self.lock().lost.remove(&device);
    }

    /// Takes back every import of a device that was lost just now.
    pub(crate) fn sweep(&self, lost: message::DeviceLost) -> Swept {
        let imports: Vec<_> = {
            let mut tables = self.lock();
            tables.lost.insert(lost.device, lost.cause);
            #[cfg(feature = "tokio")]
            if lost.cause == Cause::Rehearsed {
                tables.rehearsed.insert(lost.device);
            }
            tables.imports.remove(&lost.device).unwrap_or_default().into_iter().collect()
        };
        let mut failed = Vec::new();
        for (id, import) in &imports {
            let Some(import) = import.upgrade() else { continue };
            if let Err(error) = import.revoke() {
                failed.push((*id, error));
            }
        }
        Swept { lost, imports, failed }
    }

    /// Another connection takes the place of this one: takes back every import of a device. A mapping
    /// that cannot be replaced stays; `begin` fails on it all the same.
    pub(crate) fn sweep_all(&self) -> Vec<ObjectId> {
        let mut imports: Vec<_> =
            self.lock().imports.values().flat_map(HashMap::values).cloned().collect();
        let mut swept = Vec::new();
        for import in imports.drain(..).filter_map(|import| import.upgrade()) {
            drop(import.revoke());
            swept.push(import.id);
        }
        swept.sort_unstable();
        swept
    }

    /// The connection is closed and no event will come: takes back what the state page says is
    /// lost. A mapping that cannot be replaced stays; `begin` fails on it all the same.
    pub(crate) fn sweep_known(&self) {
        let imports: Vec<_> =
            self.lock().imports.values().flat_map(HashMap::values).cloned().collect();
        for import in imports.iter().filter_map(Weak::upgrade) {
            if import.device.as_ref().is_some_and(Device::is_lost) {
                drop(import.revoke());
            }
        }
    }
}
