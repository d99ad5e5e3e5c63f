//! The shapes of `--json`. They are documented in `JSON.md` beside this crate and only ever grow.

use dmashare_proto::message::Cause;
use dmashare_proto::report::{Step, UnplugReport};
use dmashare_proto::usage::Usage;
use serde::Serialize;
use serde_json::{Value, json};

use crate::bus::Snapshot;
use crate::doctor::Diagnosis;
use crate::metrics::Metrics;
use crate::model::{Device, Ended, Service};

/// `status --json`.
#[must_use]
pub fn status(service: &Service, snapshot: &Snapshot) -> Value {
    json!({ "service": service, "devices": snapshot.devices, "clients": snapshot.clients })
}

/// `devices --json`.
#[must_use]
pub fn devices(devices: &[Device]) -> Value {
    json!({ "devices": devices })
}

/// `report --json`.
#[must_use]
pub fn reports(reports: &[&UnplugReport]) -> Value {
    let reports: Vec<Report<'_>> = reports.iter().map(|report| Report::of(report)).collect();
    json!({ "reports": reports })
}

/// `cause --json`.
#[must_use]
pub fn cause(ended: &Ended) -> Value {
    json!(ended)
}

/// `quotas --json`.
#[must_use]
pub fn usage(usage: &Usage) -> Value {
    json!(usage)
}

/// `metrics --json`.
#[must_use]
pub fn metrics(metrics: &Metrics) -> Value {
    json!(metrics)
}

/// `doctor --json`.
#[must_use]
pub fn doctor(diagnosis: &Diagnosis) -> Value {
    json!(diagnosis)
}

#[derive(Serialize)]
struct Report<'a> {
    device: u64,
    name: &'a str,
    driver: &'a str,
    cause: &'static str,
    errno: i32,
    unix_time: u64,
    steps: Vec<StepAt>,
    guards: u32,
    passed: u32,
    buffers: u32,
    imports: u32,
    client: Option<u64>,
    clients: Clients,
    implicit_fences: Vec<Implicit<'a>>,
    overdue: Vec<Overdue<'a>>,
}

#[derive(Serialize)]
struct StepAt {
    step: Step,
    us: f64,
}

#[derive(Serialize)]
struct Clients {
    told: u32,
    awaited: u32,
}

#[derive(Serialize)]
struct Implicit<'a> {
    buffer: u64,
    driver: &'a str,
    timeline: &'a str,
    seen_us: f64,
    ended_us: Option<f64>,
}

#[derive(Serialize)]
struct Overdue<'a> {
    pid: i32,
    name: &'a str,
    unit: &'a str,
    action: &'a str,
    holds: &'a [String],
}

impl<'a> Report<'a> {
    fn of(report: &'a UnplugReport) -> Self {
        let us = |at_ns| since(report, at_ns);
        let cause: Cause = report.cause;
        Self {
            device: report.device.0,
            name: &report.name,
            driver: &report.driver,
            cause: cause.name(),
            errno: cause.errno(),
            unix_time: report.wall_clock_s,
            steps: report
                .marks
                .iter()
                .map(|mark| StepAt { step: mark.step, us: us(mark.at_ns) })
                .collect(),
            guards: report.guards,
            passed: report.passed,
            buffers: report.buffers,
            imports: report.imports,
            client: report.rehearsed_for.map(|only| only.client.0),
            clients: Clients { told: report.told, awaited: report.awaited },
            implicit_fences: report
                .implicit
                .iter()
                .map(|fence| Implicit {
                    buffer: fence.buffer.0,
                    driver: &fence.driver,
                    timeline: &fence.timeline,
                    seen_us: us(fence.seen_ns),
                    ended_us: fence.ended_ns.map(us),
                })
                .collect(),
            overdue: report
                .overdue
                .iter()
                .map(|client| Overdue {
                    pid: client.pid,
                    name: &client.name,
                    unit: &client.unit,
                    action: &client.action,
                    holds: &client.holds,
                })
                .collect(),
        }
    }
}

/// Microseconds from the kernel's event to a moment, negative before it.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53 nanoseconds apart")]
pub(crate) fn since(report: &UnplugReport, at_ns: u64) -> f64 {
    let zero = report.at(Step::Uevent).unwrap_or(at_ns);
    if at_ns >= zero { (at_ns - zero) as f64 / 1e3 } else { -((zero - at_ns) as f64) / 1e3 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample::report;

    #[test]
    fn a_report_keeps_its_shape() {
        let report = report();
        let value = reports(&[&report]);
        let expected = json!({ "reports": [{
            "device": 2,
            "name": "0000:01:00.0",
            "driver": "virtio_gpu",
            "cause": "unplugged",
            "errno": 19,
            "unix_time": 1_767_323_045,
            "steps": [
                { "step": "uevent", "us": 0.0 },
                { "step": "gate-closed", "us": 21.4 },
                { "step": "guards-signalled", "us": 84.0 },
                { "step": "clients-told", "us": 140.9 },
                { "step": "fds-dropped", "us": 301.0 },
                { "step": "acknowledged", "us": 2104.0 },
                { "step": "gone", "us": 2110.0 },
                { "step": "parent-removed", "us": 61204.0 },
            ],
            "guards": 7,
            "passed": 1,
            "buffers": 3,
            "imports": 2,
            "client": null,
            "clients": { "told": 2, "awaited": 2 },
            "implicit_fences": [{
                "buffer": 11, "driver": "vgem", "timeline": "unbound",
                "seen_us": 290.0, "ended_us": null,
            }],
            "overdue": [{
                "pid": 4711, "name": "slowpoke", "unit": "app-slow.scope", "action": "disconnect",
                "holds": ["dma-buf 8 MiB (fd 12)", "mapping of it"],
            }],
        }]});
        assert_eq!(value, expected);
    }
}
