//! How fast counts change. The service tells how many there are, not how many there were; so what
//! comes and goes within a look is not in it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::model::{Device, DeviceCounts};

/// What a rate is taken over.
const OVER: Duration = Duration::from_secs(5);

/// The counts of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates(BTreeMap<u64, VecDeque<(Duration, DeviceCounts)>>);

/// Changes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) buffers: f64,
    pub(super) fences: f64,
}

impl Rates {
    pub(super) fn sample(&mut self, now: Duration, devices: &[Device]) {
        self.0.retain(|id, _| devices.iter().any(|device| device.id == *id));
        for device in devices {
            let of = self.0.entry(device.id).or_default();
            of.push_back((now, device.counts));
            while of.len() > 2 && of.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= OVER) {
                of.pop_front();
            }
        }
    }

    pub(super) fn of(&self, device: u64) -> Rate {
        let ends = self.0.get(&device).and_then(|of| Some((of.front()?, of.back()?)));
        let Some(((from, old), (to, new))) = ends else { return Rate::default() };
        let seconds = to.saturating_sub(*from).as_secs_f64();
        if seconds <= 0.0 {
            return Rate::default();
        }
        let rate = |old: u32, new: u32| (f64::from(new) - f64::from(old)) / seconds;
        Rate { buffers: rate(old.buffers, new.buffers), fences: rate(old.fences, new.fences) }
    }
}

/// `+2.0`, `−0.4`, `0`.
pub(super) fn shown(rate: f64) -> String {
    match rate {
        rate if rate.abs() < 0.05 => "0".to_owned(),
        rate if rate < 0.0 => format!("−{:.1}", -rate),
        rate => format!("+{rate:.1}"),
    }
}
