//! Devices as udev knows them. Additions come from udevd's own netlink group, after its rules have
//! run, since properties are wanted; removals are the reactor's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{NetlinkAddr, getsockname, setsockopt, sockopt};
use udev::{Enumerator, EventType, MonitorBuilder, MonitorSocket};

use super::sysfs;
use super::{DeviceDesc, DeviceSource};
use crate::config::DeviceOverride;

/// Room for a burst: a dock that comes with everything behind it.
const RECEIVE_BUFFER: usize = 8 << 20;
/// There while udevd runs.
const UDEVD: &str = "/run/udev/control";

/// The devices of this machine.
pub struct UdevSource {
    overrides: Vec<DeviceOverride>,
    monitor: Option<MonitorSocket>,
    trouble: Option<String>,
}

impl UdevSource {
    /// Starts to listen, so that nothing that comes after the cold plug is missed. Where that cannot
    /// be, says so by [`DeviceSource::trouble`].
    #[must_use]
    pub fn new(overrides: Vec<DeviceOverride>) -> Self {
        let (monitor, trouble) = match listen() {
            Ok(monitor) if Path::new(UDEVD).exists() => (Some(monitor), None),
            Ok(monitor) => {
                let trouble = if is_deaf(&monitor) {
                    "devices that come are not seen until dmashared is started again while it does"
                } else {
                    "devices that come are seen once it does"
                };
                let trouble = format!("udevd does not run ({UDEVD} is missing): {trouble}");
                (Some(monitor), Some(trouble))
            }
            Err(error) => (
                None,
                Some(format!(
                    "udev cannot be listened to, devices that come are not seen: {error}"
                )),
            ),
        };
        Self { overrides, monitor, trouble }
    }

    /// All devices that udev has finished with, or all that there are where no udevd runs. One that
    /// has a node which udev has not finished with is told when it has.
    fn scan(&self) -> io::Result<Vec<DeviceDesc>> {
        let mut enumerator = Enumerator::new()?;
        enumerator.match_subsystem("drm")?;
        if Path::new(UDEVD).exists() {
            enumerator.match_is_initialized()?;
        }
        let nodes = enumerator.scan_devices()?.filter(sysfs::is_node).collect();
        let mut devices = sysfs::devices(nodes, &self.overrides);
        devices.retain(sysfs::is_complete);
        Ok(devices)
    }
}

fn listen() -> io::Result<MonitorSocket> {
    let monitor = MonitorBuilder::new()?.match_subsystem_devtype("drm", "drm_minor")?.listen()?;
    // libudev opens its sockets close-on-exec; what a helper would inherit is ours to be sure of.
    let flags = FdFlag::from_bits_retain(fcntl(&monitor, FcntlArg::F_GETFD)?);
    if !flags.contains(FdFlag::FD_CLOEXEC) {
        fcntl(&monitor, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    }
    // Beyond the system's limit where CAP_NET_ADMIN allows it. A buffer that stays small only makes
    // an overrun likelier, and that is handled.
    if setsockopt(&monitor, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err()
        && let Err(error) = setsockopt(&monitor, sockopt::RcvBuf, &RECEIVE_BUFFER)
    {
        tracing::debug!(%error, "udev's receive buffer stays as it is");
    }
    Ok(monitor)
}

/// Whether nothing will ever be heard. Where udevd does not run and /dev is not the kernel's own, as
/// in a container, libudev joins no group of senders, and says nothing of it.
fn is_deaf(monitor: &MonitorSocket) -> bool {
    getsockname::<NetlinkAddr>(monitor.as_raw_fd()).is_ok_and(|address| address.groups() == 0)
}

impl DeviceSource for UdevSource {
    fn coldplug(&mut self) -> io::Result<Vec<DeviceDesc>> {
        self.scan()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.monitor.as_ref().map(AsFd::as_fd)
    }

    fn arrivals(&mut self) -> io::Result<Vec<DeviceDesc>> {
        let Some(monitor) = &self.monitor else {
            return Ok(Vec::new());
        };
        let mut came = Vec::new();
        loop {
            Errno::clear();
            let Some(event) = monitor.iter().next() else {
                // The crate hides why there is none.
                match Errno::last() {
                    Errno::EAGAIN | Errno::UnknownErrno => break,
                    Errno::EINTR => continue,
                    Errno::ENOBUFS => {
                        tracing::warn!("udev's events overran; looking at all devices again");
                        return self.scan();
                    }
                    error => return Err(error.into()),
                }
            };
            // What is not there any more was removed in between, and what is about to be told of it
            // would come after its removal.
            if event.event_type() == EventType::Add
                && sysfs::is_node(&event)
                && event.syspath().exists()
            {
                came.push(sysfs::parent_devpath(&event));
            }
        }
        if came.is_empty() {
            return Ok(Vec::new());
        }
        let mut devices = self.scan()?;
        devices.retain(|device| came.contains(&device.parent_devpath));
        Ok(devices)
    }

    fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_or_without_udev_can_be_asked() {
        let mut source = UdevSource::new(Vec::new());
        assert_eq!(source.trouble().is_some(), !Path::new(UDEVD).exists());
        source.coldplug().unwrap();
        assert!(source.arrivals().unwrap().is_empty());
    }

    #[test]
    fn the_socket_is_not_inherited() {
        let source = UdevSource::new(Vec::new());
        if let Some(fd) = source.as_fd() {
            let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
    }
}
