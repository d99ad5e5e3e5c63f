//! A diagnosis as text.

use super::{Diagnosis, Finding, Level};
use crate::bus::Tried;
use crate::render::text::{clean, wrapped};
use crate::render::{Paint, Style};

/// Renders it.
#[must_use]
pub fn show(diagnosis: &Diagnosis, style: Style) -> String {
    let mut out: String = diagnosis.findings.iter().map(|finding| one(finding, style)).collect();
    let tried = diagnosis.backend.tried.iter();
    if diagnosis.backend.from == "service" && !diagnosis.backend.tried.is_empty() {
        out += "\nWhat the service tried, best first:\n";
        for Tried { backend, ok, why } in tried {
            let answer = if *ok { "works" } else { "does not work" };
            let why = if why.is_empty() { String::new() } else { format!(": {}", clean(why)) };
            out += &indented(2, &format!("{} {answer}{why}", clean(backend)), style);
        }
    }
    let missing = diagnosis.findings.iter().filter(|found| found.level == Level::Missing).count();
    out.push('\n');
    out += &if missing == 0 {
        style.paint(Paint::Good, "Everything that dmashare needs is there.")
    } else {
        let things = if missing == 1 { "thing is" } else { "things are" };
        style.paint(Paint::Bad, &format!("{missing} {things} missing."))
    };
    out.push('\n');
    out
}

fn one(finding: &Finding, style: Style) -> String {
    let (word, paint) = match finding.level {
        Level::Ok => ("ok       ", Paint::Good),
        Level::Warning => ("warning  ", Paint::Warn),
        Level::Missing => ("missing  ", Paint::Bad),
    };
    let body = indented(22, &finding.what, style);
    let mut out = format!("{}{:<13}{}", style.paint(paint, word), finding.id, body.trim_start());
    if let Some(todo) = &finding.todo {
        let body = indented(24, todo, style);
        out += &format!("{:22}→ {}", "", body.trim_start());
    }
    out
}

/// `text`, each of its lines indented, the last one ended.
fn indented(by: usize, text: &str, style: Style) -> String {
    let width =
        style.width.map_or(usize::MAX, |width| usize::from(width).saturating_sub(by).max(20));
    wrapped(text, width).into_iter().map(|line| format!("{:by$}{line}\n", "")).collect()
}
