//! Whose a dma-buf or a fence is, by the name that the kernel has for its maker.
//!
//! An exporter's name is that of the module that registered the buffer. Drivers that leave it to DRM's
//! helpers are all called `drm`; those of [`EXPORT_THEMSELVES`] never are. A fence has the name of its
//! driver, its device's address (Intel's), or that of DRM's scheduler, for the drivers of [`SCHEDULED`].
//! (drivers/gpu/drm/: whoever calls `dma_buf_export` and `drm_gem_prime_export`; `get_driver_name` of each
//! `dma_fence_ops`. Linux 6.12.)

use dmashare_proto::holders::LookFor;

/// Drivers whose exporter's name is their own.
const EXPORT_THEMSELVES: &[&str] = &["i915", "virtio_gpu", "vmwgfx"];

/// Drivers of PCI devices whose jobs go through DRM's scheduler.
const SCHEDULED: &[&str] = &["amdgpu", "nouveau", "xe"];

/// Whose something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The device's.
    Its,
    /// The device's, or of one of these others, by their place in the list; or of nobody listed.
    Maybe {
        /// The others.
        rivals: Vec<usize>,
        /// How it is known, in words.
        guess: String,
    },
    /// Not the device's.
    NotIts,
}

/// Of a dma-buf, by its exporter's name; empty if that cannot be known.
pub(super) fn buffer(exporter: &str, device: &LookFor, others: &[LookFor]) -> Whose {
    if exporter.is_empty() {
        let guess = "who made it cannot be seen without debugfs".to_owned();
        return Whose::Maybe { rivals: (0..others.len()).collect(), guess };
    }
    by_name(exporter, device, others, |driver| {
        is_called(driver, exporter) || exporter == "drm" && !is_one_of(driver, EXPORT_THEMSELVES)
    })
}

/// Of a fence, by its driver's name.
pub(super) fn fence(name: &str, device: &LookFor, others: &[LookFor]) -> Whose {
    if !device.pci.is_empty() && name == device.pci {
        return Whose::Its;
    }
    by_name(name, device, others, |driver| {
        is_called(driver, name) || name == "drm_sched" && is_one_of(driver, SCHEDULED)
    })
}

fn by_name(name: &str, device: &LookFor, others: &[LookFor], fits: impl Fn(&str) -> bool) -> Whose {
    if !fits(&device.driver) {
        return Whose::NotIts;
    }
    let rivals: Vec<usize> =
        (0..others.len()).filter(|&other| fits(&others[other].driver)).collect();
    // Drivers of devices that nobody listed, vgem's for one, may have a shared name as well.
    if rivals.is_empty() && is_called(&device.driver, name) {
        return Whose::Its;
    }
    let mut guess = format!("its maker is called {name}");
    match &rivals[..] {
        [] => guess.push_str(", as several drivers' are"),
        rivals => {
            guess.push_str(", as of ");
            let names = rivals.iter().map(|&rival| name_of(&others[rival]));
            guess.push_str(&names.collect::<Vec<_>>().join(", "));
        }
    }
    Whose::Maybe { rivals, guess }
}

fn name_of(device: &LookFor) -> &str {
    let node = device.nodes.first().map_or("another device", |node| &node.path);
    if device.pci.is_empty() { node } else { &device.pci }
}

/// `virtio-gpu` and `virtio_gpu` are one; NVIDIA's driver of the card is one module, and that of its DRM
/// nodes another.
fn is_called(driver: &str, name: &str) -> bool {
    let same = |a: &str, b: &str| {
        let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
        a.bytes().map(plain).eq(b.bytes().map(plain))
    };
    !driver.is_empty() && (same(driver, name) || driver == "nvidia" && same(name, "nvidia_drm"))
}

fn is_one_of(driver: &str, list: &[&str]) -> bool {
    list.iter().any(|name| is_called(driver, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(pci: &str, driver: &str) -> LookFor {
        LookFor { pci: pci.into(), driver: driver.into(), ..LookFor::default() }
    }

    fn rivals(whose: Whose) -> Vec<usize> {
        match whose {
            Whose::Maybe { rivals, .. } => rivals,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_of_its_own_is_certain() {
        let others = [device("0000:00:02.0", "amdgpu"), device("", "vkms")];
        assert_eq!(
            buffer("virtio_gpu", &device("0000:06:00.0", "virtio-gpu"), &others),
            Whose::Its
        );
        assert_eq!(fence("nvidia-drm", &device("0000:06:00.0", "nvidia"), &others), Whose::Its);
        assert_eq!(
            buffer("udmabuf", &device("0000:06:00.0", "virtio_gpu"), &others),
            Whose::NotIts
        );
        assert_eq!(buffer("drm", &device("0000:06:00.0", "virtio_gpu"), &others), Whose::NotIts);
    }

    #[test]
    fn a_shared_name_is_a_guess() {
        let others =
            [device("0000:00:02.0", "i915"), device("0000:07:00.0", "xe"), device("", "vkms")];
        let amd = device("0000:06:00.0", "amdgpu");
        assert_eq!(rivals(buffer("drm", &amd, &others)), [1, 2]);
        assert_eq!(rivals(buffer("", &amd, &others)), [0, 1, 2]);
        assert_eq!(rivals(fence("drm_sched", &amd, &others)), [1]);
        assert_eq!(rivals(buffer("amdgpu", &amd, &[device("0000:07:00.0", "amdgpu")])), [0]);
        // Nobody else is there, and still vgem may have made it.
        assert_eq!(rivals(buffer("drm", &amd, &[])), Vec::<usize>::new());
    }

    #[test]
    fn a_fence_by_its_address() {
        let others = [device("0000:00:02.0", "xe")];
        let arc = device("0000:06:00.0", "xe");
        assert_eq!(fence("0000:06:00.0", &arc, &others), Whose::Its);
        assert_eq!(fence("0000:00:02.0", &arc, &others), Whose::NotIts);
        assert_eq!(fence("sw_sync", &arc, &others), Whose::NotIts);
    }
}
