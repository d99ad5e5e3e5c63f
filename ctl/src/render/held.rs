//! What a process holds, in words.

use dmashare_proto::holders::{ClientOf, Held, Holder, Role, What};

use super::text::{bytes, clean};

/// What is held, and how often.
#[must_use]
pub fn what(held: &Held) -> String {
    let (name, more) = match &held.what {
        What::Node { path, .. } => (short(path), memory(held)),
        What::DmaBuf { inode, size, exporter } => {
            let mut more = String::new();
            if *size > 0 {
                more += &format!(", {}", bytes(*size));
            }
            if !exporter.is_empty() {
                more += &format!(", of {}", clean(exporter));
            }
            (format!("dma-buf {inode}"), more)
        }
        What::SyncFile { drivers } => ("sync_file".to_owned(), pending(drivers)),
        What::Syncobj { drivers } => ("syncobj".to_owned(), pending(drivers)),
        What::Mapping { path, bytes: size } => {
            (format!("mapping of {}", short(path)), format!(", {}", bytes(*size)))
        }
        What::Character { path } => (clean(path), String::new()),
        What::Function { pci, path } => (clean(path), format!(", of {}", clean(pci))),
        What::Unknown => {
            ("something that this version of dmasharectl does not know".to_owned(), String::new())
        }
    };
    let is_mapping = matches!(held.what, What::Mapping { .. });
    let times = match if is_mapping { held.mappings } else { held.fds } {
        0 | 1 => String::new(),
        many => format!(" ×{many}"),
    };
    let mapped = match held.mappings {
        _ if is_mapping => String::new(),
        0 => String::new(),
        1 => ", mapped".to_owned(),
        many => format!(", mapped ×{many}"),
    };
    format!("{name}{times}{more}{mapped}")
}

/// Resident memory, where the driver tells of it.
fn memory(held: &Held) -> String {
    let What::Node { drm, .. } = &held.what else { return String::new() };
    match drm.iter().filter_map(|client| client.resident_kib).sum::<u64>() {
        0 => String::new(),
        kib => format!(", {} resident", bytes(kib.saturating_mul(1024))),
    }
}

fn pending(drivers: &[String]) -> String {
    if drivers.is_empty() {
        return String::new();
    }
    let drivers: Vec<String> = drivers.iter().map(|driver| clean(driver)).collect();
    format!(", pending fences of {}", drivers.join(", "))
}

fn short(node: &str) -> String {
    clean(node.strip_prefix("/dev/dri/").unwrap_or(node))
}

/// Why it is in an eject's way, and how it is known to be the device's.
#[must_use]
pub fn why(held: &Held) -> String {
    let parts = [
        clean(&held.active),
        if held.guess.is_empty() {
            String::new()
        } else {
            format!("a guess: {}", clean(&held.guess))
        },
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

/// `sway`, with what it is for its session where it is more than a program.
#[must_use]
pub fn command(holder: &Holder) -> String {
    let command = clean(&holder.command);
    match role(holder.role) {
        "" => command,
        role => format!("{command} ({role})"),
    }
}

/// In words; empty for a program.
#[must_use]
pub const fn role(role: Role) -> &'static str {
    match role {
        Role::Program => "",
        Role::Compositor => "compositor",
        Role::DisplayManager => "display manager",
        Role::Init => "init",
    }
}

/// A connection of a process to the broker, with what it declared.
#[must_use]
pub fn client(of: &ClientOf) -> String {
    let name = match of.name.as_str() {
        "" => String::new(),
        name => format!(" {}", clean(name)),
    };
    let survives = if of.survives { ", survives" } else { "" };
    format!("client c{}{name}: on loss {}{survives}", of.client, clean(&of.on_loss))
}

/// `sway (pid 812)`, for those who are in the way; more than `most` are counted.
#[must_use]
pub fn names(holders: &[Holder], most: usize) -> String {
    let active: Vec<&Holder> = holders.iter().filter(|holder| holder.is_active()).collect();
    let named = active.iter().take(most);
    let mut names: Vec<String> =
        named.map(|holder| format!("{} (pid {})", clean(&holder.command), holder.pid)).collect();
    if active.len() > most {
        names.push(format!("{} more", active.len() - most));
    }
    names.join(", ")
}
