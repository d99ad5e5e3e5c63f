//! What the service has, as tables.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table};
use nix::errno::Errno;

use super::style::{Paint, Style, finish, whole_but};
use super::text::{clean, count, duration};
use crate::bus::Snapshot;
use crate::model::{Client, Device, DeviceCounts, Ended, Service};

/// From this width on the reasons why GPUs can be pulled have a column of their own.
const ROOMY: u16 = 120;

/// `dmasharectl status`.
#[must_use]
pub fn status(service: &Service, snapshot: &Snapshot, style: Style) -> String {
    let backend = match service.backend.as_str() {
        "none" => style.paint(Paint::Bad, "none: fences of removable devices cannot be shared"),
        "simulated" => style.paint(Paint::Warn, "simulated"),
        backend => clean(backend),
    };
    let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let heap = match service.heap.as_str() {
        "none" => style.paint(Paint::Warn, "none: no frame can be kept"),
        heap => clean(heap),
    };
    let neutral = match service.neutral_buffers {
        0 => String::new(),
        buffers => {
            let kib = service.neutral_bytes.div_ceil(1024);
            format!(", {}, {kib} KiB", count(buffers, "buffer", "buffers"))
        }
    };
    let mut out = format!(
        "{} {}\nguard fences by {backend}\nneutral buffers by {heap}{neutral}\n{}, {}\n",
        style.paint(Paint::Strong, "dmashared"),
        clean(&service.version),
        count(number(snapshot.devices.len()), "device", "devices"),
        count(service.clients, "client", "clients"),
    );
    if !snapshot.devices.is_empty() {
        out.push('\n');
        out += &short_devices(&snapshot.devices, style);
    }
    if !snapshot.clients.is_empty() {
        out.push('\n');
        out += &clients(&snapshot.clients, style);
    }
    if !service.inhibitors.is_empty() {
        out.push('\n');
    }
    for held in &service.inhibitors {
        let what = held.device.map_or("every eject".to_owned(), |id| format!("an eject of d{id}"));
        let how = if held.mode == "block" { "blocks" } else { "delays" };
        let who = or_dash(&held.who);
        out += &format!("{who} (pid {}) {how} {what}: {}\n", held.pid, clean(&held.why));
    }
    out
}

fn short_devices(devices: &[Device], style: Style) -> String {
    let mut table =
        style.table(["ID", "NAME", "DRIVER", "STATE", "BUFFERS", "IMPORTS", "FENCES", "TIMELINES"]);
    for device in devices {
        let counts = device.counts;
        table.add_row([
            format!("d{}", device.id),
            clean(&device.name),
            or_dash(&device.driver),
            state(device, style),
            counts.buffers.to_string(),
            counts.imports.to_string(),
            counts.fences.to_string(),
            counts.timelines.to_string(),
        ]);
    }
    numbers_right(&mut table, 4);
    whole_but(&mut table, &[]);
    finish(&table) + &notes(devices, style)
}

fn clients(clients: &[Client], style: Style) -> String {
    let mut table = style.table([
        "ID",
        "PID",
        "UID",
        "NAME",
        "UNIT",
        "ON LOSS",
        "BUFFERS",
        "IMPORTS",
        "FENCES",
        "TIMELINES",
    ]);
    for client in clients {
        let counts = client.counts;
        table.add_row([
            format!("c{}", client.id),
            client.pid.to_string(),
            client.uid.to_string(),
            or_dash(&client.name),
            or_dash(&client.unit),
            clean(&client.on_loss) + if client.survives_removal { ", survives" } else { "" },
            counts.buffers.to_string(),
            counts.imports.to_string(),
            counts.fences.to_string(),
            counts.timelines.to_string(),
        ]);
    }
    numbers_right(&mut table, 6);
    whole_but(&mut table, &[3, 4]);
    finish(&table)
}

/// `dmasharectl devices`.
#[must_use]
pub fn devices(devices: &[Device], style: Style) -> String {
    if devices.is_empty() {
        return "no GPUs: dmashared sees no DRM device (dmasharectl doctor says more)\n".to_owned();
    }
    let roomy = style.width.is_none_or(|width| width >= ROOMY);
    let mut table =
        style.table(["ID", "NAME", "DRIVER", "NODES", "STATE", "BUF/IMP/FEN/TL", "REMOVABLE"]);
    for device in devices {
        let DeviceCounts { buffers, imports, fences, timelines, .. } = device.counts;
        let nodes: Vec<String> = device.nodes.iter().map(|node| short_node(node)).collect();
        table.add_row([
            format!("d{}", device.id),
            clean(&device.name),
            or_dash(&device.driver),
            if nodes.is_empty() { "–".to_owned() } else { nodes.join("\n") },
            state(device, style),
            format!("{buffers}/{imports}/{fences}/{timelines}"),
            if roomy { removable(device) } else { yes_or_no(device.removable).to_owned() },
        ]);
    }
    whole_but(&mut table, if roomy { &[6] } else { &[] });
    let mut out = finish(&table);
    if !roomy {
        out.push('\n');
        for device in devices.iter().filter(|device| !device.removable_reason.is_empty()) {
            let can = if device.removable { "can" } else { "cannot" };
            let why = clean(&device.removable_reason);
            // Writing to a string cannot fail.
            _ = writeln!(out, "d{} {can} be pulled: {why}", device.id);
        }
    }
    out + &notes(devices, style)
}

fn short_node(node: &str) -> String {
    clean(node.strip_prefix("/dev/dri/").unwrap_or(node))
}

const fn yes_or_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

fn removable(device: &Device) -> String {
    let answer = yes_or_no(device.removable);
    if device.removable_reason.is_empty() {
        answer.to_owned()
    } else {
        format!("{answer}: {}", clean(&device.removable_reason))
    }
}

fn state(device: &Device, style: Style) -> String {
    let paint = match device.state.as_str() {
        "present" => Paint::Good,
        "draining" => Paint::Warn,
        _ => Paint::Bad,
    };
    style.paint(paint, &clean(&device.state))
}

/// `dmasharectl cause`, at a time of CLOCK_MONOTONIC.
#[must_use]
pub fn cause(ended: &Ended, now_ns: Option<u64>) -> String {
    let Ended { object, point, errno, at_ns, .. } = *ended;
    let point = if point == 0 { String::new() } else { format!(", point {point}") };
    // UnknownErrno is what another kernel's number is.
    let name = format!("{:?}", Errno::from_raw(errno));
    let ago = match now_ns.and_then(|now_ns| now_ns.checked_sub(at_ns)) {
        Some(ns) => format!(", {} ago", duration(ns)),
        None => String::new(),
    };
    format!("object {object}{point}: {} ({name}, errno {errno}){ago}\n", clean(&ended.cause))
}

/// What is to be known of devices that are lost or have hung, and where to read on.
fn notes(devices: &[Device], style: Style) -> String {
    let mut out = String::new();
    for device in devices.iter().filter(|device| device.cause.is_none()) {
        let Some(recovery) = &device.wedged else { continue };
        let id = device.id;
        // Writing to a string cannot fail.
        _ = match recovery.as_str() {
            "none" => writeln!(out, "d{id} hung, and its driver has recovered it"),
            recovery => {
                let hung = style.paint(Paint::Bad, "hung");
                writeln!(
                    out,
                    "d{id} {hung} (wedged); its driver names as recovery: {}, which is yours to do",
                    clean(recovery)
                )
            }
        };
    }
    for device in devices {
        let Some(cause) = &device.cause else { continue };
        let pending = match device.counts.implicit_fences {
            0 => String::new(),
            some => {
                let fences = count(some, "implicit fence", "implicit fences");
                style.paint(Paint::Bad, &format!(", {fences} still pending"))
            }
        };
        let (id, state) = (device.id, clean(&device.state));
        // Writing to a string cannot fail.
        _ = writeln!(out, "d{id} is {state} ({}){pending}: dmasharectl report d{id}", clean(cause));
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "–".to_owned() } else { clean(text) }
}

fn numbers_right(table: &mut Table, from: usize) {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

#[cfg(test)]
mod tests;
