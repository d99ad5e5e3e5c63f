//! What is said of those who are in an eject's way.

use dmashare_proto::holders::{Holder, What};

use crate::view::InhibitorView;

/// Names that a sentence has; of more it says how many.
const MOST: usize = 4;

/// A holder that lets go by itself, as it said: what it has is taken from it by the loss.
pub(super) fn yields(holder: &Holder) -> bool {
    !holder.clients.is_empty()
        && holder.clients.iter().all(|client| client.survives || client.on_loss != "wait")
}

/// `sway (pid 512, user anna, unit session-2.scope)`
pub(super) fn named(holder: &Holder) -> String {
    let Holder { command, pid, user, unit, .. } = holder;
    let unit = if unit.is_empty() { String::new() } else { format!(", unit {unit}") };
    format!("{command} (pid {pid}, user {user}{unit})")
}

pub(super) fn all_named(holders: &[&Holder]) -> String {
    let names: Vec<String> = holders.iter().take(MOST).map(|holder| named(holder)).collect();
    let more = holders.len().saturating_sub(MOST);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &tail
}

/// Who holds it with what, and what stands in the way besides.
pub(super) fn held(holders: &[&Holder], other: Option<&str>) -> String {
    let mut parts: Vec<String> = holders
        .iter()
        .take(MOST)
        .map(|holder| {
            let active = holder.holds.iter().filter(|held| !held.active.is_empty());
            let mut what: Vec<String> =
                active.map(|held| format!("{}: {}", thing(&held.what), held.active)).collect();
            what.dedup();
            what.truncate(MOST);
            format!("{} holds it by {}", named(holder), what.join(", "))
        })
        .collect();
    if holders.len() > MOST {
        parts.push(format!("{} more hold it", holders.len() - MOST));
    }
    parts.extend(other.map(str::to_owned));
    parts.join("; ")
}

fn thing(what: &What) -> String {
    match what {
        What::Node { path, .. } | What::Character { path } | What::Function { path, .. } => {
            path.clone()
        }
        What::DmaBuf { inode, .. } => format!("dma-buf {inode}"),
        What::SyncFile { .. } => "a sync_file".to_owned(),
        What::Syncobj { .. } => "a syncobj".to_owned(),
        What::Mapping { path, .. } => format!("a mapping of {path}"),
        What::Unknown => "something else".to_owned(),
    }
}

/// `recorder (pid 71)`
pub(super) fn inhibitor(held: &InhibitorView) -> String {
    let who = if held.who.is_empty() { "a program" } else { &held.who };
    format!("{who} (pid {})", held.pid)
}

/// `, in dma_fence_default_wait (called by …)`
pub(super) fn place(stack: &[String]) -> String {
    match stack {
        [] => String::new(),
        [function] => format!(", in {function}"),
        [function, callers @ ..] => {
            let callers: Vec<&str> = callers.iter().take(MOST).map(String::as_str).collect();
            format!(", in {function} (called by {})", callers.join(", "))
        }
    }
}
