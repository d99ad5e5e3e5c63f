//! All that one run has measured, and whether it is what the demo claims.

use dmashare_proto::report::{Step, UnplugReport};
use dmasharectl::model::{Client, ClientCounts, Device, DeviceCounts, Service};
use nix::errno::Errno;
use serde::Serialize;

use super::lines::{BystanderStory, ConsumerStory, ProducerStory, Sharing};
use super::watch::LostSignal;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// The broker.
    pub service: Service,
    /// The eGPU before.
    pub egpu: Device,
    /// The iGPU.
    pub igpu: Device,
    /// Frames that were to be shared.
    pub frames: u32,
    /// How that went.
    pub sharing: Sharing,
    /// When the eGPU was pulled.
    pub pulled_ns: u64,
    /// What the broker says.
    pub report: UnplugReport,
    /// What the bus was told.
    pub signal: LostSignal,
    /// What the producer saw.
    pub producer: ProducerStory,
    /// What the consumer saw.
    pub consumer: ConsumerStory,
    /// What the one without the broker saw.
    pub bystander: BystanderStory,
    /// What is left on D-Bus, with both processes still connected.
    pub left: Left,
}

/// What is left in the end.
#[derive(Debug, Serialize)]
pub struct Left {
    /// Whether the lost device has an object.
    pub device: bool,
    /// Of all devices together.
    pub counts: DeviceCounts,
    /// The two processes.
    pub clients: Vec<Client>,
}

impl Left {
    /// Whether anything is.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.device
            || self.counts != DeviceCounts::default()
            || self.clients.iter().any(|client| client.counts != ClientCounts::default())
    }
}

impl Measured {
    /// Microseconds from the kernel's event.
    #[must_use]
    pub fn us(&self, at_ns: u64) -> f64 {
        let zero = self.report.at(Step::Uevent).unwrap_or(0);
        // Exact up to some months, and the sign is wanted.
        #[allow(clippy::cast_precision_loss, reason = "times of one run, near each other")]
        let us = (i128::from(at_ns) - i128::from(zero)) as f64 / 1000.0;
        us
    }

    /// Every claim that does not hold.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let Self { report, sharing, producer, consumer, bystander, left, .. } = self;
        let mut failures = Vec::new();
        let mut claim = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        let n = consumer.mappings;
        claim(sharing.good == self.frames, format!("{} good frames", sharing.good));
        claim(sharing.buffer_fds == n, format!("{} buffer fds before", sharing.buffer_fds));
        for step in STEPS {
            claim(report.at(step).is_some(), format!("the broker has not noted: {}", step.name()));
        }
        let order = STEPS.iter().take(5).map(|step| report.at(*step));
        claim(order.is_sorted(), "the broker's steps are not in their order".to_owned());
        claim(
            (report.guards, report.buffers, report.imports) == (1, 3, 3),
            format!(
                "the report has {} guards, {} buffers, {} imports",
                report.guards, report.buffers, report.imports
            ),
        );
        claim(report.overdue.is_empty(), format!("overdue: {:?}", report.overdue));
        claim(
            (self.signal.buffers, self.signal.imports) == (3, 3),
            format!("the signal Lost has other counts: {:?}", self.signal),
        );
        claim(self.us(sharing.since_ns) < 0.0, "the wait began after the unplug".to_owned());
        claim(self.us(consumer.awake_ns) > 0.0, "the wait ended before the unplug".to_owned());
        claim(
            consumer.errno == Errno::ENODEV as i32,
            format!("the wait gave errno {}", consumer.errno),
        );
        let negative = consumer.kernel_status.is_none_or(|status| status < 0);
        claim(negative, format!("the guard's sync_file says {:?}", consumer.kernel_status));
        claim(
            producer.source_pending && producer.source_seen_ns > consumer.awake_ns,
            "the source had ended, so the guard may not be what woke the consumer".to_owned(),
        );
        claim(
            consumer.revoked == n,
            format!("{} of {n} imports were taken back", consumer.revoked),
        );
        claim(consumer.zeroed == n, format!("{} of {n} mappings read zeros", consumer.zeroed));
        claim(consumer.begin_refused == n, format!("{} begins refused", consumer.begin_refused));
        claim(consumer.buffer_fds == 0, format!("{} buffer fds left", consumer.buffer_fds));
        let screen = &consumer.screen;
        claim(screen.rows > 0 && screen.rows_after > 0, format!("the screen read {screen:?}"));
        claim(!producer.refusal.is_empty(), "an export on the lost device succeeded".to_owned());
        claim(
            producer.buffers_lost == producer.buffers,
            format!("the producer knows of {} lost buffers", producer.buffers_lost),
        );
        claim(
            bystander.pending && bystander.gave_up_ns > consumer.gone_ns,
            "the bystander's fence has ended, or it gave up before all was over".to_owned(),
        );
        claim(
            (bystander.shown, bystander.buffer_fds) == (n, n),
            format!("the bystander's buffers are gone: {bystander:?}"),
        );
        claim(!left.is_held(), format!("not everything was let go of: {left:?}"));
        claim(left.clients.len() == 2, format!("{} clients are connected", left.clients.len()));
        failures
    }
}

/// All that must be noted, the first five in this order.
const STEPS: [Step; 8] = [
    Step::Uevent,
    Step::GateClosed,
    Step::GuardsSignalled,
    Step::ClientsTold,
    Step::FdsDropped,
    Step::Acknowledged,
    Step::Gone,
    Step::ParentRemoved,
];
