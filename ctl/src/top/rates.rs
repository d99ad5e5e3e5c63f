//! How fast things are made, and how long fences have been pending: what the service tells each second.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dmashare_proto::activity::Activity;

/// What a rate is taken over.
const OVER: Duration = Duration::from_secs(5);

/// What was told in the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates(BTreeMap<u64, VecDeque<(Duration, Activity)>>);

/// What was made a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) buffers: f64,
    pub(super) fences: f64,
}

impl Rates {
    pub(super) fn sample(&mut self, now: Duration, activity: &[Activity]) {
        self.0.retain(|id, _| activity.iter().any(|it| it.device == *id));
        for it in activity {
            let of = self.0.entry(it.device).or_default();
            of.push_back((now, *it));
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
        #[allow(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        Rate { buffers: rate(old.buffers, new.buffers), fences: rate(old.fences, new.fences) }
    }

    /// What was told last of a device.
    pub(super) fn last(&self, device: u64) -> Option<&Activity> {
        Some(&self.0.get(&device)?.back()?.1)
    }
}

/// `60.0`, `0.4`, `0`, `1440`, `12k`.
pub(super) fn shown(rate: f64) -> String {
    match rate {
        rate if rate < 0.05 => "0".to_owned(),
        rate if rate < 999.5 => format!("{rate:.1}"),
        rate if rate < 9_999.5 => format!("{rate:.0}"),
        rate => format!("{:.0}k", rate / 1000.0),
    }
}

/// How long the oldest pending fence has been: `<1ms`, `16ms`, `2.5s`, `3min`; `–` where none is.
pub(super) fn oldest(activity: Option<&Activity>) -> String {
    let ns = activity.map_or(0, |activity| activity.oldest_ns);
    match ns / 1_000_000 {
        _ if ns == 0 => "–".to_owned(),
        0 => "<1ms".to_owned(),
        ms @ 1..1_000 => format!("{ms}ms"),
        ms @ 1_000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        ms => format!("{}min", ms / 60_000),
    }
}

/// How many are pending, by age: `3 1 0 0 2`.
pub(super) fn ages(activity: Option<&Activity>) -> String {
    let ages = activity.map(|activity| activity.ages).unwrap_or_default();
    ages.map(|many| many.to_string()).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_in_words() {
        let of = |oldest_ns| oldest(Some(&Activity { oldest_ns, ..Activity::default() }));
        assert_eq!(oldest(None), "–");
        let told = [0, 1, 16_000_000, 2_560_000_000, 200_000_000_000].map(of);
        assert_eq!(told, ["–", "<1ms", "16ms", "2.5s", "3min"]);
        let told = [0.01, 59.97, 999.2, 1440.0, 12_345.0].map(shown);
        assert_eq!(told, ["0", "60.0", "999.2", "1440", "12k"]);
    }
}
