//! Who may see what. Everybody on the bus may look at all objects, and sees of other users' clients, ejects
//! and inhibitors that they are there: not what they are called, which processes they are, or what they
//! have. Everybody sees their own, and root sees all.
//!
//! A property's value can depend on who asks for it; a signal's cannot. So such a property changes by being
//! invalidated, and comes with an object's appearance as for somebody who sees nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dmashare_proto::report::UnplugReport;
use serde_json::Value;
use zbus::Connection;
use zbus::message::Header;

use super::broker::credentials;

/// Callers whose user is remembered.
const MOST: usize = 1024;

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eyes {
    /// Everybody: a signal; or somebody whom the bus does not tell.
    Anybody,
    /// A user.
    User(u32),
}

impl Eyes {
    /// Whether they see what a user has.
    pub(super) fn see(self, owner: u32) -> bool {
        matches!(self, Self::User(uid) if uid == owner || uid == 0)
    }

    fn are_roots(self) -> bool {
        self == Self::User(0)
    }
}

/// The users of connections to the bus, each asked for once: a bus gives out no name twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Viewers(Arc<Mutex<HashMap<(String, String), u32>>>);

impl Viewers {
    /// Who sent a message; nobody, if it is none.
    pub(super) async fn eyes(&self, bus: &Connection, header: Option<&Header<'_>>) -> Eyes {
        let Some(header) = header else { return Eyes::Anybody };
        let Some(sender) = header.sender() else { return Eyes::Anybody };
        let key = (bus.server_guid().to_string(), sender.to_string());
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(uid) = known {
            return Eyes::User(uid);
        }
        let caller = credentials(bus, header).await;
        let Some(uid) = caller.ok().and_then(|caller| caller.unix_user_id()) else {
            return Eyes::Anybody;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, uid);
        Eyes::User(uid)
    }
}

/// Unplug reports (an array of them, one, or nothing): of other users' late clients stays that there were
/// such, and what was done with them; and no buffer is named.
pub(super) fn reports(json: &str, eyes: Eyes) -> String {
    if eyes.are_roots() || json.is_empty() {
        return json.to_owned();
    }
    if let Ok(mut reports) = serde_json::from_str::<Vec<UnplugReport>>(json) {
        reports.iter_mut().for_each(|report| cut(report, eyes));
        return serde_json::to_string(&reports).unwrap_or_default();
    }
    match serde_json::from_str::<UnplugReport>(json) {
        Ok(mut report) => {
            cut(&mut report, eyes);
            serde_json::to_string(&report).unwrap_or_default()
        }
        Err(_) => String::new(),
    }
}

fn cut(report: &mut UnplugReport, eyes: Eyes) {
    for late in report.overdue.iter_mut().filter(|late| !eyes.see(late.uid)) {
        late.pid = 0;
        late.name.clear();
        late.unit.clear();
        late.holds.clear();
    }
    for fence in &mut report.implicit {
        fence.buffer.0 = 0;
    }
}

/// A job's steps without their sentences, which name processes.
pub(super) fn steps_alone(json: &str) -> String {
    let Ok(mut steps) = serde_json::from_str::<Vec<Value>>(json) else { return String::new() };
    for step in &mut steps {
        step["message"] = "".into();
    }
    serde_json::to_string(&steps).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sees_their_own_and_root_all() {
        assert!(Eyes::User(7).see(7) && Eyes::User(0).see(7));
        assert!(!Eyes::User(7).see(8) && !Eyes::User(7).see(0) && !Eyes::Anybody.see(0));
    }

    #[test]
    fn a_report_without_names() {
        let late = |uid| {
            serde_json::json!({"pid": 40 + uid, "uid": uid, "name": format!("n{uid}"), "unit": "u",
                "holds": ["fd 3"], "action": "kill"})
        };
        let report = serde_json::json!({
            "device": 1, "name": "d", "driver": "v", "cause": "unplugged", "wall_clock_s": 1,
            "marks": [], "guards": 0, "passed": 0, "buffers": 1, "imports": 1, "told": 1,
            "awaited": 1, "overdue": [late(7), late(8)],
            "implicit": [{"buffer": 99, "driver": "v", "timeline": "t", "seen_ns": 1,
                "ended_ns": null}],
        });
        for json in [report.to_string(), format!("[{report}]")] {
            let seen = reports(&json, Eyes::User(7));
            assert!(seen.contains("n7") && !seen.contains("n8"), "{seen}");
            assert!(!seen.contains("48") && !seen.contains("99"), "{seen}");
            assert_eq!(seen.matches("kill").count(), 2, "{seen}");
            assert!(!reports(&json, Eyes::Anybody).contains("n7"));
            assert_eq!(reports(&json, Eyes::User(0)), json);
        }
        assert_eq!(reports("[]", Eyes::Anybody), "[]");
        assert_eq!(reports("", Eyes::Anybody), "");
    }
}
