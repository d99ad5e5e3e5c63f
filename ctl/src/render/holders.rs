//! Who holds a device, as a table and as a tree.

mod tree;

use comfy_table::{CellAlignment, Table};
use dmashare_proto::holders::{Held, Holder, Holders, Looked, Other};

pub use tree::tree;

use super::held;
use super::style::{Paint, Style, finish, whole_but};
use super::text::{clean, count, duration, grouped, wrapped};
use crate::model::Device;

/// From this width on unit and session have columns of their own.
const ROOMY: u16 = 120;

/// `dmasharectl holders`.
#[must_use]
pub fn holders(device: &Device, found: &Holders, style: Style) -> String {
    let mut out = headline(device, found, style);
    if !found.processes.is_empty() {
        out.push('\n');
        out += &table(&found.processes, style);
    }
    out + &others(&found.others, style) + &footer(device, found, style)
}

/// The processes alone, those that are in the way first.
#[must_use]
pub fn table(processes: &[Holder], style: Style) -> String {
    let roomy = style.width.is_none_or(|width| width >= ROOMY);
    let mut table = if roomy {
        style.table([
            "",
            "PID",
            "COMMAND",
            "USER",
            "SESSION",
            "UNIT",
            "HOLDS",
            "WHY IT IS IN THE WAY",
        ])
    } else {
        style.table(["", "PID", "COMMAND", "USER", "HOLDS"])
    };
    for holder in in_order(processes) {
        rows(&mut table, holder, roomy, style);
    }
    if let Some(pids) = table.column_mut(1) {
        pids.set_cell_alignment(CellAlignment::Right);
    }
    whole_but(&mut table, if roomy { &[5, 6, 7] } else { &[4] });
    finish(&table)
}

/// Those that are in the way first, whatever the service's order is.
pub(super) fn in_order(processes: &[Holder]) -> Vec<&Holder> {
    let mut all: Vec<&Holder> = processes.iter().collect();
    all.sort_by_key(|holder| !holder.is_active());
    all
}

/// What a process holds, what is in the way first.
pub(super) fn held_in_order(holder: &Holder) -> Vec<&Held> {
    let mut all: Vec<&Held> = holder.holds.iter().collect();
    all.sort_by_key(|held| held.active.is_empty());
    all
}

/// In a word, as the tables have it.
pub(crate) fn state(active: bool, style: Style) -> String {
    if active { style.paint(Paint::Bad, "active") } else { style.paint(Paint::Faint, "idle") }
}

fn rows(table: &mut Table, holder: &Holder, roomy: bool, style: Style) {
    let mut who = vec![holder.pid.to_string(), held::command(holder), clean(&holder.user)];
    if roomy {
        who.extend([or_dash(&holder.session), or_dash(&holder.unit)]);
    }
    let mut row = |state: String, holds: String, why: String| {
        let mut cells = vec![state];
        let blank = vec![String::new(); who.len()];
        cells.extend(std::mem::replace(&mut who, blank));
        match (roomy, why.is_empty()) {
            (true, _) => cells.extend([holds, why]),
            (false, true) => cells.push(holds),
            (false, false) => cells.push(format!("{holds}: {why}")),
        }
        table.add_row(cells);
    };
    for held in held_in_order(holder) {
        row(state(!held.active.is_empty(), style), held::what(held), held::why(held));
    }
    for client in &holder.clients {
        row(String::new(), style.paint(Paint::Faint, &held::client(client)), String::new());
    }
    let placed = !holder.unit.is_empty() || !holder.session.is_empty();
    if !roomy && placed {
        row(String::new(), style.paint(Paint::Faint, &place(holder)), String::new());
    }
}

/// Session and unit of a process, in words.
pub(super) fn place(holder: &Holder) -> String {
    match (holder.session.as_str(), holder.unit.as_str()) {
        ("", "") => "no unit".to_owned(),
        ("", unit) => clean(unit),
        (session, "") => format!("session {}", clean(session)),
        (session, unit) => format!("session {}, {}", clean(session), clean(unit)),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { clean(text) }
}

fn name(device: &Device) -> String {
    let driver = match device.driver.as_str() {
        "" => String::new(),
        driver => format!(", {}", clean(driver)),
    };
    format!("d{} ({}{driver})", device.id, clean(&device.name))
}

fn headline(device: &Device, found: &Holders, style: Style) -> String {
    let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let active = found.processes.iter().filter(|holder| holder.is_active()).count();
    let idle = found.processes.len() - active;
    let name = style.paint(Paint::Strong, &name(device));
    match (active, idle) {
        (0, 0) => format!("no process that can be seen holds {name}\n"),
        (0, idle) => {
            format!("{name} is held by {}, idle\n", count(number(idle), "process", "processes"))
        }
        (active, 0) => {
            format!("{name} is held by {}\n", count(number(active), "process", "processes"))
        }
        (active, idle) => format!(
            "{name} is held by {}, and idly by {} more\n",
            count(number(active), "process", "processes"),
            idle
        ),
    }
}

fn others(others: &[Other], style: Style) -> String {
    let mut out = String::new();
    for other in others {
        let mark = if other.active { format!("{}  ", state(true, style)) } else { String::new() };
        out += &format!("{mark}{}: {}\n", clean(&other.kind), clean(&other.text));
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

fn footer(device: &Device, found: &Holders, style: Style) -> String {
    let held = found.processes.iter().flat_map(|holder| &holder.holds);
    let (active, idle): (Vec<_>, Vec<_>) = held.partition(|held| !held.active.is_empty());
    let mut lines: Vec<String> = Vec::new();
    if !active.is_empty() {
        let text = "active: it is in an eject's way, which is refused while anybody holds on so";
        lines.push(text.to_owned());
    }
    if !idle.is_empty() {
        let text =
            "idle: open and nothing else; the driver lets go by itself, so it stops no eject";
        lines.push(text.to_owned());
    }
    lines.push(looked(&found.looked));
    let mut out = String::from("\n");
    let columns = style.width.map_or(usize::MAX, usize::from);
    for line in lines.iter().flat_map(|line| wrapped(line, columns)) {
        out += &style.paint(Paint::Faint, &line);
        out.push('\n');
    }
    let id = device.id;
    let stopped = !active.is_empty() || found.others.iter().any(|other| other.active);
    if !stopped {
        out += &format!("nothing that can be seen is in the way of: dmasharectl eject d{id}\n");
    }
    out
}

fn looked(looked: &Looked) -> String {
    let unseen = match looked.unseen {
        0 => String::new(),
        some => format!("; {} could not be looked into", grouped(some.into())),
    };
    format!(
        "looked into {} and {} in {}{unseen}",
        count(looked.processes, "process", "processes"),
        count(looked.fds, "descriptor", "descriptors"),
        duration(looked.micros.saturating_mul(1000)),
    )
}

#[cfg(test)]
mod tests;
