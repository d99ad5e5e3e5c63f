//! What monitoring takes in: the service's counters, and what it has now, in the text format of Prometheus
//! (exposition format 0.0.4), which node_exporter's textfile collector reads.

use std::collections::BTreeMap;
use std::fmt;

use dmashare_proto::stats::Counter;
use serde::Serialize;

use crate::model::{Device, Service};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    counters: BTreeMap<String, u64>,
    gauges: Vec<Gauge>,
}

/// What there is now. Those of one name stand together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Gauge {
    name: &'static str,
    #[serde(skip)]
    says: &'static str,
    labels: BTreeMap<&'static str, String>,
    value: u64,
}

const UP: (&str, &str) = ("up", "1 while the service runs; it is not started to be asked.");

type OfDevice = fn(&Device) -> u64;

/// What is said of each device.
const OF_DEVICE: [(&str, &str, OfDevice); 5] = [
    (
        "device_present",
        "1 for a GPU that is there, 0 for a lost one that somebody holds.",
        |device| u64::from(device.state == "present" || device.state == "draining"),
    ),
    ("device_buffers", "Buffers that are shared of the GPU.", |device| {
        device.counts.buffers.into()
    }),
    ("device_imports", "Imports of them.", |device| device.counts.imports.into()),
    ("device_fences", "Pending fences of the GPU.", |device| device.counts.fences.into()),
    ("device_timelines", "Timelines of the GPU.", |device| device.counts.timelines.into()),
];

impl Metrics {
    /// Of a service that does not run: it starts with the first client.
    #[must_use]
    pub fn of_none() -> Self {
        let (name, says) = UP;
        let up = Gauge { name, says, ..Gauge::default() };
        Self { counters: BTreeMap::new(), gauges: vec![up] }
    }

    /// Of what the service tells.
    #[must_use]
    pub fn of(service: &Service, devices: &[Device], counters: BTreeMap<String, u64>) -> Self {
        let one = |name, says, value| Gauge { name, says, labels: BTreeMap::new(), value };
        let version = ("version", service.version.clone());
        let backend = ("backend", service.backend.clone());
        let mut gauges = vec![
            one(UP.0, UP.1, 1),
            Gauge {
                labels: [version, backend].into(),
                ..one("info", "The service's version, and what its guard fences are made of.", 1)
            },
            one("clients", "Connections of clients.", service.clients.into()),
            one(
                "neutral_buffers",
                "Buffers that belong to no GPU.",
                service.neutral_buffers.into(),
            ),
            one("neutral_bytes", "Their bytes.", service.neutral_bytes),
        ];
        for (name, says, value) in OF_DEVICE {
            gauges.extend(devices.iter().map(|device| {
                Gauge {
                    labels: [
                        ("device", device.name.clone()),
                        ("driver", device.driver.clone()),
                        ("id", device.id.to_string()),
                    ]
                    .into(),
                    ..one(name, says, value(device))
                }
            }));
        }
        Self { counters, gauges }
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.counters {
            // One that a newer service has comes without its meaning.
            if let Some(known) = Counter::ALL.iter().find(|known| known.name() == name) {
                writeln!(f, "# HELP dmashare_{name}_total {}", known.says())?;
            }
            writeln!(f, "# TYPE dmashare_{name}_total counter")?;
            writeln!(f, "dmashare_{name}_total {value}")?;
        }
        let mut last = "";
        for Gauge { name, says, labels, value } in &self.gauges {
            if *name != last {
                writeln!(f, "# HELP dmashare_{name} {says}")?;
                writeln!(f, "# TYPE dmashare_{name} gauge")?;
                last = name;
            }
            write!(f, "dmashare_{name}")?;
            for (at, (label, of)) in labels.iter().enumerate() {
                write!(f, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(of))?;
            }
            writeln!(f, "{} {value}", if labels.is_empty() { "" } else { "}" })?;
        }
        Ok(())
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceCounts;

    fn metrics() -> Metrics {
        let service = Service {
            version: "0.1.0".to_owned(),
            backend: "vgem".to_owned(),
            clients: 2,
            ..Service::default()
        };
        let device = |id, name: &str, state: &str| Device {
            id,
            name: name.to_owned(),
            driver: "amdgpu".to_owned(),
            state: state.to_owned(),
            counts: DeviceCounts { buffers: 3, imports: 4, ..DeviceCounts::default() },
            ..Device::default()
        };
        let devices = [device(1, "0000:03:00.0", "present"), device(2, "od\\d \"one\"", "lost")];
        let counters = [("buffers_exported", 7), ("from_the_future", 1)];
        let counters = counters.map(|(name, value)| (name.to_owned(), value)).into();
        Metrics::of(&service, &devices, counters)
    }

    #[test]
    fn the_text_is_prometheus() {
        let text = metrics().to_string();
        for line in [
            "# HELP dmashare_buffers_exported_total Buffers that clients exported.",
            "# TYPE dmashare_buffers_exported_total counter",
            "dmashare_buffers_exported_total 7",
            "dmashare_from_the_future_total 1",
            "# TYPE dmashare_clients gauge",
            "dmashare_clients 2",
            "dmashare_info{backend=\"vgem\",version=\"0.1.0\"} 1",
            "dmashare_device_present{device=\"0000:03:00.0\",driver=\"amdgpu\",id=\"1\"} 1",
            "dmashare_device_present{device=\"od\\\\d \\\"one\\\"\",driver=\"amdgpu\",id=\"2\"} 0",
            "dmashare_device_imports{device=\"0000:03:00.0\",driver=\"amdgpu\",id=\"1\"} 4",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        // Each name has one TYPE, before its values.
        let mut typed = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, _) = rest.split_once(' ').unwrap();
                assert!(!typed.contains(&name), "{name} twice");
                typed.push(name);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(typed.last(), Some(&name));
            }
        }
    }

    #[test]
    fn a_service_that_does_not_run_is_not_up() {
        let text = Metrics::of_none().to_string();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines, ["# TYPE dmashare_up gauge", "dmashare_up 0"]);
        assert!(metrics().to_string().contains("\ndmashare_up 1\n"));
    }

    #[test]
    fn json_has_the_same_names() {
        let json = serde_json::json!(metrics());
        assert_eq!(json["counters"]["buffers_exported"], 7);
        assert_eq!(json["gauges"][2]["name"], "clients");
        assert_eq!(json["gauges"][2]["value"], 2);
    }
}
