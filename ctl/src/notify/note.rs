//! What is said of what happens.

use crate::job::Job;
use crate::render::held;
use crate::render::text::{clean, count};
use crate::world::{Event, Named};

/// How much it matters, as org.freedesktop.Notifications has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It is good to know.
    Normal = 1,
    /// Something was lost, or does not work.
    Critical = 2,
}

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The device's name. A later note on it takes the place of this one.
    pub about: String,
    /// A line.
    pub summary: String,
    /// Sentences, as plain text.
    pub body: String,
    /// How much it matters.
    pub urgency: Urgency,
    /// What kind it is, of the kinds that the specification has.
    pub category: &'static str,
    /// An icon's name, of those that the icon naming specification has.
    pub icon: &'static str,
}

/// Processes that are named.
const NAMED: usize = 5;

impl Note {
    /// `None` for what nobody has to be told.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Lost { device, cause, buffers, imports, fences } => {
                lost(device, cause, (*buffers, *imports, *fences))
            }
            Event::EjectEnded { job } if !job.dry_run => ended(job),
            _ => None,
        }
    }
}

fn lost(device: &Named, cause: &str, (buffers, imports, fences): (u32, u32, u32)) -> Option<Note> {
    let summary = match cause {
        // The job tells of it.
        "ejected" => return None,
        "unplugged" => "A GPU was unplugged",
        "vanished" => "A GPU has vanished",
        "rehearsed" => "The loss of a GPU is rehearsed",
        _ => "A GPU was lost",
    };
    let used = buffers > 0 || imports > 0 || fences > 0;
    let had = if used {
        format!(
            "had {}, {} and {} pending",
            count(buffers, "buffer", "buffers"),
            count(imports, "import", "imports"),
            count(fences, "fence", "fences"),
        )
    } else {
        "was not in use".to_owned()
    };
    Some(Note {
        about: device.name.clone(),
        summary: summary.to_owned(),
        body: format!("{} {had}.", device.shown()),
        urgency: if used && cause != "rehearsed" { Urgency::Critical } else { Urgency::Normal },
        category: "device.removed",
        icon: "dialog-warning",
    })
}

fn ended(job: &Job) -> Option<Note> {
    let device = job.shown_device();
    let message = clean(&job.message);
    let (summary, body, urgency, category, icon) = match job.outcome.as_deref()? {
        "ejected" => (
            "A GPU can be unplugged",
            format!("{device} is ejected: it is safe to unplug."),
            Urgency::Normal,
            "device.removed",
            "media-eject",
        ),
        "refused" => {
            let by = job.holders.as_ref().map(|found| held::names(&found.processes, NAMED));
            let by = match by.unwrap_or_default() {
                none if none.is_empty() => String::new(),
                by => format!("\nIn use by: {by}"),
            };
            (
                "A GPU was not ejected",
                format!("{device}: {message}{by}"),
                Urgency::Normal,
                "device.error",
                "dialog-information",
            )
        }
        "failed" => (
            "A GPU could not be ejected",
            format!("{device}: {message}"),
            Urgency::Critical,
            "device.error",
            "dialog-error",
        ),
        // Who cancelled it knows; a loss is told by itself.
        _ => return None,
    };
    Some(Note {
        about: job.device_name.clone(),
        summary: summary.to_owned(),
        body,
        urgency,
        category,
        icon,
    })
}

#[cfg(test)]
mod tests {
    use dmashare_proto::holders::{Held, Holder, Holders};

    use super::*;

    fn device() -> Named {
        Named { id: 3, name: "0000:01:00.0".to_owned(), driver: "amdgpu".to_owned() }
    }

    fn loss(cause: &str, buffers: u32) -> Option<Note> {
        let (imports, fences) = (0, 0);
        let cause = cause.to_owned();
        Note::of(&Event::Lost { device: device(), cause, buffers, imports, fences })
    }

    fn job(outcome: &str) -> Job {
        let sway = Holder {
            pid: 812,
            command: "sway".to_owned(),
            holds: vec![Held { active: "DRM master".to_owned(), ..Held::default() }],
            ..Holder::default()
        };
        let idler = Holder { pid: 9, command: "idler".to_owned(), ..Holder::default() };
        Job {
            device: Some(3),
            device_name: "0000:01:00.0".to_owned(),
            message: "somebody holds on".to_owned(),
            holders: Some(Holders { processes: vec![sway, idler], ..Holders::default() }),
            outcome: Some(outcome.to_owned()),
            ..Job::default()
        }
    }

    #[test]
    fn a_loss_matters_if_something_was_lost() {
        let note = loss("unplugged", 1).unwrap();
        let body = "d3 (0000:01:00.0, amdgpu) had 1 buffer, 0 imports and 0 fences pending.";
        assert_eq!((note.urgency, note.body.as_str()), (Urgency::Critical, body));
        assert_eq!(loss("unplugged", 0).unwrap().urgency, Urgency::Normal);
        assert_eq!(loss("rehearsed", 1).unwrap().urgency, Urgency::Normal);
        assert_eq!(loss("ejected", 1), None, "the job tells of it");
    }

    #[test]
    fn a_refusal_names_who_is_in_the_way() {
        let note = Note::of(&Event::EjectEnded { job: job("refused") }).unwrap();
        assert_eq!(note.body, "d3 (0000:01:00.0): somebody holds on\nIn use by: sway (pid 812)");
        assert_eq!(note.about, loss("unplugged", 1).unwrap().about, "one place for one device");
    }

    #[test]
    fn what_nobody_has_to_be_told() {
        for outcome in ["cancelled", "lost", "would-eject"] {
            assert_eq!(Note::of(&Event::EjectEnded { job: job(outcome) }), None, "{outcome}");
        }
        let dry = Job { dry_run: true, ..job("refused") };
        assert_eq!(Note::of(&Event::EjectEnded { job: dry }), None);
        assert_eq!(Note::of(&Event::Eject { job: job("refused") }), None);
        assert!(Note::of(&Event::EjectEnded { job: job("ejected") }).is_some());
    }
}
