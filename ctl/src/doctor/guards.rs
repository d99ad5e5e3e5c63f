//! What guard fences are made of.

use std::io;

use super::distro::Distro;
use super::host::{Host, Offer};
use super::service::ServiceState;
use super::{Backend, Finding};

const SW_SYNC: &str = "/sys/kernel/debug/sync/sw_sync";
const LOOK: &str = "sudo mount -t debugfs none /sys/kernel/debug; sudo dmasharectl doctor";
const LOAD_VGEM: &str = "modprobe vgem && systemctl restart dmashared; at every boot: echo vgem > /etc/modules-load.d/vgem.conf";

/// How one way to make guards stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// It was tried.
    Works,
    /// It will, once the service's start has loaded, mounted or opened it.
    Ready(String),
    /// This user cannot tell.
    Unseen(String),
    /// It does not.
    No(String),
}

/// Which backend is used and why, and how both ways stand.
pub(super) fn look(host: &Host<'_>, service: &ServiceState) -> (Backend, Vec<Finding>) {
    let (sw_sync, vgem) = (sw_sync(host), vgem(host));
    let backend = match service {
        ServiceState::Running { probed, .. } => Backend {
            name: probed.backend.clone(),
            from: "service",
            why: if probed.tried.iter().any(|tried| !tried.ok) || probed.backend != "vgem" {
                reason(&probed.backend).to_owned()
            } else {
                "the service's configuration says so".to_owned()
            },
            tried: probed.tried.clone(),
        },
        _ => {
            let name = expected(&sw_sync, &vgem);
            Backend {
                name: name.to_owned(),
                from: "expected",
                why: reason(name).to_owned(),
                tried: Vec::new(),
            }
        }
    };
    let distro = Distro::of(host);
    let findings = vec![
        verdict(&backend),
        about_sw_sync(sw_sync, &backend, distro),
        about_vgem(vgem, &backend, distro),
    ];
    (backend, findings)
}

fn expected(sw_sync: &Way, vgem: &Way) -> &'static str {
    match (sw_sync, vgem) {
        (Way::Works | Way::Ready(_), _) => "sw_sync",
        (Way::No(_), Way::Works | Way::Ready(_)) => "vgem",
        (Way::No(_), Way::No(_)) => "none",
        _ => "unknown",
    }
}

fn reason(backend: &str) -> &'static str {
    match backend {
        "sw_sync" => "the best: an error shows in the fence itself",
        "vgem" => "sw_sync cannot be used here, and the library reports errors in its place",
        "simulated" => "a test build, no kernel fences",
        "none" => "neither sw_sync nor vgem can be used",
        "unknown" => "it cannot be seen from here whether sw_sync can be used",
        _ => "as the service says",
    }
}

fn verdict(backend: &Backend) -> Finding {
    let Backend { name, from, why, .. } = backend;
    let who = if *from == "service" { "are made by" } else { "will be made by" };
    match name.as_str() {
        "none" => Finding::missing(
            "guards",
            format!("no guard fences: {why}"),
            "until there is one, fences of removable GPUs cannot be shared; see the next two",
        ),
        "unknown" => Finding::warning("guards", why, LOOK),
        "simulated" => Finding::warning(
            "guards",
            format!("guard fences are simulated: {why}"),
            "install a packaged dmashared, which has no simulation",
        ),
        name => Finding::ok("guards", format!("guard fences {who} {name}: {why}")),
    }
}

fn about_sw_sync(way: Way, backend: &Backend, distro: Distro) -> Finding {
    let id = "sw_sync";
    match way {
        _ if backend.from == "service" && backend.name == id => {
            Finding::ok(id, "sw_sync works, as the service found")
        }
        Way::Works => Finding::ok(id, "sw_sync works"),
        Way::Ready(what) => Finding::ok(id, what),
        Way::Unseen(what) => Finding::warning(id, what, LOOK),
        Way::No(what) if backend.name == "vgem" => {
            Finding::ok(id, format!("{what}; vgem serves ({})", distro.about_sw_sync()))
        }
        Way::No(what) => Finding::warning(id, what, distro.about_sw_sync()),
    }
}

fn about_vgem(way: Way, backend: &Backend, distro: Distro) -> Finding {
    let id = "vgem";
    let needed = !matches!(backend.name.as_str(), "sw_sync" | "vgem");
    match way {
        _ if backend.from == "service" && backend.name == id => {
            Finding::ok(id, "vgem works, as the service found")
        }
        Way::Works if needed && backend.from == "service" => {
            Finding::warning(id, "vgem works, but the service has not seen it", LOAD_VGEM)
        }
        Way::Works => Finding::ok(id, "vgem works"),
        Way::Ready(what) if needed => Finding::missing(id, what, LOAD_VGEM),
        Way::Ready(what) | Way::Unseen(what) => Finding::ok(id, what),
        Way::No(what) if needed => Finding::missing(id, what, distro.about_vgem()),
        Way::No(what) => Finding::ok(id, format!("{what}; not needed, sw_sync serves")),
    }
}

fn sw_sync(host: &Host<'_>) -> Way {
    let release = host.release();
    let offer = host.offers("sw_sync", "CONFIG_SW_SYNC");
    let none = || Way::No(format!("the kernel {release} has no sw_sync"));
    match host.has(SW_SYNC) {
        Ok(true) => match host.tries().sw_sync(&host.path(SW_SYNC)) {
            Ok(()) => Way::Works,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !host.is_root => {
                Way::Ready("the kernel has sw_sync; this user may not open it".to_owned())
            }
            Err(error) => {
                Way::No(format!("sw_sync is there and cannot be used ({error}): kernel lockdown?"))
            }
        },
        // Not `none`: whether debugfs is mounted is the service's business, if only it can be.
        Ok(false) => match offer {
            Offer::Module => {
                Way::Ready("sw_sync is a module; the service's start loads it".to_owned())
            }
            Offer::Active if !host.mounts("/sys/kernel/debug", "debugfs") => {
                Way::Ready("sw_sync is in debugfs; the service's start mounts it".to_owned())
            }
            Offer::Unknown if !host.mounts("/sys/kernel/debug", "debugfs") => {
                Way::Unseen("debugfs is not mounted, where sw_sync would be".to_owned())
            }
            _ => none(),
        },
        Err(_) => match offer {
            Offer::Active | Offer::Module => {
                Way::Ready("the kernel has sw_sync; only root sees it in debugfs".to_owned())
            }
            Offer::Absent => none(),
            Offer::Unknown => {
                Way::Unseen("only root can see whether debugfs has sw_sync".to_owned())
            }
        },
    }
}

fn vgem(host: &Host<'_>) -> Way {
    if let Some(card) = host.card_named("vgem") {
        let path = host.path(&format!("/dev/dri/{card}"));
        return match host.tries().vgem(&path) {
            Ok(()) => Way::Works,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !host.is_root => {
                Way::Ready(format!("vgem is {card}; this user may not open it"))
            }
            Err(error) => Way::No(format!("vgem is {card} and makes no fences: {error}")),
        };
    }
    match host.offers("vgem", "CONFIG_DRM_VGEM") {
        Offer::Module => Way::Ready(
            "vgem is a module that is not loaded; the service's start loads it".to_owned(),
        ),
        Offer::Active => Way::No("vgem is in the kernel and has no DRM node".to_owned()),
        Offer::Absent | Offer::Unknown => {
            Way::No(format!("there is no vgem module for the kernel {}", host.release()))
        }
    }
}
