//! What is around the service: udev, the bus and its policy, the units, the socket.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;

use super::Finding;
use super::host::Host;
use crate::bus::{Broker, Bus, Probed};
use crate::failure::Failure;
use crate::model::Service;
use crate::render::text::clean;

const SOCKET: &str = "/run/dmashare/broker.sock";
const INSTALL: &str = "install dmashare's package, or run systemd/install.sh of its source";

/// The service, as the doctor met it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// It answers.
    Running {
        /// What it says of itself.
        service: Service,
        /// What it says of its guards.
        probed: Probed,
    },
    /// The bus knows nobody of its name.
    Stopped,
    /// It cannot be asked, and why.
    Unreachable(String),
}

impl ServiceState {
    /// Asks, and does not start it.
    #[must_use]
    pub fn on(bus: &Bus) -> Self {
        Self::asked(bus).unwrap_or_else(|failure| match failure {
            Failure::NotRunning { .. } => Self::Stopped,
            failure => {
                let text = failure.to_string();
                Self::Unreachable(clean(text.lines().next().unwrap_or_default()))
            }
        })
    }

    fn asked(bus: &Bus) -> Result<Self, Failure> {
        let broker = Broker::connect(bus)?;
        if !broker.is_running()? {
            return Ok(Self::Stopped);
        }
        Ok(Self::Running { service: broker.service()?, probed: broker.probe()? })
    }
}

pub(super) fn look(host: &Host<'_>, service: &ServiceState) -> Vec<Finding> {
    let running = matches!(service, ServiceState::Running { .. });
    let mut findings = vec![udev(host)];
    // On a bus of its own it needs no policy and no units.
    findings.push(policy(host, running));
    findings.push(socket(host, running));
    findings.push(helpers(host));
    findings.push(state(host, service));
    findings
}

/// Without them all works but who holds a GPU, ejects, and what they and late clients are met with.
fn helpers(host: &Host<'_>) -> Finding {
    let names = ["holders", "kill", "pci"];
    let missing: Vec<String> = names
        .into_iter()
        .filter(|name| !host.sees(&format!("/run/dmashare/helpers/{name}.sock")))
        .map(|name| format!("dmashare-{name}.socket"))
        .collect();
    if missing.is_empty() {
        return Finding::ok("helpers", "holders can be looked up, and GPUs ejected");
    }
    let missing = missing.join(" ");
    Finding::warning(
        "helpers",
        format!(
            "{missing} is not there: holders cannot be looked up, GPUs not be ejected, or nobody be \
             ended by force"
        ),
        if installed(host) {
            format!("systemctl enable --now {missing}")
        } else {
            INSTALL.to_owned()
        },
    )
}

fn udev(host: &Host<'_>) -> Finding {
    if host.sees("/run/udev/control") {
        Finding::ok("udev", "udevd runs")
    } else {
        Finding::warning(
            "udev",
            "udevd does not run: GPUs that are plugged in later are not seen (removals are)",
            "systemctl start systemd-udevd; containers have none",
        )
    }
}

fn policy(host: &Host<'_>, running: bool) -> Finding {
    let folders = ["/usr/share/dbus-1/system.d", "/etc/dbus-1/system.d"];
    let file = "org.dmashare.Broker1.conf";
    if let Some(folder) = folders.iter().find(|folder| host.sees(&format!("{folder}/{file}"))) {
        Finding::ok("dbus-policy", format!("the bus's policy is {folder}/{file}"))
    } else if running {
        Finding::ok("dbus-policy", "no policy file; the service has its name without one")
    } else {
        Finding::missing("dbus-policy", format!("the bus has no policy {file}"), INSTALL)
    }
}

fn socket(host: &Host<'_>, running: bool) -> Finding {
    match fs::metadata(host.path(SOCKET)) {
        Ok(meta) if meta.file_type().is_socket() => {
            Finding::ok("socket", format!("clients connect to {SOCKET}"))
        }
        Ok(_) => Finding::missing(
            "socket",
            format!("{SOCKET} is not a socket"),
            format!("rm {SOCKET}; systemctl restart dmashared.socket"),
        ),
        Err(_) if running => Finding::warning(
            "socket",
            format!(
                "{SOCKET} is not there; the running service listens elsewhere, or on the bus alone"
            ),
            "systemctl enable --now dmashared.socket",
        ),
        Err(_) => Finding::missing(
            "socket",
            format!("{SOCKET} is not there: clients cannot connect"),
            if installed(host) { "systemctl enable --now dmashared.socket" } else { INSTALL },
        ),
    }
}

fn installed(host: &Host<'_>) -> bool {
    ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"]
        .iter()
        .any(|folder| host.sees(&format!("{folder}/dmashared.service")))
}

fn state(host: &Host<'_>, service: &ServiceState) -> Finding {
    let id = "service";
    match service {
        ServiceState::Running { service, .. } => {
            Finding::ok(id, format!("dmashared {} runs", clean(&service.version)))
        }
        ServiceState::Stopped if !installed(host) => {
            Finding::missing(id, "dmashared is not installed", INSTALL)
        }
        ServiceState::Stopped if host.sees(SOCKET) => {
            Finding::ok(id, "dmashared is not running; the first client starts it")
        }
        ServiceState::Stopped => Finding::missing(
            id,
            "dmashared is not running",
            "systemctl start dmashared.socket; if it fails: journalctl -u dmashared",
        ),
        ServiceState::Unreachable(why) if installed(host) => Finding::missing(
            id,
            format!("dmashared cannot be asked: {why}"),
            "systemctl status dbus dmashared",
        ),
        ServiceState::Unreachable(why) => {
            Finding::missing(id, format!("dmashared is not installed, and {why}"), INSTALL)
        }
    }
}
