//! Runs scenarios: each in a process of its own, with a bound, in an order that ends with what
//! cannot be undone.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value};

use crate::scenario::{self, Instance, figures};
use crate::{KernelLog, Machine, World};

/// The exit status of a scenario that does not apply here.
const SKIPPED: i32 = 77;

enum Outcome {
    Ok,
    Failed(String),
    Skipped(String),
}

/// Prints the names.
pub fn list(machine: Machine) {
    for instance in scenario::instances(machine) {
        println!("{}", instance.name());
    }
}

/// Runs those that the names say (a whole name, or the beginning of some), or all (in the virtual
/// machine, but for those that need a boot of their own); of all, those that follow `after`.
///
/// # Errors
/// A name says nothing; the figures cannot be written.
pub fn run(
    machine: Machine,
    names: &[String],
    after: Option<&str>,
    to: Option<&Path>,
) -> Result<ExitCode> {
    let mut all = scenario::instances(machine);
    if let Some(name) = after {
        let place = all.iter().position(|instance| instance.name() == name);
        all.drain(..=place.with_context(|| format!("there is no scenario {name} here"))?);
    }
    for name in names {
        if !all.iter().any(|instance| instance.is_named(name)) {
            bail!("there is no scenario {name} here; `list --machine {machine}` shows them");
        }
    }
    let wanted = |it: &Instance| {
        let with_all = machine == Machine::Simulated || !it.scenario.is_alone;
        names.is_empty() && with_all || names.iter().any(|name| it.is_named(name))
    };
    let mut failed = 0;
    let mut collected = Map::new();
    for instance in all.iter().filter(|it| wanted(it)) {
        let begin = Instant::now();
        let outcome = in_process(instance, &mut collected)?;
        let name = instance.name();
        match outcome {
            Outcome::Ok => println!("ok {name} {:.2} s", begin.elapsed().as_secs_f64()),
            Outcome::Skipped(why) => println!("skipped {name}: {why}"),
            Outcome::Failed(why) => {
                failed += 1;
                println!("FAILED {name}: {why}");
            }
        }
    }
    if let Some(path) = to {
        let text = serde_json::to_string_pretty(&collected)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A variable for one that is told to do more than it does by itself.
fn bound_of(instance: &Instance) -> Duration {
    let asked = std::env::var("DMASHARE_BOUND_S").ok().and_then(|text| text.parse().ok());
    asked.map_or_else(|| instance.bound(), Duration::from_secs)
}

/// The scenario and everything that it started are one process group, which is killed at its bound
/// and after its end.
fn in_process(instance: &Instance, collected: &mut Map<String, Value>) -> Result<Outcome> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["one", "--machine", &instance.backend.machine().to_string(), &instance.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = Pid::from_raw(child.id().cast_signed());
    let stdout = child.stdout.take().context("its output")?;
    let (lines_to, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines_to.send(line).is_err() {
                return;
            }
        }
    });
    let bound = bound_of(instance);
    let end = Instant::now() + bound;
    let mut why = String::new();
    let timed_out = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some((name, value)) = figures::parse(&line) {
                    collected.insert(format!("{}: {name}", instance.name()), value);
                } else if let Some(text) = line.strip_prefix("why: ") {
                    text.clone_into(&mut why);
                } else {
                    println!("{line}");
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
            // It has ended, and so has everyone who had its output.
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
        }
    };
    // It fails where all of them have ended.
    let _nobody_left = killpg(group, Signal::SIGKILL);
    if timed_out {
        // Not waited for: a process that is stuck in the kernel does not even die.
        return Ok(Outcome::Failed(format!("not done within {bound:?}")));
    }
    let status = child.wait()?;
    Ok(match status.code() {
        Some(0) => Outcome::Ok,
        Some(SKIPPED) => Outcome::Skipped(why),
        _ if why.is_empty() => Outcome::Failed(format!("it ended with {status}")),
        _ => Outcome::Failed(why),
    })
}

/// One scenario, in this process.
#[must_use]
pub fn one(machine: Machine, name: &str) -> ExitCode {
    let Some(instance) =
        scenario::instances(machine).into_iter().find(|instance| instance.name() == name)
    else {
        println!("why: there is no such scenario");
        return ExitCode::FAILURE;
    };
    match perform(&instance) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            println!("why: {}", text.lines().next().unwrap_or_default());
            for line in text.lines().skip(1) {
                println!("  {line}");
            }
            match error.downcast_ref::<scenario::Skip>() {
                Some(_) => ExitCode::from(SKIPPED as u8),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn perform(instance: &Instance) -> Result<()> {
    let mut kernel = match instance.backend.machine() {
        Machine::Vm => Some(KernelLog::from_now()?),
        Machine::Simulated => None,
    };
    let mut world = World::start(instance.backend, instance.scenario.config)?;
    let result = (instance.scenario.run)(&mut world);
    if let Err(error) = &result
        && !error.is::<scenario::Skip>()
    {
        for line in world.log_tail().lines() {
            println!("  | {line}");
        }
    }
    result?;
    drop(world);
    let mut complaints = kernel.as_mut().map_or(Ok(Vec::new()), KernelLog::complaints)?;
    let tolerated = instance.scenario.tolerated;
    complaints.retain(|line| !tolerated.iter().any(|word| line.contains(word)));
    if !complaints.is_empty() {
        bail!("the kernel complained: {}", complaints.join(" / "));
    }
    Ok(())
}
