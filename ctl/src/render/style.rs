//! How text is shown: with colour or without, and how wide.

use std::io::IsTerminal as _;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

/// What a word means; a terminal may show it by a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// As it should be.
    Good,
    /// To be looked at.
    Warn,
    /// Broken or lost.
    Bad,
    /// A heading.
    Strong,
    /// Beside the point.
    Faint,
}

/// How text is shown. The default is plain text as wide as it needs to be, for files and pipes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether escape sequences for colour are written.
    pub colour: bool,
    /// Columns to fit into.
    pub width: Option<u16>,
}

impl Style {
    /// What the standard output can show; `NO_COLOR` and a dumb terminal get no colour.
    #[must_use]
    pub fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: stdout_redraws() && !no_colour,
            // A terminal without a size (a serial line, a recorder) wraps by itself.
            width: Table::new().width().filter(|width| terminal && *width >= 40),
        }
    }

    /// `text` in the colour of its meaning.
    #[must_use]
    pub fn paint(self, paint: Paint, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Warn => "33",
            Paint::Bad => "31;1",
            Paint::Strong => "1",
            Paint::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// An empty table without frames, as the system's other tools draw them.
    pub(crate) fn table<const N: usize>(self, headings: [&str; N]) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_header(headings.map(|heading| self.paint(Paint::Strong, heading)));
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width)
            }
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
    }
}

/// Whether what is on standard output can be drawn over, as on a terminal that is not dumb.
#[must_use]
pub fn stdout_redraws() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !dumb
}

/// Keeps all columns whole but the `flexible`, which are broken into lines where room is short: an
/// address or a number in two parts cannot be copied.
pub(crate) fn whole_but(table: &mut Table, flexible: &[usize]) {
    for column in table.column_iter_mut() {
        if !flexible.contains(&column.index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

/// The table's lines, without the blanks that it pads them with.
pub(crate) fn finish(table: &Table) -> String {
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_by_default() {
        assert_eq!(Style::default().paint(Paint::Bad, "lost"), "lost");
        let colour = Style { colour: true, width: None };
        assert_eq!(colour.paint(Paint::Bad, "lost"), "\x1b[31;1mlost\x1b[0m");
    }
}
