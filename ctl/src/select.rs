//! Which device a name on the command line means: its PCI address (also without the domain), its
//! name, one of its nodes (`/dev/dri/card1`, `card1`), or `d` and its id.

use dmashare_proto::report::UnplugReport;

use crate::failure::Failure;
use crate::model::Device;
use crate::render::text::clean;

/// A device that can be named: one that is there, or one that only a report tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    id: u64,
    name: String,
    others: Vec<String>,
}

impl Candidate {
    fn of_device(device: &Device) -> Self {
        let mut others = device.nodes.clone();
        others.push(device.pci.clone());
        Self { id: device.id, name: device.name.clone(), others }
    }

    fn of_report(report: &UnplugReport) -> Self {
        Self { id: report.device.0, name: report.name.clone(), others: Vec::new() }
    }

    fn is(&self, wanted: &str) -> bool {
        let id = format!("d{}", self.id);
        let mut names = self.others.iter().chain([&self.name, &id]);
        !wanted.is_empty()
            && names.any(|name| {
                name.eq_ignore_ascii_case(wanted)
                    || name.strip_prefix("/dev/dri/") == Some(wanted)
                    || wanted.contains(':') && is_address_without_domain(name, wanted)
            })
    }

    fn shown(&self) -> String {
        format!("d{} ({})", self.id, clean(&self.name))
    }
}

fn is_address_without_domain(name: &str, wanted: &str) -> bool {
    name.split_once(':').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(wanted))
}

/// The reports of the device that `wanted` names, in their order. Reports of cards that were in the
/// same place are all meant by its address; a node is one card's.
///
/// # Errors
/// No device has the name, or several that are not in one place.
pub fn reports_of<'a>(
    wanted: &str,
    devices: &[Device],
    reports: &'a [UnplugReport],
) -> Result<Vec<&'a UnplugReport>, Failure> {
    let mut all: Vec<Candidate> = devices.iter().map(Candidate::of_device).collect();
    for candidate in reports.iter().map(Candidate::of_report) {
        if all.iter().all(|known| known.id != candidate.id) {
            all.push(candidate);
        }
    }
    all.sort_by_key(|candidate| candidate.id);
    let fits: Vec<&Candidate> = all.iter().filter(|candidate| candidate.is(wanted)).collect();
    let shown = |candidates: &[&Candidate]| candidates.iter().map(|c| c.shown()).collect();
    let Some(first) = fits.first() else {
        return Err(Failure::NoDevice {
            name: clean(wanted),
            known: shown(&all.iter().collect::<Vec<_>>()),
        });
    };
    if fits.iter().any(|candidate| candidate.name != first.name) {
        return Err(Failure::Ambiguous { name: clean(wanted), fits: shown(&fits) });
    }
    let meant = |report: &&UnplugReport| fits.iter().any(|fit| fit.id == report.device.0);
    Ok(reports.iter().filter(meant).collect())
}

/// The device that `wanted` names. Of several in one place the one that is there.
///
/// # Errors
/// No device has the name, or several that are there.
pub fn device<'a>(wanted: &str, devices: &'a [Device]) -> Result<&'a Device, Failure> {
    let shown = |devices: &[&Device]| {
        devices.iter().map(|device| Candidate::of_device(device).shown()).collect()
    };
    let mut fits: Vec<&Device> =
        devices.iter().filter(|device| Candidate::of_device(device).is(wanted)).collect();
    if fits.iter().any(|device| device.cause.is_none()) {
        fits.retain(|device| device.cause.is_none());
    }
    match (fits.as_slice(), fits.last()) {
        (_, None) => Err(Failure::NoDevice {
            name: clean(wanted),
            known: shown(&devices.iter().collect::<Vec<_>>()),
        }),
        ([first, others @ ..], Some(newest)) => {
            if others.iter().any(|device| device.name != first.name) {
                return Err(Failure::Ambiguous { name: clean(wanted), fits: shown(&fits) });
            }
            Ok(newest)
        }
        ([], Some(newest)) => Ok(newest),
    }
}

#[cfg(test)]
mod tests {
    use dmashare_proto::DeviceId;

    use super::*;
    use crate::render::sample::report;

    fn device(id: u64, name: &str, node: &str) -> Device {
        Device {
            id,
            name: name.to_owned(),
            pci: name.to_owned(),
            nodes: vec![format!("/dev/dri/{node}")],
            ..Device::default()
        }
    }

    fn report_of(id: u64, name: &str) -> UnplugReport {
        UnplugReport { device: DeviceId(id), name: name.to_owned(), ..report() }
    }

    fn ids(wanted: &str) -> Result<Vec<u64>, Failure> {
        let devices = [
            device(1, "0000:0a:00.0", "card0"),
            device(3, "0001:0a:00.0", "card1"),
            device(4, "0000:0b:00.0", "card2"),
        ];
        let reports = [report_of(2, "0000:0b:00.0"), report_of(3, "0001:0a:00.0")];
        let found = reports_of(wanted, &devices, &reports)?;
        Ok(found.into_iter().map(|report| report.device.0).collect())
    }

    #[test]
    fn every_way_to_name_a_device() {
        for name in ["d3", "D3", "0001:0a:00.0", "0001:0A:00.0", "/dev/dri/card1", "card1"] {
            assert_eq!(ids(name).unwrap(), [3], "{name}");
        }
        assert_eq!(ids("0b:00.0").unwrap(), [2], "a card that was there, and one that is");
        assert!(ids("d1").unwrap().is_empty(), "never unplugged");
    }

    #[test]
    fn of_devices_in_one_place_the_one_that_is_there_is_meant() {
        let lost =
            Device { cause: Some("rehearsed".to_owned()), ..device(1, "0000:0a:00.0", "card0") };
        let devices =
            [lost, device(2, "0000:0a:00.0", "card0"), device(3, "0001:0a:00.0", "card1")];
        let id = |wanted: &str| super::device(wanted, &devices).map(|device| device.id);
        assert_eq!(id("0000:0a:00.0").unwrap(), 2);
        assert_eq!((id("card1").unwrap(), id("d1").unwrap()), (3, 1));
        assert_eq!(id("0a:00.0").unwrap_err().code(), 4);
        assert_eq!(id("d9").unwrap_err().code(), 4);
    }

    #[test]
    fn unknown_and_ambiguous_names_are_told_with_those_that_are_there() {
        let error = ids("0a:00.0").unwrap_err();
        assert_eq!(error.code(), 4);
        let text = error.to_string();
        assert!(text.contains("d1 (0000:0a:00.0), d3 (0001:0a:00.0)"), "{text}");
        for unknown in ["", "d9", ":", "card", "0000", "x\x1b[31m"] {
            let error = ids(unknown).unwrap_err();
            assert_eq!(error.code(), 4);
            assert!(error.to_string().contains("d4 (0000:0b:00.0)"), "{error}");
            assert!(!error.to_string().contains('\x1b'));
        }
    }
}
