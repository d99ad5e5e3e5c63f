//! `dmasharectl eject`: starts a job, shows how it goes, and says how it ended.

mod progress;
mod verdict;

use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use zbus::zvariant::OwnedObjectPath;

pub use progress::Progress;
pub use verdict::{json, verdict};

use crate::agent::Agent;
use crate::bus::Bus;
use crate::failure::{Failure, exit};
use crate::job::{Job, number};
use crate::live::{EjectOptions, Live, Start};
use crate::output::now_ns;
use crate::render::text::clean;
use crate::select;
use crate::world::Event;

/// How long after its time a removal is waited for.
const GRACE_NS: u64 = 10_000_000_000;
/// The same for one without a limit, from its beginning.
const LONGEST_REMOVAL_NS: u64 = 30_000_000_000;
/// A job's last stage.
const ENDED: &str = "ended";
/// Between two drawings of the seconds that are left.
const REDRAW: Duration = Duration::from_millis(250);

/// Ejects the device that `wanted` names. Ctrl-C cancels the job and waits for its end; a second one
/// leaves.
///
/// # Errors
/// No such device; the service refuses, or stops; the kernel is stuck; the user left. How the job
/// ended, [`verdict()`] says.
pub async fn eject(
    bus: &Bus,
    wanted: &str,
    options: &EjectOptions,
    show: &mut Progress,
) -> Result<Job, Failure> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(Failure::Terminal)?;
    let mut live = Live::connect(bus, Start::Service).await?;
    let device = select::device(wanted, &live.world().devices())?.id;
    let agent = Agent::for_terminal(bus);
    let begun = begin(&mut live, device, options, &mut interrupts).await;
    drop(agent);
    let (path, interrupted) = begun?;
    let followed = follow(&mut live, &path, &mut interrupts, interrupted, show).await;
    show.end();
    followed
}

/// Until the job is made, which may take a password.
async fn begin(
    live: &mut Live,
    device: u64,
    options: &EjectOptions,
    interrupts: &mut Signal,
) -> Result<(OwnedObjectPath, bool), Failure> {
    let caller = live.caller();
    let mut call = pin!(caller.eject(device, options));
    let mut interrupted = false;
    loop {
        tokio::select! {
            made = &mut call => return match made {
                Ok(path) => Ok((path, interrupted)),
                Err(_) if interrupted => Err(cancelled("cancelled before it began")),
                Err(failure) => Err(failure),
            },
            events = live.next() => drop(events?),
            _ = interrupts.recv() => {
                if interrupted {
                    return Err(left());
                }
                interrupted = true;
            }
        }
    }
}

async fn follow(
    live: &mut Live,
    path: &OwnedObjectPath,
    interrupts: &mut Signal,
    mut interrupted: bool,
    show: &mut Progress,
) -> Result<Job, Failure> {
    let id = number(path.as_str(), "/j")
        .ok_or_else(|| Failure::Unexpected(format!("{path} is no job")))?;
    let caller = live.caller();
    let mut cancels = JoinSet::new();
    let cancel = || {
        let caller = caller.clone();
        async move { caller.cancel(id).await }
    };
    if interrupted {
        cancels.spawn(cancel());
    }
    live.look_at_job(path).await?;
    loop {
        let Some(job) = live.world().job(id) else {
            return Err(Failure::Unexpected(format!("{path} is not there")));
        };
        show.job(job, now_ns().unwrap_or(0));
        // The signal may come before the properties: the last step comes with the stage.
        if job.outcome.is_some() && job.stage == ENDED {
            break;
        }
        let waits = patience(job, now_ns().unwrap_or(0));
        if waits.is_some_and(|waits| waits.is_zero()) {
            return Err(stuck(job));
        }
        let redraw = if show.is_drawn() { REDRAW } else { Duration::MAX };
        let pause = waits.unwrap_or(Duration::MAX).min(redraw);
        tokio::select! {
            events = live.next() => {
                let stopped = |event: &Event| matches!(event, Event::Service { running: false, .. });
                if events?.iter().any(stopped) {
                    let text = "it stopped during the eject; what became of the device, \
                                `dmasharectl devices` tells when it runs again";
                    return Err(Failure::NoAnswer(text.to_owned()));
                }
            }
            _ = interrupts.recv() => {
                if interrupted {
                    return Err(left());
                }
                interrupted = true;
                show.note("cancelling; once more to leave without waiting");
                cancels.spawn(cancel());
            }
            Some(answer) = cancels.join_next(), if !cancels.is_empty() => {
                if let Ok(Err(failure)) = answer {
                    show.note(failure.to_string().lines().next().unwrap_or_default());
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
    // What became of an attempt to cancel is told, also where the end was faster.
    while let Some(answer) = cancels.join_next().await {
        if let Ok(Err(failure)) = answer {
            show.note(failure.to_string().lines().next().unwrap_or_default());
        }
    }
    Ok(live.world().job(id).cloned().unwrap_or_default())
}

/// How long a removal is still waited for. All else has a deadline that the service keeps.
fn patience(job: &Job, now_ns: u64) -> Option<Duration> {
    if job.stage != "removing" {
        return None;
    }
    let began = job.steps.iter().rfind(|step| step.stage == "removing").map(|step| step.at_ns);
    let until_ns = match job.deadline_ns {
        0 => began?.saturating_add(LONGEST_REMOVAL_NS),
        deadline_ns => deadline_ns.saturating_add(GRACE_NS),
    };
    Some(Duration::from_nanos(until_ns.saturating_sub(now_ns)))
}

fn cancelled(how: &str) -> Failure {
    Failure::NotEjected { text: how.to_owned(), code: exit::CANCELLED }
}

fn left() -> Failure {
    cancelled(
        "left; the job goes on if it could not be cancelled\n\
         how it ends: dmasharectl watch",
    )
}

fn stuck(job: &Job) -> Failure {
    let text = format!(
        "{} is not removed yet, and its time is up: {}\n\
         do not unplug it now; the kernel cannot be called back, and the job goes on\n\
         when it is done: dmasharectl watch",
        job.shown_device(),
        clean(&job.message),
    );
    Failure::NotEjected { text, code: exit::KERNEL }
}

#[cfg(test)]
mod tests;
