//! What the kernel has beside guards: devices, timelines, memory that belongs to no GPU.

use std::io;

use super::Finding;
use super::host::{Host, Offer};

/// Fences of a buffer's reservation object can be taken out as sync_files from here on.
const OLDEST: (u32, u32) = (6, 0);

pub(super) fn version(host: &Host<'_>) -> Finding {
    let release = host.release();
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
            Finding::ok("kernel", format!("Linux {release}"))
        }
        (Some(_), Some(_)) => Finding::warning(
            "kernel",
            format!("Linux {release} cannot show the implicit fences of a buffer"),
            "Linux 6.0 or newer can: update the kernel",
        ),
        _ => Finding::warning(
            "kernel",
            "the kernel's version cannot be read",
            "is /proc mounted here?",
        ),
    }
}

/// DRM devices, and whether one of them has timeline syncobjs.
pub(super) fn devices(host: &Host<'_>) -> Vec<Finding> {
    let cards: Vec<String> = host
        .cards()
        .into_iter()
        .filter(|card| host.card_named("vgem").as_ref() != Some(card))
        .collect();
    if cards.is_empty() {
        let what = "there is no GPU (no card in /sys/class/drm)";
        let todo = "plug one in or load its driver; dmashared waits for it. In a container: is /dev/dri passed in?";
        return vec![Finding::warning("devices", what, todo)];
    }
    let (mut shown, mut timelines, mut closed, mut failed) = (Vec::new(), Vec::new(), false, false);
    for card in &cards {
        match host.tries().node(&host.path(&format!("/dev/dri/{card}"))) {
            Ok(facts) => {
                shown.push(format!("{card} ({})", facts.driver));
                if facts.timelines {
                    timelines.push(card.clone());
                }
            }
            Err(error) => {
                closed |= error.kind() == io::ErrorKind::PermissionDenied;
                failed |= error.kind() != io::ErrorKind::PermissionDenied;
                shown.push(format!("{card} ({error})"));
            }
        }
    }
    let what = format!("GPUs: {}", shown.join(", "));
    let devices = if failed {
        Finding::warning("devices", what, "look at the kernel's log: dmesg --level=err,warn")
    } else if closed {
        let todo = "to look as yourself, log in at the machine or join the group video; the service has its own access";
        Finding::warning("devices", what, todo)
    } else {
        Finding::ok("devices", what)
    };
    let timelines = if !timelines.is_empty() {
        Finding::ok("timelines", format!("timeline syncobjs: {}", timelines.join(", ")))
    } else if closed {
        Finding::warning(
            "timelines",
            "this user cannot see whether a GPU has timeline syncobjs",
            "sudo dmasharectl doctor",
        )
    } else {
        Finding::warning(
            "timelines",
            "no GPU has timeline syncobjs: explicit sync has single fences only",
            "most drivers have them (amdgpu, i915, xe, nouveau, virtio_gpu); vkms and vgem do not",
        )
    };
    vec![devices, timelines]
}

/// udmabuf and the system heap.
pub(super) fn neutral_memory(host: &Host<'_>) -> Vec<Finding> {
    let absent = |what: &str| {
        (
            format!("{what} is not there: no buffers that survive an unplug from it"),
            "distribution kernels have it (Debian, Ubuntu, Fedora, Arch); yours may be trimmed",
        )
    };
    [
        ("udmabuf", "/dev/udmabuf", "udmabuf", "CONFIG_UDMABUF"),
        ("dma-heap", "/dev/dma_heap/system", "system_heap", "CONFIG_DMABUF_HEAPS_SYSTEM"),
    ]
    .map(|(id, path, module, option)| match host.tries().open(&host.path(path)) {
        Ok(()) => Finding::ok(id, format!("{path} works")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Finding::ok(id, format!("{path} is there; this user may not open it ({error})"))
        }
        Err(_) if host.offers(module, option) == Offer::Module => Finding::warning(
            id,
            format!("{path} is a module that is not loaded"),
            format!("modprobe {module}"),
        ),
        Err(_) => {
            let (what, todo) = absent(path);
            Finding::warning(id, what, todo)
        }
    })
    .into()
}
