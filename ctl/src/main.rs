//! `dmasharectl`: what the broker has, who holds a device, what an unplug did; and ejects.

mod args;
#[cfg(test)]
mod documented;
mod manual;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use dmashare_proto::report::UnplugReport;
use dmasharectl::bus::{Broker, Bus};
use dmasharectl::doctor::{self, Host, ServiceState};
use dmasharectl::eject::{self, Progress};
use dmasharectl::failure::{Failure, exit};
use dmasharectl::metrics::Metrics;
use dmasharectl::output::{now_ns, print, print_json, write_whole};
use dmasharectl::render::{
    self, Style, TimelinePicture, report_table_styled, tables, timeline_svg,
};
use dmasharectl::{attach, holders, json, notify, rehearse, select, top, watch};

use args::{Args, AttachArgs, Command, EjectArgs, HoldersArgs, MetricsArgs, ReportArgs};

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
        Command::Holders(of) => return running(show_holders(args, of, style)),
        Command::Eject(what) => return running(eject(args, what, style)),
        Command::Attach(how) => return running(attach(args, how)),
        Command::Quotas => {
            let usage = Broker::connect(&args.bus)?.usage()?;
            if args.json {
                print_json(&json::usage(&usage))?;
            } else {
                print(&render::quotas::quotas(&usage, style))?;
            }
        }
        Command::Metrics(to) => show_metrics(args, to)?,
        Command::Watch => running(watch::watch(&args.bus, args.json, style))?,
        Command::Top => return running(top::top(&args.bus, style.colour)),
        Command::Notify => running(notify::notify(&args.bus))?,
        Command::Completions { shell } => _ = print(&manual::completions(*shell))?,
        Command::Man { dir } => manual::write(dir)?,
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

/// For what waits for more than one thing.
fn running<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::NoRuntime)?;
    let done = runtime.block_on(what);
    // A thread that waits for keys may wait on; nothing else is left to do.
    runtime.shutdown_background();
    done
}

fn show_metrics(args: &Args, to: &MetricsArgs) -> Result<(), Failure> {
    let broker = Broker::connect(&args.bus)?;
    // To be asked it would be started; that is not for who only watches.
    let metrics = if broker.is_running()? {
        let (service, snapshot) = (broker.service()?, broker.snapshot()?);
        Metrics::of(&service, &snapshot.devices, broker.counters()?)
    } else {
        Metrics::of_none()
    };
    if args.json {
        return print_json(&json::metrics(&metrics)).map(drop);
    }
    match &to.textfile {
        Some(path) => write_whole(path, &metrics.to_string())
            .map_err(|error| Failure::Write { path: path.display().to_string(), error }),
        None => print(&metrics.to_string()).map(drop),
    }
}

async fn show_holders(args: &Args, of: &HoldersArgs, style: Style) -> Result<u8, Failure> {
    let (device, found) = holders::look(&args.bus, &of.device).await?;
    match (args.json, of.tree) {
        (true, _) => print_json(&holders::json(&device, &found))?,
        (false, true) => print(&render::holders::tree(&device, &found, style))?,
        (false, false) => print(&render::holders::holders(&device, &found, style))?,
    };
    Ok(0)
}

async fn eject(args: &Args, what: &EjectArgs, style: Style) -> Result<u8, Failure> {
    let options = what.options();
    let mut progress = Progress::on_stdout(style, args.json);
    let job = eject::eject(&args.bus, &what.device, &options, &mut progress).await?;
    let (shown, result) = eject::verdict(&job, &options, style);
    if args.json {
        print_json(&eject::json(&job))?;
    } else {
        print(&shown)?;
    }
    result.map(|()| 0)
}

async fn attach(args: &Args, how: &AttachArgs) -> Result<u8, Failure> {
    let came = attach::attach(&args.bus, how.timeout).await?;
    if args.json {
        print_json(&attach::json(&came))?;
    } else {
        print(&attach::text(&came))?;
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
