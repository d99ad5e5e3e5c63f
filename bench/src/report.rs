//! What came of a measurement: tables, the goals' figures, and curves.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::plot;

/// A table of figures.
#[derive(Serialize, Deserialize)]
pub struct Table {
    /// What it is about.
    pub title: String,
    /// What stands in each column but the first.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A row of a table.
#[derive(Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// One for each column.
    pub figures: Vec<f64>,
}

/// What a figure is to be.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// No more.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
}

/// A figure with its goal.
#[derive(Serialize, Deserialize)]
pub struct Finding {
    /// What was measured.
    pub what: String,
    /// What it was measured beside.
    pub beside: String,
    /// What came of it.
    pub figure: f64,
    /// What it is counted in.
    pub unit: String,
    /// What it is to be.
    pub goal: Goal,
}

impl Finding {
    /// A ratio within one run.
    pub fn times(what: &str, beside: &str, figure: f64, goal: Goal) -> Self {
        Self::new(what, beside, figure, "times", goal)
    }

    /// A figure in some unit.
    pub fn new(what: &str, beside: &str, figure: f64, unit: &str, goal: Goal) -> Self {
        let (what, beside, unit) = (what.to_owned(), beside.to_owned(), unit.to_owned());
        Self { what, beside, figure, unit, goal }
    }

    fn is_met(&self) -> bool {
        match self.goal {
            Goal::AtMost(most) => self.figure <= most,
            Goal::AtLeast(least) => self.figure >= least,
        }
    }
}

/// How an axis is divided.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// As far for each one more.
    Linear,
    /// As far for each ten times.
    Logarithmic,
}

/// Curves in one picture.
#[derive(Serialize, Deserialize)]
pub struct Plot {
    /// The picture's file.
    pub file: String,
    /// What it is about.
    pub title: String,
    /// What goes to the right.
    pub x: (String, Scale),
    /// What goes up.
    pub y: String,
    /// The curves.
    pub series: Vec<Series>,
}

/// A curve.
#[derive(Serialize, Deserialize)]
pub struct Series {
    /// Whose it is.
    pub name: String,
    /// From the left to the right.
    pub points: Vec<(f64, f64)>,
}

/// What one measurement gave.
#[derive(Default, Serialize, Deserialize)]
pub struct Section {
    /// Tables.
    pub tables: Vec<Table>,
    /// Figures that have a goal.
    pub findings: Vec<Finding>,
    /// Pictures.
    pub plots: Vec<Plot>,
    /// What must be known to read them.
    pub notes: Vec<String>,
}

/// What was measured on one machine.
#[derive(Serialize, Deserialize)]
pub struct Part {
    /// Which it was.
    pub machine: Machine,
    /// Whether with a tenth of the turns.
    pub quick: bool,
    /// In the order of the measurements.
    pub sections: Vec<Section>,
}

/// Writes it all into a folder: `results.md`, `results.json`, and the pictures.
pub fn write(parts: &[Part], folder: &Path) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    put("results.json", serde_json::to_string(parts)?)?;
    let text: String = parts.iter().map(|part| format!("{part}\n")).collect();
    put("results.md", text)?;
    for part in parts {
        let of = if part.machine.is_real() { "real-" } else { "" };
        for plot in part.sections.iter().flat_map(|section| &section.plots) {
            put(&format!("{of}{}", plot.file), plot::draw(plot)?)?;
        }
    }
    Ok(())
}

/// A figure with as many digits as mean anything.
struct Figure(f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.abs() < 100.0 { write!(f, "{:.2}", self.0) } else { write!(f, "{:.0}", self.0) }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        writeln!(f, "| | {} |", self.columns.join(" | "))?;
        writeln!(f, "| --- |{}", " ---: |".repeat(self.columns.len()))?;
        for Row { name, figures } in &self.rows {
            let figures: String = figures.iter().map(|it| format!(" {} |", Figure(*it))).collect();
            writeln!(f, "| {name} |{figures}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (goal, bound) = match self.goal {
            Goal::AtMost(most) => ("at most", most),
            Goal::AtLeast(least) => ("at least", least),
        };
        let met = if self.is_met() { "met" } else { "**missed**" };
        let Self { what, beside, figure, unit, .. } = self;
        let figure = Figure(*figure);
        write!(f, "| {what} | {beside} | {figure} {unit} | {goal} {bound} {unit} | {met} |")
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "{table}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turns = if self.quick { "; a tenth of the turns (`--quick`)" } else { "" };
        writeln!(f, "{}{turns}\n", self.machine)?;
        let findings = || self.sections.iter().flat_map(|section| &section.findings);
        if findings().next().is_some() {
            writeln!(f, "| what | beside | figure | goal | |\n| --- | --- | ---: | ---: | --- |")?;
            for finding in findings() {
                writeln!(f, "{finding}")?;
            }
            writeln!(f)?;
        }
        self.sections.iter().try_for_each(|section| write!(f, "{section}"))
    }
}
