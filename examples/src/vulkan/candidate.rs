//! Which device it is to be.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ash::ext::physical_device_drm;
use ash::{Instance, vk};
use nix::sys::stat::{major, minor};

use super::{NEEDED, SYNC_FD};

/// A physical device that can do what is needed.
pub(super) struct Candidate {
    pub(super) physical: vk::PhysicalDevice,
    pub(super) name: String,
    /// The place of its node among those that are wanted; behind them come software, and the others.
    pub(super) rank: usize,
}

impl Candidate {
    pub(super) fn best(instance: &Instance, wanted: &[PathBuf]) -> Result<Option<Self>> {
        // SAFETY: the instance is alive.
        let all = unsafe { instance.enumerate_physical_devices() }.context("Vulkan's devices")?;
        let mut found = Vec::new();
        for physical in all {
            found.extend(Self::look(instance, physical, wanted)?);
        }
        Ok(found.into_iter().min_by_key(|candidate| candidate.rank))
    }

    fn look(
        instance: &Instance,
        physical: vk::PhysicalDevice,
        wanted: &[PathBuf],
    ) -> Result<Option<Self>> {
        // SAFETY: the physical device is this instance's, here and below.
        let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }?;
        let has = |name: &CStr| {
            extensions.iter().any(|it| it.extension_name_as_c_str().is_ok_and(|it| it == name))
        };
        let info = vk::PhysicalDeviceExternalSemaphoreInfo::default().handle_type(SYNC_FD);
        let mut semaphores = vk::ExternalSemaphoreProperties::default();
        // SAFETY: as above.
        unsafe {
            instance.get_physical_device_external_semaphore_properties(
                physical,
                &info,
                &mut semaphores,
            );
        }
        let both = vk::ExternalSemaphoreFeatureFlags::EXPORTABLE
            | vk::ExternalSemaphoreFeatureFlags::IMPORTABLE;
        let mut drm = vk::PhysicalDeviceDrmPropertiesEXT::default();
        let mut properties = vk::PhysicalDeviceProperties2::default();
        let tells_node = has(physical_device_drm::NAME);
        if tells_node {
            properties = properties.push_next(&mut drm);
        }
        // SAFETY: as above.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let properties = properties.properties;
        if properties.api_version < vk::API_VERSION_1_1
            || !NEEDED.iter().all(|name| has(name))
            || !semaphores.external_semaphore_features.contains(both)
        {
            return Ok(None);
        }
        let is_its = |node: &PathBuf| {
            tells_node
                && number(node).is_some_and(|number| {
                    drm.has_primary != 0 && number == (drm.primary_major, drm.primary_minor)
                        || drm.has_render != 0 && number == (drm.render_major, drm.render_minor)
                })
        };
        let is_software = properties.device_type == vk::PhysicalDeviceType::CPU;
        let rank = wanted.iter().position(is_its);
        Ok(Some(Self {
            physical,
            name: properties.device_name_as_c_str()?.to_string_lossy().into_owned(),
            rank: rank.unwrap_or(wanted.len() + usize::from(!is_software)),
        }))
    }
}

/// A device node's number, as Vulkan tells it.
fn number(node: &Path) -> Option<(i64, i64)> {
    let rdev = fs::metadata(node).ok()?.rdev();
    Some((i64::try_from(major(rdev)).ok()?, i64::try_from(minor(rdev)).ok()?))
}
