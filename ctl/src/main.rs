//! `dmasharectl`: what the broker has, and what an unplug did.

mod args;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use dmashare_proto::report::UnplugReport;
use dmasharectl::bus::{Broker, Bus};
use dmasharectl::doctor::{self, Host, ServiceState};
use dmasharectl::failure::{Failure, exit};
use dmasharectl::render::{Style, TimelinePicture, report_table_styled, tables, timeline_svg};
use dmasharectl::{json, rehearse, select};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use args::{Args, Command, ReportArgs};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let text = failure.to_string();
            let (what, hints) = text.split_once('\n').unwrap_or((&text, ""));
            let mut message = format!("dmasharectl: {what}\n");
            for hint in hints.lines() {
                message += &format!("  {hint}\n");
            }
            // Nobody is left to be told where standard error is closed.
            _ = io::stderr().write_all(message.as_bytes());
            ExitCode::from(failure.code())
        }
    }
}

fn run(args: &Args) -> Result<u8, Failure> {
    let style = Style::of_stdout();
    match &args.command {
        Command::Status => {
            let broker = Broker::connect(&args.bus)?;
            let (service, snapshot) = (broker.service()?, broker.snapshot()?);
            if args.json {
                print_json(&json::status(&service, &snapshot))?;
            } else {
                print(&tables::status(&service, &snapshot, style))?;
            }
        }
        Command::Devices => {
            let devices = Broker::connect(&args.bus)?.snapshot()?.devices;
            if args.json {
                print_json(&json::devices(&devices))?;
            } else {
                print(&tables::devices(&devices, style))?;
            }
        }
        Command::Report(report) => return show_reports(&args.bus, report, args.json, style),
        Command::Cause(of) => {
            let ended = Broker::connect(&args.bus)?.cause(of.object, of.point)?;
            if args.json {
                print_json(&json::cause(&ended))?;
            } else {
                print(&tables::cause(&ended, now_ns()))?;
            }
        }
        Command::Rehearse(which) => {
            let (device, client) = (&which.device, which.client);
            let rehearsal = rehearse::rehearse(&args.bus, device, client, which.after)?;
            if args.json {
                print_json(&rehearsal.json())?;
            } else {
                print(&rehearsal.text())?;
            }
        }
        Command::Doctor => {
            let diagnosis = doctor::diagnose(&Host::this(), &ServiceState::on(&args.bus));
            if args.json {
                print_json(&json::doctor(&diagnosis))?;
            } else {
                print(&doctor::show(&diagnosis, style))?;
            }
            return Ok(if diagnosis.ok { 0 } else { exit::FAILURE });
        }
    }
    Ok(0)
}

fn show_reports(bus: &Bus, args: &ReportArgs, as_json: bool, style: Style) -> Result<u8, Failure> {
    let broker = Broker::connect(bus)?;
    let kept = broker.reports()?;
    let mut chosen: Vec<&UnplugReport> = match &args.device {
        Some(device) => select::reports_of(device, &broker.snapshot()?.devices, &kept)?,
        None => kept.iter().collect(),
    };
    if !args.all && chosen.len() > 1 {
        chosen.drain(..chosen.len() - 1);
    }
    let picture = match (&args.svg, chosen.last()) {
        (None, _) => None,
        (Some(_), None) => return Err(Failure::NothingToDraw),
        (Some(path), Some(report)) => {
            Some((path, timeline_svg(&TimelinePicture::from_report(report))))
        }
    };
    if let Some((path, svg)) = &picture {
        if *path == Path::new("-") {
            print(svg)?;
            return Ok(0);
        }
        std::fs::write(path, svg)
            .map_err(|error| Failure::Write { path: path.display().to_string(), error })?;
    }
    if as_json {
        print_json(&json::reports(&chosen))?;
        return Ok(0);
    }
    let mut text = String::new();
    for report in &chosen {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &report_table_styled(report, style);
    }
    if chosen.is_empty() {
        text += match &args.device {
            Some(_) => "this device has not been unplugged\n",
            None => "no device has been unplugged since the service started\n",
        };
    }
    if let Some((path, _)) = picture {
        text += &format!("\nthe timeline picture is in {}\n", path.display());
    }
    print(&text)?;
    Ok(0)
}

/// The clock of the service's times.
fn now_ns() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(Duration::from(now).as_nanos()).ok()
}

fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Writes to standard output. Whoever reads it may have seen enough, as `head` has.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Write { path: "standard output".to_owned(), error })
        }
        _ => Ok(()),
    }
}
