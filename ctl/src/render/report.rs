//! One unplug as text.

use comfy_table::CellAlignment;
use dmashare_proto::report::{ImplicitFence, Step, UnplugReport};
use nix::time::{ClockId, clock_gettime};

use super::style::{Paint, Style, finish, whole_but};
use super::text::{clean, count, duration, grouped, when};

/// One unplug as plain text, its lines as long as they need to be.
#[must_use]
pub fn report_table(report: &UnplugReport) -> String {
    report_table_styled(report, Style::default())
}

/// One unplug as text.
#[must_use]
pub fn report_table_styled(report: &UnplugReport, style: Style) -> String {
    rendered(report, style, monotonic_ns())
}

/// CLOCK_MONOTONIC; `None` where there is no such clock.
fn monotonic_ns() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    let (seconds, nanos) = (u64::try_from(now.tv_sec()).ok()?, u64::try_from(now.tv_nsec()).ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

fn rendered(report: &UnplugReport, style: Style, now_ns: Option<u64>) -> String {
    let title = format!("Unplug of {} ({})", clean(&report.name), clean(&report.driver));
    let whom = match report.rehearsed_for {
        Some(only) => format!(" for client c{} alone", only.client),
        None => String::new(),
    };
    let mut out = format!(
        "{}\ndevice d{}, {}{whom}, {}\n\n",
        style.paint(Paint::Strong, &title),
        report.device,
        style.paint(Paint::Warn, report.cause.name()),
        when(report.wall_clock_s),
    );
    out += &steps(report, style);
    out.push('\n');
    out += &counts(report, style);
    if !report.implicit.is_empty() {
        out += &implicit(report, style, now_ns);
    }
    if !report.overdue.is_empty() {
        out += &overdue(report, style);
    }
    out
}

fn steps(report: &UnplugReport, style: Style) -> String {
    let mut table = style.table(["STEP", "µs FROM THE UEVENT", "SINCE THE STEP BEFORE"]);
    let zero = report.at(Step::Uevent);
    let mut before: Option<u64> = None;
    for mark in &report.marks {
        let after = |from: u64| grouped(mark.at_ns.saturating_sub(from) / 1000);
        table.add_row([
            mark.step.name().to_owned(),
            zero.map_or_else(|| "?".to_owned(), after),
            before.map_or_else(String::new, |from| format!("+{}", after(from))),
        ]);
        before = Some(mark.at_ns);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut out = finish(&table);
    let missing: Vec<&str> = [Step::Acknowledged, Step::Gone]
        .into_iter()
        .filter(|step| report.at(*step).is_none())
        .map(Step::name)
        .collect();
    if !missing.is_empty() {
        let line = format!("not yet: {}", missing.join(", "));
        out += &style.paint(Paint::Warn, &line);
        out.push('\n');
    }
    out
}

fn counts(report: &UnplugReport, style: Style) -> String {
    let mut out = format!(
        "{} ended by the broker, {} passed through\n{} lost, {} taken back\n",
        count(report.guards, "guard fence", "guard fences"),
        count(report.passed, "fence", "fences"),
        count(report.buffers, "buffer", "buffers"),
        count(report.imports, "import", "imports"),
    );
    let late = u32::try_from(report.overdue.len()).unwrap_or(u32::MAX);
    let line = format!(
        "{} told, {} to acknowledge, {late} overdue",
        count(report.told, "client", "clients"),
        report.awaited,
    );
    out += &if late > 0 { style.paint(Paint::Bad, &line) } else { line };
    out.push('\n');
    out
}

fn implicit(report: &UnplugReport, style: Style, now_ns: Option<u64>) -> String {
    let last_ns = report.marks.iter().map(|mark| mark.at_ns).max().unwrap_or(0);
    let mut out = format!(
        "\n{}\n",
        style.paint(
            Paint::Strong,
            "Implicit fences that were pending (only their own driver can end them)",
        ),
    );
    let mut table = style.table(["BUFFER", "DRIVER", "TIMELINE", "AGE", "STATE"]);
    for fence in &report.implicit {
        let ImplicitFence { buffer, driver, timeline, seen_ns, ended_ns } = fence;
        // A report that was made on another machine, or before a reboot, knows no now.
        let now = now_ns.filter(|now| *now >= last_ns.max(*seen_ns)).unwrap_or(last_ns);
        let age = ended_ns.unwrap_or(now).saturating_sub(*seen_ns);
        table.add_row([
            buffer.to_string(),
            clean(driver),
            clean(timeline),
            format!("≥ {}", duration(age)),
            match ended_ns {
                Some(_) => "ended".to_owned(),
                None => style.paint(Paint::Bad, "pending"),
            },
        ]);
    }
    whole_but(&mut table, &[1, 2]);
    out += &finish(&table);
    out
}

fn overdue(report: &UnplugReport, style: Style) -> String {
    let mut out =
        format!("\n{}\n", style.paint(Paint::Strong, "Clients that did not acknowledge in time"));
    let mut table = style.table(["PID", "NAME", "UNIT", "ACTION", "STILL HELD"]);
    for client in &report.overdue {
        let holds: Vec<String> = client.holds.iter().map(|held| clean(held)).collect();
        table.add_row([
            client.pid.to_string(),
            clean(&client.name),
            if client.unit.is_empty() { "–".to_owned() } else { clean(&client.unit) },
            clean(&client.action),
            if holds.is_empty() { "nothing that is seen".to_owned() } else { holds.join("\n") },
        ]);
    }
    whole_but(&mut table, &[1, 2, 4]);
    out += &finish(&table);
    out
}

#[cfg(test)]
mod tests;
