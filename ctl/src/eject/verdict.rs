//! How an eject ended, and what can be done.

use dmashare_proto::holders::Role;
use serde_json::{Value, json};

use crate::failure::{Failure, exit};
use crate::holders::shape;
use crate::job::Job;
use crate::live::EjectOptions;
use crate::render::text::clean;
use crate::render::{Style, holders};

/// What is to be shown of how it ended, and whether that is a failure.
pub fn verdict(job: &Job, options: &EjectOptions, style: Style) -> (String, Result<(), Failure>) {
    let device = job.shown_device();
    let message = clean(&job.message);
    let not = |text: String, code| Err(Failure::NotEjected { text, code });
    match job.outcome.as_deref().unwrap_or_default() {
        "ejected" => (format!("{device} is ejected: it is safe to unplug\n"), Ok(())),
        "would-eject" => (would(job, &device, style), Ok(())),
        "refused" => {
            let not_ejected = if job.dry_run { "would not be ejected" } else { "is not ejected" };
            let text = format!("{device} {not_ejected}: {message}{}", hints(job, options));
            (in_the_way(job, style), not(text, exit::REFUSED))
        }
        "cancelled" => {
            let text = format!("cancelled; {device} is there as before");
            (String::new(), not(text, exit::CANCELLED))
        }
        "lost" => {
            let report = job.device.map_or_else(String::new, |id| format!(" d{id}"));
            let text = format!(
                "{device} was lost before it was ejected: {message}\n\
                 what that did: dmasharectl report{report}"
            );
            (String::new(), not(text, exit::FAILURE))
        }
        "failed" => {
            let last = job.steps.iter().rfind(|step| step.stage != "ended");
            let kernel = last.is_some_and(|step| step.stage == "removing");
            let text = format!(
                "{device} is not ejected: {message}\n\
                 how it is now: dmasharectl devices; journalctl -u dmashared"
            );
            (String::new(), not(text, if kernel { exit::KERNEL } else { exit::FAILURE }))
        }
        other => {
            let text = format!("{device}: the eject ended as {}: {message}", clean(other));
            (String::new(), not(text, exit::FAILURE))
        }
    }
}

fn would(job: &Job, device: &str, style: Style) -> String {
    let idle = job.holders.as_ref().map(|found| found.processes.as_slice()).unwrap_or_default();
    let table = if idle.is_empty() {
        String::new()
    } else {
        format!("these hold it idly, and stop nothing:\n\n{}", holders::table(idle, style))
    };
    format!("nothing is in the way of an eject of {device}\n{table}")
}

/// Those who are in the way, with what they hold.
fn in_the_way(job: &Job, style: Style) -> String {
    let Some(found) = &job.holders else { return String::new() };
    let mut active: Vec<_> =
        found.processes.iter().filter(|holder| holder.is_active()).cloned().collect();
    for holder in &mut active {
        holder.holds.retain(|held| !held.active.is_empty());
    }
    let mut out = String::new();
    if !active.is_empty() {
        out = holders::table(&active, style);
    }
    for other in found.others.iter().filter(|other| other.active) {
        let mark = holders::state(true, style);
        out += &format!("{mark}  {}: {}\n", clean(&other.kind), clean(&other.text));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn hints(job: &Job, options: &EjectOptions) -> String {
    let device = job.device.map_or_else(|| clean(&job.device_name), |id| format!("d{id}"));
    let active: Vec<_> = job
        .holders
        .iter()
        .flat_map(|found| &found.processes)
        .filter(|holder| holder.is_active())
        .collect();
    let hint = match options.force {
        _ if active.is_empty() => "what blocks ejects: dmasharectl status".to_owned(),
        0 => format!("close them and try again, or end them: dmasharectl eject {device} --force"),
        1 if active.iter().any(|holder| holder.role != Role::Program) => format!(
            "--force spares who draws the screen or lets people log in; told twice it spares nobody: \
             dmasharectl eject {device} --force --force"
        ),
        _ => "it needs more time to end them, or cannot: see --timeout".to_owned(),
    };
    format!("\n{hint}\nall who hold it: dmasharectl holders {device}")
}

/// `eject --json`.
#[must_use]
pub fn json(job: &Job) -> Value {
    let mut value = json!(job);
    if let Some(found) = &job.holders {
        value["holders"] = shape(found);
    }
    json!({ "eject": value })
}
