//! How an eject goes: on a terminal a line that is drawn anew, else a line for each step.

use std::io::{self, Write as _};

use unicode_width::UnicodeWidthStr as _;

use crate::job::Job;
use crate::render::text::{clean, fit};
use crate::render::{Paint, Style, stdout_redraws};

/// Where it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A line that is drawn anew.
    Drawn,
    /// A line for each step.
    Lines,
    /// Nowhere: a program reads what comes of it.
    Nothing,
}

/// What has been shown.
pub struct Progress {
    style: Style,
    form: Form,
    /// Steps that were written.
    steps: usize,
    /// When the first of them was.
    zero_ns: Option<u64>,
    /// The last sentence that was written.
    said: String,
    /// There is a line to be drawn over.
    on_line: bool,
}

impl Progress {
    /// For standard output.
    #[must_use]
    pub fn on_stdout(style: Style, json: bool) -> Self {
        let form = match (json, stdout_redraws()) {
            (true, _) => Form::Nothing,
            (false, true) => Form::Drawn,
            (false, false) => Form::Lines,
        };
        Self { style, form, steps: 0, zero_ns: None, said: String::new(), on_line: false }
    }

    pub(super) fn is_drawn(&self) -> bool {
        self.form == Form::Drawn
    }

    pub(super) fn job(&mut self, job: &Job, now_ns: u64) {
        match self.form {
            Form::Drawn if job.outcome.is_none() => {
                write(&format!("\r{}\x1b[K", line(job, now_ns, self.style)));
                self.on_line = true;
            }
            Form::Lines => {
                let lines = self.lines(job);
                write(&lines);
            }
            Form::Drawn | Form::Nothing => {}
        }
    }

    /// Something that the tool has to say meanwhile.
    pub(super) fn note(&mut self, text: &str) {
        if self.form != Form::Nothing {
            self.end();
            write(&format!("{}\n", fit(text, usize::MAX)));
        }
    }

    /// Takes the drawn line away.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.on_line) {
            write("\r\x1b[K");
        }
    }

    /// What was not written yet: steps, and what a removal says of itself, since it may take long.
    pub(super) fn lines(&mut self, job: &Job) -> String {
        let mut out = String::new();
        for step in job.steps.iter().skip(self.steps) {
            let zero_ns = *self.zero_ns.get_or_insert(step.at_ns);
            let tenths = step.at_ns.saturating_sub(zero_ns) / 100_000_000;
            let (stage, message) = (clean(&step.stage), clean(&step.message));
            out += &format!("{:>3}.{} s  {stage:<9}  {message}\n", tenths / 10, tenths % 10);
            self.said = message;
        }
        self.steps = self.steps.max(job.steps.len());
        let message = clean(&job.message);
        if job.stage == "removing" && message != self.said && !message.is_empty() {
            out += &format!("         removing   {message}\n");
            self.said = message;
        }
        out
    }
}

/// One line, no longer than the terminal is wide.
pub(super) fn line(job: &Job, now_ns: u64, style: Style) -> String {
    let columns = usize::from(style.width.unwrap_or(80)).saturating_sub(1);
    let stage = clean(&job.stage);
    let left = job.seconds_left(now_ns).map(|left| format!("  {left} s left")).unwrap_or_default();
    let mut head = format!("ejecting {}  ", job.shown_device());
    let fixed = stage.width() + 2 + left.width();
    if head.width() + fixed + job.message.width().min(20) > columns {
        head.clear();
    }
    let room = columns.saturating_sub(head.width() + fixed);
    let message = fit(&job.message, room);
    let (stage, left) = (style.paint(Paint::Strong, &stage), style.paint(Paint::Faint, &left));
    format!("{head}{stage}  {message}{left}")
}

/// Nobody is left to be shown anything where standard output is closed; the job goes on.
fn write(text: &str) {
    let mut out = io::stdout().lock();
    _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
