//! `struct dmashare_listener`, and how events reach it.

use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::PoisonError;

use dmashare::Event;

use crate::argument::{Versioned, nanoseconds};
use crate::connection::Connection;
use crate::device::Device;
use crate::failure::Failure;
use crate::handle::Handle;
use crate::lost::Lost;
use crate::neutral::Neutral;

type ToDevice = extern "C" fn(*mut c_void, Handle<Connection>, Handle<Device>);
type ToLost = extern "C" fn(*mut c_void, Handle<Connection>, Handle<Lost>);
type ToId = extern "C" fn(*mut c_void, Handle<Connection>, u64);
type ToWedged = extern "C" fn(*mut c_void, Handle<Connection>, *const Wedged);
type ToRemoval = extern "C" fn(*mut c_void, Handle<Connection>, *const Removal);
type ToReconnected = extern "C" fn(*mut c_void, Handle<Connection>, *const Reconnected);
type ToError = extern "C" fn(*mut c_void, Handle<Connection>, c_int);

/// As C has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Listener {
    version: u32,
    device_added: Option<ToDevice>,
    device_lost: Option<ToLost>,
    device_gone: Option<ToId>,
    device_wedged: Option<ToWedged>,
    disconnected: Option<ToError>,
    removal_requested: Option<ToRemoval>,
    reconnected: Option<ToReconnected>,
    device_stays: Option<ToId>,
}

// SAFETY: `#[repr(C)]`, the first a u32, and zeros are functions that are not there.
unsafe impl Versioned for Listener {
    const SIZES: &'static [usize] =
        &[offset_of!(Self, removal_requested), offset_of!(Self, device_stays), size_of::<Self>()];
}

/// `struct dmashare_wedged`
#[repr(C)]
pub struct Wedged {
    device: u64,
    at_ns: i64,
    fences: u32,
    recovery_count: u32,
    recovery: *const *const c_char,
    task: *const c_char,
}

/// `struct dmashare_removal`
#[repr(C)]
pub struct Removal {
    device: u64,
    why: *const c_char,
    preserved_count: u32,
    preserved: *const Preserved,
}

/// `struct dmashare_preserved`
#[repr(C)]
struct Preserved {
    import: u64,
    copy: Handle<Neutral>,
    error: i32,
    reserved: u32,
}

/// `struct dmashare_reconnected`
#[repr(C)]
pub struct Reconnected {
    same_instance: u32,
    import_count: u32,
    imports: *const u64,
}

/// A listener and its data.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    listener: Listener,
    data: *mut c_void,
}

// SAFETY: the functions are called with the pointer on whichever thread dispatches, as the header says.
unsafe impl Send for Told {}
// SAFETY: it is only copied.
unsafe impl Sync for Told {}

impl Told {
    pub(crate) fn new(listener: Listener, data: *mut c_void) -> Self {
        Self { listener, data }
    }

    /// Calls the callback for an event. No lock is held.
    pub(crate) fn tell(
        &self,
        from: Handle<Connection>,
        through: &dmashare::Connection,
        event: Event,
    ) -> Result<(), Failure> {
        let Self { listener, data } = *self;
        match event {
            Event::DeviceAdded(info) => {
                if let Some(callback) = listener.device_added {
                    let device = Handle::new(Device::new(info))?;
                    callback(data, from, device);
                    // Unless the callback has destroyed it.
                    device.remove().ok();
                }
            }
            Event::DeviceLost(lost) => {
                if let Some(callback) = listener.device_lost {
                    let lost = Handle::new(Lost::new(lost))?;
                    callback(data, from, lost);
                    Lost::told(lost);
                }
            }
            Event::DeviceGone(device) => {
                if let Some(callback) = listener.device_gone {
                    callback(data, from, device.0);
                }
            }
            Event::DeviceWedged(wedged) => {
                if let Some(callback) = listener.device_wedged {
                    tell_wedged(wedged, |wedged| callback(data, from, wedged));
                }
            }
            Event::RemovalRequested(removal) => {
                if let Some(callback) = listener.removal_requested {
                    tell_removal(removal, through, |removal| callback(data, from, removal))?;
                }
            }
            Event::DeviceStays(device) => {
                if let Some(callback) = listener.device_stays {
                    callback(data, from, device.0);
                }
            }
            Event::Disconnected(error) => {
                if let Some(callback) = listener.disconnected {
                    callback(data, from, -error.errno());
                }
            }
            Event::Reconnected(reconnected) => {
                if let Some(callback) = listener.reconnected {
                    let imports: Vec<u64> = reconnected.imports.iter().map(|id| id.0).collect();
                    let reconnected = Reconnected {
                        same_instance: reconnected.same_instance.into(),
                        import_count: count(imports.len()),
                        imports: imports.as_ptr(),
                    };
                    callback(data, from, &raw const reconnected);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn text(text: String) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

fn tell_removal(
    removal: dmashare::Removal,
    through: &dmashare::Connection,
    tell: impl FnOnce(*const Removal),
) -> Result<(), Failure> {
    let (device, why) = (removal.device.0, text(removal.why));
    let mut preserved = Vec::new();
    for (import, copy) in removal.preserved {
        let (copy, error) = match copy {
            Ok(object) => (Handle::new(Neutral { object, connection: through.clone() })?, 0),
            Err(error) => (Handle::null(), -error.errno()),
        };
        preserved.push(Preserved { import: import.0, copy, error, reserved: 0 });
    }
    let preserved_count = count(preserved.len());
    let why = why.as_ptr();
    tell(&Removal { device, why, preserved_count, preserved: preserved.as_ptr() });
    Ok(())
}

fn tell_wedged(wedged: dmashare::Wedged, tell: impl FnOnce(*const Wedged)) {
    let recovery: Vec<CString> = wedged.recovery.into_iter().map(text).collect();
    let pointers: Vec<*const c_char> = recovery.iter().map(|text| text.as_ptr()).collect();
    let task = wedged.task.map(text);
    tell(&Wedged {
        device: wedged.device.0,
        at_ns: nanoseconds(wedged.at),
        fences: wedged.fences,
        recovery_count: count(pointers.len()),
        recovery: pointers.as_ptr(),
        task: task.as_ref().map_or(ptr::null(), |task| task.as_ptr()),
    });
}

impl Connection {
    /// Calls `disconnected`, the first time.
    pub(crate) fn tell_disconnected(&self, from: Handle<Self>, error: c_int) {
        let callback = {
            let mut told = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
            told.as_mut().and_then(|told| Some((told.listener.disconnected.take()?, told.data)))
        };
        if let Some((callback, data)) = callback {
            callback(data, from, error);
        }
    }
}
