//! Contestants in turns, and what came of it.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

/// Something that is measured: a name, and so many operations in one call.
pub struct Contestant<'a> {
    /// Its name.
    pub name: &'static str,
    /// Does the operation this often.
    pub run: Box<dyn FnMut(u32) + 'a>,
    /// Operations a turn.
    pub batch: u32,
}

/// Nanoseconds an operation.
#[derive(Serialize)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Of all turns, the one in the middle.
    pub median_ns: f64,
    /// One turn of a hundred took longer.
    pub p99_ns: f64,
    /// The median by the first row's.
    pub ratio: f64,
}

/// All rows; the first is what the others are held against.
#[derive(Serialize)]
pub struct Table {
    /// What it is about.
    pub title: &'static str,
    /// Turns of each.
    pub rounds: usize,
    /// The rows.
    pub rows: Vec<Row>,
}

/// One turn of each after the other, over and over.
pub fn take(title: &'static str, rounds: usize, all: Vec<Contestant<'_>>) -> Table {
    let timed = all.into_iter().map(|mut contestant| Timed {
        name: contestant.name,
        run: Box::new(move || {
            let start = Instant::now();
            (contestant.run)(contestant.batch);
            start.elapsed().as_nanos() as f64 / f64::from(contestant.batch)
        }),
    });
    take_timed(title, rounds, timed.collect())
}

/// Something that measures itself: there is something to be made ready before, or cleared away.
pub struct Timed<'a> {
    /// Its name.
    pub name: &'static str,
    /// Does the operation once; gives how long it took, in nanoseconds.
    pub run: Box<dyn FnMut() -> f64 + 'a>,
}

/// As [`take`].
pub fn take_timed(title: &'static str, rounds: usize, mut all: Vec<Timed<'_>>) -> Table {
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
    let mut rows = Vec::new();
    for (contestant, mut times) in all.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let (median_ns, p99_ns) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let first = rows.first().map_or(median_ns, |row: &Row| row.median_ns);
        rows.push(Row { name: contestant.name, median_ns, p99_ns, ratio: median_ns / first });
    }
    Table { title, rounds, rows }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({} turns of each, in one run)\n", self.title, self.rounds)?;
        writeln!(f, "| | median, ns | 99 %, ns | ratio |\n| --- | ---: | ---: | ---: |")?;
        for Row { name, median_ns, p99_ns, ratio } in &self.rows {
            writeln!(f, "| {name} | {median_ns:.2} | {p99_ns:.2} | {ratio:.2} |")?;
        }
        Ok(())
    }
}
