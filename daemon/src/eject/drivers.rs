//! Which drivers let go of a device by themselves, and which cannot be removed while it is open.
//!
//! A DRM driver of the kernel that calls `drm_dev_unplug` lets go (Documentation/gpu/drm-uapi.rst,
//! "Device Hot-Unplug"): from then on the open descriptors give errors, and what they need of the driver
//! lives until the last of them is closed. One that calls no more than `drm_dev_unregister` frees what its
//! ioctls use under those who still have it open. One that waits for them blocks the removal.

use crate::config::DriverOverride;
use crate::config::WhileOpen::{self, Blocks, LetsGo};

/// What is known of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it does.
    pub open: WhileOpen,
    /// How that is known, in words.
    pub why: &'static str,
}

/// Drivers by the names that sysfs has for them, and where it says so. Paths are below drivers/gpu/drm/ of
/// Linux 6.1, but xe's, which is younger; NVIDIA's are those of its open kernel modules.
const DRIVERS: &[(&str, WhileOpen, &str)] = &[
    ("amdgpu", LetsGo, "amd/amdgpu/amdgpu_drv.c: amdgpu_pci_remove unplugs it"),
    ("bochs-drm", LetsGo, "tiny/bochs.c: bochs_pci_remove unplugs it"),
    ("cirrus", LetsGo, "tiny/cirrus.c: cirrus_pci_remove unplugs it"),
    ("gm12u320", LetsGo, "tiny/gm12u320.c: gm12u320_usb_disconnect unplugs it"),
    ("gud", LetsGo, "gud/gud_drv.c: gud_disconnect unplugs it"),
    ("hyperv_drm", LetsGo, "hyperv/hyperv_drm_drv.c: hyperv_vmbus_remove unplugs it"),
    ("i915", LetsGo, "i915/i915_driver.c: i915_driver_unregister unplugs it"),
    ("nouveau", LetsGo, "nouveau/nouveau_drm.c: nouveau_drm_device_remove unplugs it"),
    ("simple-framebuffer", LetsGo, "tiny/simpledrm.c: simpledrm_remove unplugs it"),
    ("udl", LetsGo, "udl/udl_drv.c: udl_usb_disconnect unplugs it"),
    ("virtio_gpu", LetsGo, "virtio/virtgpu_drv.c: virtio_gpu_remove unplugs it"),
    ("xe", LetsGo, "xe/xe_device.c: xe_device_remove unplugs it"),
    // It takes no part in the kernel's hot-unplug: the removal polls until nobody has the device open,
    // unless the driver has seen it fall off the bus.
    ("nvidia", Blocks, "nvidia/nv-pci.c: nv_pci_remove_helper waits for its users"),
    ("ast", Blocks, "ast/ast_drv.c: ast_pci_remove only unregisters it"),
    ("mgag200", Blocks, "mgag200/mgag200_drv.c: mgag200_pci_remove only unregisters it"),
    ("qxl", Blocks, "qxl/qxl_drv.c: qxl_pci_remove only unregisters it"),
    ("radeon", Blocks, "radeon/radeon_drv.c: radeon_pci_remove only unregisters it"),
    ("vboxvideo", Blocks, "vboxvideo/vbox_drv.c: vbox_pci_remove only unregisters it"),
    ("vgem", Blocks, "vgem/vgem_drv.c: it goes with its module only, which its users keep"),
    ("vkms", Blocks, "vkms/vkms_drv.c: it goes with its module only, which its users keep"),
    ("vmwgfx", Blocks, "vmwgfx/vmwgfx_drv.c: vmw_remove only unregisters it"),
];

/// What is taken of a driver that is not in the table: an eject then asks for too much, and breaks nothing.
const UNKNOWN: Verdict = Verdict {
    open: Blocks,
    why: "nothing is known of this driver; the configuration can say, [[driver]]",
};

/// What a driver does when a device of it is removed while somebody has it open.
#[must_use]
pub fn while_open(driver: &str, said: &[DriverOverride]) -> Verdict {
    if let Some(entry) = said.iter().rev().find(|entry| entry.name == driver) {
        return Verdict { open: entry.open, why: "configuration" };
    }
    DRIVERS
        .iter()
        .find(|(name, ..)| *name == driver)
        .map_or(UNKNOWN, |&(_, open, why)| Verdict { open, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_is_there_once_and_what_unplugs_lets_go() {
        let mut names: Vec<_> = DRIVERS.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DRIVERS.len());
        for (name, open, why) in DRIVERS {
            assert_eq!(*open == LetsGo, why.ends_with(" unplugs it"), "{name}");
        }
    }

    #[test]
    fn an_unknown_driver_blocks_and_the_configuration_overrules() {
        assert_eq!(while_open("amdgpu", &[]).open, LetsGo);
        assert_eq!(while_open("nvidia", &[]).open, Blocks);
        assert_eq!(while_open("evdi", &[]), UNKNOWN);
        assert_eq!(while_open("", &[]), UNKNOWN);
        let said = [("evdi", LetsGo), ("amdgpu", Blocks)]
            .map(|(name, open)| DriverOverride { name: name.to_owned(), open });
        assert_eq!(while_open("evdi", &said), Verdict { open: LetsGo, why: "configuration" });
        assert_eq!(while_open("amdgpu", &said).open, Blocks);
        assert_eq!(while_open("i915", &said).open, LetsGo);
    }
}
