//! `dmasharectl doctor`: what this machine offers, which guards are made of it, and what to do where
//! something is missing. It needs no running service, and changes nothing.

mod distro;
mod guards;
mod host;
mod kernel;
mod service;
mod show;

use serde::Serialize;

pub use host::{Host, NodeFacts, Offer, Try};
pub use service::ServiceState;
pub use show::show;

use crate::bus::Tried;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could; or it cannot be seen from here.
    Warning,
    /// Something is not there without which dmashare does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name, for programs.
    pub id: &'static str,
    /// How it is to be taken.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do; `null` where nothing needs to be done.
    #[serde(rename = "do")]
    pub todo: Option<String>,
}

impl Finding {
    fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Self { id, level: Level::Ok, what: what.into(), todo: None }
    }

    fn warning(id: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { id, level: Level::Warning, what: what.into(), todo: Some(todo.into()) }
    }

    fn missing(id: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { id, level: Level::Missing, what: what.into(), todo: Some(todo.into()) }
    }
}

/// Which guard backend is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// `sw_sync`, `vgem`, `simulated`, `none`; `unknown` where this user cannot tell.
    pub name: String,
    /// `service`: it says so itself. `expected`: it does not run, this is what it would find.
    pub from: &'static str,
    /// In a sentence.
    pub why: String,
    /// What the service tried, best first; empty where it does not run.
    pub tried: Vec<Tried>,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Whether nothing that is needed is missing.
    pub ok: bool,
    /// Which guards are made.
    pub backend: Backend,
    /// In the order in which they matter.
    pub findings: Vec<Finding>,
}

/// Looks at everything.
#[must_use]
pub fn diagnose(host: &Host<'_>, service: &ServiceState) -> Diagnosis {
    let (backend, mut findings) = guards::look(host, service);
    findings.insert(0, kernel::version(host));
    findings.extend(kernel::devices(host));
    findings.extend(kernel::neutral_memory(host));
    findings.extend(service::look(host, service));
    let ok = findings.iter().all(|finding| finding.level != Level::Missing);
    Diagnosis { ok, backend, findings }
}

#[cfg(test)]
mod tests;
