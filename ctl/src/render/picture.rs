//! What a timeline picture shows, before anything is drawn.

use dmashare_proto::report::{Step, UnplugReport};

use super::text::{clean, count, when};
use crate::json::since;

/// What a mark or a span means; drawn as a colour and, for marks, a shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Something was done.
    #[default]
    Plain,
    /// It went well.
    Good,
    /// It is to be looked at.
    Warn,
    /// It ended with an error.
    Bad,
}

/// A moment.
#[derive(Clone, Debug, PartialEq)]
pub struct MarkAt {
    /// Microseconds from the kernel's event; negative before it.
    pub at_us: f64,
    /// What happened. The time is written behind it by the picture.
    pub label: String,
    /// What it means.
    pub tone: Tone,
}

/// Something that lasted.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Microseconds from the kernel's event.
    pub from_us: f64,
    /// Microseconds from the kernel's event.
    pub to_us: f64,
    /// What lasted.
    pub label: String,
    /// What it means.
    pub tone: Tone,
}

/// What one party did and saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lane {
    /// Who.
    pub name: String,
    /// Moments, in any order.
    pub marks: Vec<MarkAt>,
    /// What lasted, in any order.
    pub spans: Vec<Span>,
}

impl Lane {
    /// An empty lane.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With a moment added.
    #[must_use]
    pub fn mark(mut self, at_us: f64, label: impl Into<String>, tone: Tone) -> Self {
        self.marks.push(MarkAt { at_us, label: label.into(), tone });
        self
    }

    /// With something that lasted added.
    #[must_use]
    pub fn span(mut self, from_us: f64, to_us: f64, label: impl Into<String>, tone: Tone) -> Self {
        self.spans.push(Span { from_us, to_us, label: label.into(), tone });
        self
    }
}

/// A timeline picture: who did what, and when, from the kernel's event on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TimelinePicture {
    /// The heading.
    pub title: String,
    /// A line under it.
    pub subtitle: String,
    /// From top to bottom.
    pub lanes: Vec<Lane>,
}

impl TimelinePicture {
    /// What the broker knows of an unplug. Others add the lanes of what they saw.
    #[must_use]
    pub fn from_report(report: &UnplugReport) -> Self {
        let mut lanes = vec![kernel(report), broker(report)];
        lanes.extend(clients(report));
        Self {
            title: format!("Unplug of {} ({})", clean(&report.name), clean(&report.driver)),
            subtitle: format!(
                "{} · {} · {}, {}, {}",
                report.cause.name(),
                when(report.wall_clock_s),
                count(report.buffers, "buffer", "buffers"),
                count(report.imports, "import", "imports"),
                count(report.guards, "guard fence", "guard fences"),
            ),
            lanes,
        }
    }
}

fn at(report: &UnplugReport, step: Step) -> Option<f64> {
    Some(since(report, report.at(step)?))
}

fn last_us(report: &UnplugReport) -> f64 {
    report.marks.iter().map(|mark| since(report, mark.at_ns)).fold(0.0, f64::max)
}

fn kernel(report: &UnplugReport) -> Lane {
    let mut lane = Lane::new("kernel").mark(0.0, "remove event", Tone::Warn);
    if let Some(removed) = at(report, Step::ParentRemoved) {
        lane = lane.span(0.0, removed, "removes the device", Tone::Plain).mark(
            removed,
            Step::ParentRemoved.name(),
            Tone::Plain,
        );
    }
    for fence in &report.implicit {
        let label = format!("implicit fence {} of buffer {}", fence.timeline, fence.buffer);
        let from = since(report, fence.seen_ns);
        lane = match fence.ended_ns {
            Some(ended) => lane.span(from, since(report, ended), label, Tone::Warn),
            None => lane.span(from, last_us(report), format!("{label}: still pending"), Tone::Bad),
        };
    }
    lane
}

fn broker(report: &UnplugReport) -> Lane {
    let steps = report.marks.iter().filter(|mark| {
        !matches!(mark.step, Step::Uevent | Step::ParentRemoved | Step::Acknowledged)
    });
    steps.fold(Lane::new("broker"), |lane, mark| {
        let (label, tone) = match mark.step {
            Step::GuardsSignalled => {
                (count(report.guards, "fence ended", "fences ended"), Tone::Bad)
            }
            Step::ClientsTold => (count(report.told, "client told", "clients told"), Tone::Plain),
            Step::Gone => ("device gone: nothing is held".to_owned(), Tone::Good),
            step => (step.name().to_owned(), Tone::Plain),
        };
        lane.mark(since(report, mark.at_ns), label, tone)
    })
}

fn clients(report: &UnplugReport) -> Option<Lane> {
    if report.awaited == 0 {
        return None;
    }
    let told = at(report, Step::ClientsTold).unwrap_or(0.0);
    let lane = Lane::new("clients");
    let Some(done) = at(report, Step::Acknowledged) else {
        let label = format!("{} not yet acknowledged", count(report.awaited, "client", "clients"));
        return Some(lane.span(told, last_us(report), label, Tone::Bad));
    };
    let label = count(report.imports, "import to let go of", "imports to let go of");
    let lane = lane.span(told, done, label, Tone::Plain);
    Some(if report.overdue.is_empty() {
        lane.mark(done, "all acknowledged", Tone::Good)
    } else {
        let late = u32::try_from(report.overdue.len()).unwrap_or(u32::MAX);
        lane.mark(done, format!("settled, {late} overdue"), Tone::Bad)
    })
}
