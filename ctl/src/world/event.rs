//! What happens.

use serde::Serialize;

use crate::job::Job;
use crate::model::{Client, Device};
use crate::render::Paint;
use crate::render::text::{clean, count};

/// A device by what people call it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its id.
    pub id: u64,
    /// PCI address, else its sysfs name.
    pub name: String,
    /// Kernel driver.
    pub driver: String,
}

impl Named {
    pub(crate) fn of(device: &Device) -> Self {
        Self { id: device.id, name: device.name.clone(), driver: device.driver.clone() }
    }

    /// `d3 (0000:01:00.0, amdgpu)`
    #[must_use]
    pub fn shown(&self) -> String {
        let driver = match self.driver.as_str() {
            "" => String::new(),
            driver => format!(", {}", clean(driver)),
        };
        format!("d{} ({}{driver})", self.id, clean(&self.name))
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The service runs, with what it has, or has stopped.
    Service {
        /// It runs.
        running: bool,
        /// How many.
        devices: usize,
        /// How many.
        clients: usize,
    },
    /// A device came.
    Arrived {
        /// It.
        device: Device,
    },
    /// A device was lost.
    Lost {
        /// Which.
        device: Named,
        /// Why.
        cause: String,
        /// Exported buffers that it had.
        buffers: u32,
        /// Imports of them.
        imports: u32,
        /// Fences that were pending.
        fences: u32,
    },
    /// Nothing is left of a lost device.
    Gone {
        /// Which.
        device: Named,
    },
    /// A device hangs.
    Wedged {
        /// Which.
        device: Named,
        /// How it can be recovered from, as its driver says.
        recovery: String,
        /// The task that the driver blames, or empty.
        task: String,
        /// Guard fences that were ended.
        fences: u32,
    },
    /// Somebody asks the users of a device to let go of it.
    RemovalRequested {
        /// Which.
        device: Named,
        /// Who asks, in words.
        why: String,
    },
    /// A client connected.
    ClientCame {
        /// It.
        client: Client,
    },
    /// A client's connection ended.
    ClientWent {
        /// It.
        client: Client,
    },
    /// An eject has come to a stage, or has something to say about it.
    Eject {
        /// It.
        job: Job,
    },
    /// An eject has ended.
    EjectEnded {
        /// It.
        job: Job,
    },
    /// Counts, or what else is no event of its own.
    Changed,
}

impl Event {
    pub(super) fn of_job(old: Option<&Job>, job: Job) -> Option<Self> {
        let ended = old.is_some_and(|old| old.outcome.is_some());
        let same = old.is_some_and(|old| old.stage == job.stage && old.message == job.message);
        match (&job.outcome, ended) {
            (_, true) => None,
            (Some(_), false) => Some(Self::EjectEnded { job }),
            (None, false) => (!same).then_some(Self::Eject { job }),
        }
    }

    /// What kind of event it is, in a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Service { .. } => "service",
            Self::Arrived { .. } => "arrived",
            Self::Lost { .. } => "lost",
            Self::Gone { .. } => "gone",
            Self::Wedged { .. } => "wedged",
            Self::RemovalRequested { .. } => "removal-requested",
            Self::ClientCame { .. } => "client-came",
            Self::ClientWent { .. } => "client-went",
            Self::Eject { .. } => "eject",
            Self::EjectEnded { .. } => "eject-ended",
            Self::Changed => "changed",
        }
    }

    /// What it means.
    #[must_use]
    pub fn paint(&self) -> Paint {
        match self {
            Self::Lost { .. } | Self::Wedged { .. } => Paint::Bad,
            Self::Service { running: false, .. } | Self::RemovalRequested { .. } => Paint::Warn,
            Self::EjectEnded { job } => outcome_paint(job),
            Self::Eject { .. } => Paint::Strong,
            Self::Arrived { .. } => Paint::Good,
            _ => Paint::Faint,
        }
    }

    /// The rest, for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Service { running: true, devices, clients } => {
                let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
                format!(
                    "dmashared runs: {}, {}",
                    count(number(*devices), "device", "devices"),
                    count(number(*clients), "client", "clients"),
                )
            }
            Self::Service { running: false, .. } => "dmashared has stopped".to_owned(),
            Self::Arrived { device } => {
                let short = |node: &String| clean(node.strip_prefix("/dev/dri/").unwrap_or(node));
                let mut facts: Vec<String> = device.nodes.iter().map(short).collect();
                let can = if device.removable { "can be pulled" } else { "cannot be pulled" };
                facts.push(can.to_owned());
                format!("{}: {}", Named::of(device).shown(), facts.join(", "))
            }
            Self::Lost { device, cause, buffers, imports, fences } => format!(
                "{}: {}, with {}, {}, {}",
                device.shown(),
                clean(cause),
                count(*buffers, "buffer", "buffers"),
                count(*imports, "import", "imports"),
                count(*fences, "fence", "fences"),
            ),
            Self::Gone { device } => format!("{}: nothing is left of it", device.shown()),
            Self::Wedged { device, recovery, task, fences } => {
                let blamed = match task.as_str() {
                    "" => String::new(),
                    task => format!(", blames {}", clean(task)),
                };
                format!(
                    "{}: recovery {}{blamed}, {} ended",
                    device.shown(),
                    clean(recovery),
                    count(*fences, "fence", "fences"),
                )
            }
            Self::RemovalRequested { device, why } => format!("{}: {}", device.shown(), clean(why)),
            Self::ClientCame { client } | Self::ClientWent { client } => {
                let name = match client.name.as_str() {
                    "" => String::new(),
                    name => format!(" {}", clean(name)),
                };
                format!("c{}{name} (pid {}, uid {})", client.id, client.pid, client.uid)
            }
            Self::Eject { job } => {
                format!("{}: {}: {}", job.shown_device(), clean(&job.stage), clean(&job.message))
            }
            Self::EjectEnded { job } => {
                let outcome = clean(job.outcome.as_deref().unwrap_or_default());
                format!("{}: {outcome}: {}", job.shown_device(), clean(&job.message))
            }
            Self::Changed => String::new(),
        }
    }
}

/// What a job's outcome means.
#[must_use]
pub fn outcome_paint(job: &Job) -> Paint {
    match job.outcome.as_deref() {
        Some("ejected" | "would-eject") => Paint::Good,
        Some("cancelled") => Paint::Warn,
        Some(_) => Paint::Bad,
        None => Paint::Strong,
    }
}
