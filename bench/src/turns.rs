//! Contestants in turns, and what came of it.

use std::time::Instant;

use crate::report::{Plot, Row, Scale, Series, Table};

/// Something that is measured: a name, and so many operations in one call.
pub struct Contestant<'a> {
    /// Its name.
    pub name: &'static str,
    /// Does the operation this often.
    pub run: Box<dyn FnMut(u32) + 'a>,
    /// Operations a turn.
    pub batch: u32,
}

/// Something that measures itself: there is something to be made ready before, or cleared away.
pub struct Timed<'a> {
    /// Its name.
    pub name: &'static str,
    /// Does the operation once; gives how long it took, in nanoseconds.
    pub run: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> From<Contestant<'a>> for Timed<'a> {
    fn from(mut contestant: Contestant<'a>) -> Self {
        let run = move || {
            let start = Instant::now();
            (contestant.run)(contestant.batch);
            start.elapsed().as_nanos() as f64 / f64::from(contestant.batch)
        };
        Self { name: contestant.name, run: Box::new(run) }
    }
}

/// Nanoseconds an operation, of each turn, from the shortest on.
pub struct Times {
    title: String,
    /// Turns of each.
    rounds: usize,
    all: Vec<(&'static str, Vec<f64>)>,
}

/// One turn of each after the other, over and over.
pub fn take(title: impl Into<String>, rounds: usize, all: Vec<Contestant<'_>>) -> Times {
    take_timed(title, rounds, all.into_iter().map(Timed::from).collect())
}

/// As [`take`].
pub fn take_timed(title: impl Into<String>, rounds: usize, mut all: Vec<Timed<'_>>) -> Times {
    let mut times = vec![Vec::with_capacity(rounds); all.len()];
    // One round that is not counted: caches, and pages.
    for round in 0..=rounds {
        for (contestant, times) in all.iter_mut().zip(&mut times) {
            let each = (contestant.run)();
            if round > 0 {
                times.push(each);
            }
        }
    }
    let names = all.into_iter().map(|contestant| contestant.name);
    Times::new(title, names.zip(times).collect())
}

impl Times {
    /// Of measurements that were taken elsewhere, as many of each.
    pub fn new(title: impl Into<String>, mut all: Vec<(&'static str, Vec<f64>)>) -> Self {
        for (_, times) in &mut all {
            times.sort_by(f64::total_cmp);
        }
        Self { title: title.into(), rounds: all.first().map_or(0, |first| first.1.len()), all }
    }

    /// Of all turns of one, the one in the middle.
    pub fn median(&self, contestant: usize) -> f64 {
        let times = &self.all[contestant].1;
        times[times.len() / 2]
    }

    /// One turn of a hundred took longer.
    pub fn p99(&self, contestant: usize) -> f64 {
        let times = &self.all[contestant].1;
        times[times.len() * 99 / 100]
    }

    /// The median of one by that of another.
    pub fn ratio(&self, of: usize, by: usize) -> f64 {
        self.median(of) / self.median(by)
    }

    /// The 99th percentile of one by that of another.
    pub fn p99_ratio(&self, of: usize, by: usize) -> f64 {
        self.p99(of) / self.p99(by)
    }

    /// Each beside the first.
    pub fn table(&self) -> Table {
        let row = |at: usize| Row {
            name: self.all[at].0.to_owned(),
            figures: vec![self.median(at), self.p99(at), self.ratio(at, 0), self.p99_ratio(at, 0)],
        };
        Table {
            title: format!("{} ({} turns of each, in one run)", self.title, self.rounds),
            columns: ["median, ns", "99 %, ns", "ratio", "ratio of 99 %"].map(str::to_owned).into(),
            rows: (0..self.all.len()).map(row).collect(),
        }
    }

    /// Which part of the turns took at most how long.
    pub fn plot(&self, file: &str) -> Plot {
        let series = |(name, times): &(&'static str, Vec<f64>)| Series {
            name: (*name).to_owned(),
            points: (times.iter().enumerate())
                .map(|(place, ns)| (ns / 1000.0, (place + 1) as f64 / times.len() as f64 * 100.0))
                .collect(),
        };
        Plot {
            file: file.to_owned(),
            title: self.title.clone(),
            x: ("microseconds".to_owned(), Scale::Logarithmic),
            y: "turns that took at most so long, %".to_owned(),
            series: self.all.iter().map(series).collect(),
        }
    }
}
