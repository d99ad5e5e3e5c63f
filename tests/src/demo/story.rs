//! What the demo prints.

use dmashare_proto::report::Step;
use dmasharectl::model::{Device, DeviceCounts, Service};
use dmasharectl::render::Tone;
use dmasharectl::render::text::{clean, count, duration, grouped, wrapped};

use super::frame::{HEIGHT, WIDTH};
use super::lines::Sharing;
use super::measured::Measured;
use crate::Machine;

/// Room for what stands behind a heading.
const TEXT: usize = 88;

/// A heading and what is behind it, over as many lines as it needs.
fn say(heading: &str, text: &str) {
    for (index, line) in wrapped(text, TEXT).into_iter().enumerate() {
        println!("{:<10}{line}", if index == 0 { heading } else { "" });
    }
}

/// Before anything happens.
pub fn title() {
    println!("dmashare: an eGPU is pulled in the middle of a frame\n");
}

/// Who takes part.
pub fn cast(machine: Machine, service: &Service, egpu: &Device, igpu: &Device) {
    let on = match machine {
        Machine::Simulated => "simulated devices and a private D-Bus",
        Machine::Vm => "a real kernel, the installed service on the system bus",
    };
    say("machine", &format!("{on}; dmashared {} with {} guards", service.version, service.backend));
    let gpu = |device: &Device| format!("{} ({})", clean(&device.name), clean(&device.driver));
    let why = clean(&egpu.removable_reason);
    say("eGPU", &format!("{}, removable ({why})", gpu(egpu)));
    say("iGPU", &gpu(igpu));
}

/// A process is there.
pub fn started(name: &str, pid: u32, gpu: &str, what: &str) {
    say(name, &format!("pid {pid}, on the {gpu}: {what}"));
}

/// The frames were shared.
pub fn shared(sharing: &Sharing) {
    let Sharing { good, first_ns, last_ns, .. } = sharing;
    let time_ns = last_ns.saturating_sub(*first_ns).max(1);
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let rate = f64::from(*good) * 1e9 / time_ns as f64;
    let mut latencies = sharing.latencies_ns.clone();
    latencies.sort_unstable();
    let at = |index: usize| duration(latencies.get(index).copied().unwrap_or(0));
    say(
        "sharing",
        &format!(
            "{good} frames of {WIDTH}×{HEIGHT} in {} ({rate:.0} a second), each whole when its guard \
             had signalled; from the GPU's signal to the consumer awake: median {}, longest {}",
            duration(time_ns),
            at(latencies.len() / 2),
            at(latencies.len().saturating_sub(1)),
        ),
    );
}

/// How things stand when the eGPU is pulled.
pub fn before(counts: &DeviceCounts, sharing: &Sharing) {
    say(
        "before",
        &format!(
            "on D-Bus: {}; frame {} is half drawn; the consumer waits for its guard, the bystander \
             for the fence itself",
            counted(counts),
            sharing.waits_for
        ),
    );
}

/// It is pulled.
pub fn pulled(machine: Machine) {
    let how = match machine {
        Machine::Simulated => "the eGPU is pulled (simulated uevents)",
        Machine::Vm => "the eGPU is pulled (its PCI device is removed)",
    };
    say("unplug", how);
}

fn counted(counts: &DeviceCounts) -> String {
    format!(
        "{}, {}, {}",
        count(counts.buffers, "buffer", "buffers"),
        count(counts.imports, "import", "imports"),
        count(counts.fences, "pending fence", "pending fences"),
    )
}

/// Something that happened, for the table and for the picture.
pub struct Moment {
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Who did or saw it.
    pub who: &'static str,
    /// What.
    pub what: String,
    /// What it means.
    pub tone: Tone,
}

/// All that happened, in its order.
#[must_use]
pub fn moments(of: &Measured) -> Vec<Moment> {
    let Measured { report, sharing, producer, consumer, bystander, signal, .. } = of;
    let mut moments = Vec::new();
    let mut add = |at_ns: u64, who, what: String, tone| {
        moments.push(Moment { at_ns, who, what, tone });
    };
    let frame = sharing.waits_for;
    add(sharing.since_ns, "consumer", format!("waits on the guard of frame {frame}"), Tone::Plain);
    for mark in &report.marks {
        let name = mark.step.name();
        let (who, what, tone) = match mark.step {
            Step::Uevent => ("kernel", "remove event".to_owned(), Tone::Warn),
            Step::ParentRemoved => ("kernel", name.to_owned(), Tone::Plain),
            Step::GuardsSignalled => ("broker", format!("{name} ({})", report.guards), Tone::Bad),
            Step::ClientsTold => ("broker", format!("{name} ({})", report.told), Tone::Plain),
            Step::Gone => ("broker", "gone: nothing of the eGPU is held".to_owned(), Tone::Good),
            _ => ("broker", name.to_owned(), Tone::Plain),
        };
        add(mark.at_ns, who, what, tone);
    }
    add(consumer.awake_ns, "consumer", "awake: the guard has ended".to_owned(), Tone::Bad);
    let failed = format!("frame {frame} has failed: {}", errno_name(consumer.errno));
    add(consumer.known_ns, "consumer", failed, Tone::Bad);
    let revoked = format!("imports revoked ({})", consumer.revoked);
    add(consumer.revoked_ns, "consumer", revoked, Tone::Plain);
    let screen = "screen: access refused, zeros from here".to_owned();
    add(consumer.screen.zeros_ns, "consumer", screen, Tone::Plain);
    add(consumer.gone_ns, "consumer", "told: the eGPU is gone".to_owned(), Tone::Good);
    let lost = format!("told: buffers lost ({})", producer.buffers_lost);
    add(producer.told_ns, "producer", lost, Tone::Bad);
    add(producer.refused_ns, "producer", "next export refused".to_owned(), Tone::Plain);
    let waits = format!("waits on the fence of frame {frame} itself");
    add(bystander.since_ns, "bystander", waits, Tone::Plain);
    add(bystander.gave_up_ns, "bystander", "still waits, and gives up".to_owned(), Tone::Bad);
    add(signal.at_ns, "D-Bus", format!("signal Lost, {}", clean(&signal.cause)), Tone::Plain);
    moments.sort_by_key(|moment| moment.at_ns);
    moments
}

fn errno_name(errno: i32) -> String {
    match errno {
        0 => "without an error".to_owned(),
        errno => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    }
}

/// Microseconds with their sign.
fn micros(us: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "times of one run")]
    #[allow(clippy::cast_sign_loss, reason = "an absolute value")]
    let whole = grouped(us.abs().round() as u64);
    if us <= -0.5 { format!("−{whole}") } else { whole }
}

/// What happened and when; what each process saw; what is left.
pub fn told(of: &Measured) {
    println!("\n{:>9}  {:<9} WHAT HAPPENED", "µs", "WHO");
    for Moment { at_ns, who, what, tone: _ } in moments(of) {
        println!("{:>9}  {who:<9} {what}", micros(of.us(at_ns)));
    }
    println!();
    let Measured { sharing, producer, consumer, bystander, left, .. } = of;
    let refusal = clean(&producer.refusal);
    say(
        "producer",
        &format!(
            "{} of its {} buffers lost; its next export: “{refusal}”; its own fence of frame {} was {} \
             {} µs after the uevent",
            producer.buffers_lost,
            producer.buffers,
            sharing.waits_for,
            if producer.source_pending { "still pending" } else { "signalled" },
            micros(of.us(producer.source_seen_ns)),
        ),
    );
    let kernel = consumer
        .kernel_status
        .map_or_else(String::new, |status| format!(" (status {status} in the kernel)"));
    say(
        "consumer",
        &format!(
            "{} of {} frames good; the wait for frame {} ended {} µs after the uevent{kernel}: \
             “{}”",
            sharing.good,
            of.frames,
            sharing.waits_for,
            micros(of.us(consumer.awake_ns)),
            clean(&consumer.error),
        ),
    );
    let screen = &consumer.screen;
    say(
        "",
        &format!(
            "{} of {} mappings ({} KiB) read zeros, and begin fails on {}; its screen read {} rows \
             until the loss and {} after it without a fault; fds of the buffers: {} before, {} now",
            consumer.zeroed,
            consumer.mappings,
            grouped(consumer.bytes as u64 / 1024),
            consumer.begin_refused,
            grouped(screen.rows),
            grouped(screen.rows_after),
            sharing.buffer_fds,
            consumer.buffer_fds,
        ),
    );
    say(
        "bystander",
        &format!(
            "without the broker: the fence of frame {} was {} {} µs after the uevent, when it gave up; \
             nobody had told it anything; {} of its {} buffers still show a picture of a GPU that is \
             gone; fds of the buffers: {} now",
            sharing.waits_for,
            if bystander.pending { "pending" } else { "signalled" },
            micros(of.us(bystander.gave_up_ns)),
            bystander.shown,
            bystander.buffers,
            bystander.buffer_fds,
        ),
    );
    say(
        "after",
        &format!(
            "on D-Bus: {}, {} clients connected; the eGPU's object is {}",
            counted(&left.counts),
            left.clients.len(),
            if left.device { "still there" } else { "gone" },
        ),
    );
}

/// That all of it came true.
pub fn closing(of: &Measured) {
    let gone = of.report.at(Step::Gone).map_or(0.0, |at_ns| of.us(at_ns));
    let text = format!(
        "From the uevent to the waiter awake: {} µs; until nothing of the eGPU was held: {} µs. \
         With the broker nobody hung, nobody crashed.",
        micros(of.us(of.consumer.awake_ns)),
        micros(gone),
    );
    println!("\n{}", wrapped(&text, TEXT + 10).join("\n"));
}
