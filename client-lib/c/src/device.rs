//! `struct dmashare_device` and `struct dmashare_device_list`

use std::ffi::{CString, c_char, c_int};
use std::sync::Arc;

use dmashare::{DeviceInfo, DeviceState};

use crate::argument::{self, Out};
use crate::connection::Connection;
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};

#[derive(Clone)]
pub struct Device {
    device: dmashare::Device,
    driver: CString,
    pci: CString,
    nodes: Vec<CString>,
    removable: bool,
}

pub struct DeviceList(Vec<Arc<Device>>);

kinds! { 2 Device, "device"; 3 DeviceList, "list of devices"; }

impl Device {
    pub(crate) fn new(info: DeviceInfo) -> Self {
        let text = |text: String| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let nodes = info.nodes.into_iter().map(text).collect();
        let (driver, pci) = (text(info.driver), text(info.pci));
        Self { device: info.device, driver, pci, nodes, removable: info.removable }
    }

    /// As an object knows it.
    pub(crate) fn bare(device: &dmashare::Device) -> Self {
        let (driver, pci, nodes) = Default::default();
        Self { device: device.clone(), driver, pci, nodes, removable: false }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_list_devices(
    connection: Handle<Connection>,
    list: Out<Handle<DeviceList>>,
) -> c_int {
    call(|| {
        list.check()?;
        let devices = connection.get()?.connection.devices()?;
        let devices = devices.into_iter().map(|info| Arc::new(Device::new(info))).collect();
        list.put(Handle::new(DeviceList(devices))?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_list_destroy(list: Handle<DeviceList>) -> c_int {
    call(|| list.remove().map(|_| 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_list_count(list: Handle<DeviceList>) -> c_int {
    call(|| Ok(c_int::try_from(list.get()?.0.len()).unwrap_or(c_int::MAX)))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_list_get(
    list: Handle<DeviceList>,
    index: usize,
    device: Out<Handle<Device>>,
) -> c_int {
    call(|| {
        device.check()?;
        let list = list.get()?;
        let found = list.0.get(index).ok_or_else(|| {
            Failure::invalid(format!("the list has {} devices, no device {index}", list.0.len()))
        })?;
        device.put(Handle::of(Arc::clone(found))?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_destroy(device: Handle<Device>) -> c_int {
    call(|| device.remove().map(|_| 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_dup(device: Handle<Device>, dup: Out<Handle<Device>>) -> c_int {
    call(|| {
        dup.check()?;
        // Of its own strings: they are valid as long as the handle that gave them.
        dup.put(Handle::new(Device::clone(&*device.get()?))?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_id(device: Handle<Device>) -> u64 {
    value(0, || Ok(device.get()?.device.id().0))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_state(device: Handle<Device>) -> c_int {
    call(|| {
        Ok(match device.get()?.device.state() {
            DeviceState::Present => 0,
            DeviceState::Draining => 1,
            DeviceState::Lost => 2,
            DeviceState::Gone => 3,
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_is_lost(device: Handle<Device>) -> c_int {
    call(|| Ok(device.get()?.device.is_lost().into()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_wait_lost(device: Handle<Device>, timeout_ns: i64) -> c_int {
    call(|| Ok(device.get()?.device.wait_lost(argument::timeout(timeout_ns))?.into()))
}

/// Good as long as the handle, which keeps what it points into.
fn text(device: Handle<Device>, of: impl FnOnce(&Device) -> Option<&CString>) -> *const c_char {
    value(std::ptr::null(), || {
        Ok(of(&*device.get()?).map_or(std::ptr::null(), |text| text.as_ptr()))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_driver(device: Handle<Device>) -> *const c_char {
    text(device, |device| Some(&device.driver))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_pci(device: Handle<Device>) -> *const c_char {
    text(device, |device| Some(&device.pci))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_is_removable(device: Handle<Device>) -> c_int {
    call(|| Ok(device.get()?.removable.into()))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_node_count(device: Handle<Device>) -> c_int {
    call(|| Ok(c_int::try_from(device.get()?.nodes.len()).unwrap_or(c_int::MAX)))
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_device_node(device: Handle<Device>, index: usize) -> *const c_char {
    text(device, |device| device.nodes.get(index))
}
