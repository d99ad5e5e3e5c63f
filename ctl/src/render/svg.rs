//! A timeline picture as SVG: written by hand, self-contained, readable on light and dark pages.

use std::fmt::Write as _;

use super::layout::{Label, bar_rows, label_rows, text_width};
use super::picture::{Lane, MarkAt, Span, TimelinePicture};
use super::scale::{Scale, tick_label};
use super::shapes::{Bar, LONGEST, caption, drawn_mark};
use super::text::{clip, xml};

const WIDTH: f64 = 1080.0;
const MARGIN: f64 = 24.0;
const HEAD: f64 = 78.0;
const FOOT: f64 = 56.0;
const LABEL_ROW: f64 = 19.0;
const BAR_ROW: f64 = 24.0;

/// Draws the whole document.
#[must_use]
pub fn timeline_svg(picture: &TimelinePicture) -> String {
    let frame = Frame::of(picture);
    let mut y = HEAD;
    let mut body = String::new();
    for (index, lane) in picture.lanes.iter().enumerate() {
        let (drawn, height) = frame.lane(lane, y, index % 2 == 0);
        body += &drawn;
        y += height;
    }
    let height = y + FOOT;
    let title = xml(&clip(&picture.title, 90));
    let subtitle = xml(&clip(&picture.subtitle, 150));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" aria-labelledby=\"title desc\">\n\
         <title id=\"title\">{title}</title>\n<desc id=\"desc\">{subtitle}</desc>\n{STYLE}\
         <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"10\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"36\">{title}</text>\n\
         <text class=\"soft\" x=\"{MARGIN}\" y=\"58\">{subtitle}</text>\n",
        WIDTH - 1.0,
        height - 1.0,
    );
    out += &body;
    out += &frame.axis(y);
    out += "</svg>\n";
    out
}

/// Colours and fonts. Every text is on the picture's own background, whatever the page's is. No CSS
/// variables: some viewers know none.
const STYLE: &str = "<style>
text { font: 12px system-ui, \"Segoe UI\", Roboto, \"DejaVu Sans\", sans-serif; fill: #1c2430; }
text { stroke: #ffffff; stroke-width: 3px; stroke-linejoin: round; paint-order: stroke; }
.on-band text { stroke: #f4f6f8; } g text.inside { stroke: none; }
text.title { font-size: 18px; font-weight: 600; } text.name { font-weight: 600; font-size: 13px; }
.soft, text.soft { fill: #5b6676; } .page { fill: #ffffff; stroke: #d9dee5; } .band { fill: #f4f6f8; }
.line, .grid { stroke: #d9dee5; fill: none; } .line { stroke-width: 2; }
.leader { stroke: #9aa4b2; fill: none; } .zero { stroke: #b8720a; stroke-dasharray: 3 3; fill: none; }
.plain { fill: #3b6fb6; stroke: #3b6fb6; } .good { fill: #2c8a4b; stroke: #2c8a4b; }
.warn { fill: #b8720a; stroke: #b8720a; } .bad { fill: #c62f3b; stroke: #c62f3b; }
.bar { fill-opacity: 0.18; }
@media (prefers-color-scheme: dark) {
text { fill: #e6eaf0; stroke: #14181e; } .on-band text { stroke: #1b212a; } .soft, text.soft { fill: #9aa6b6; }
.page { fill: #14181e; stroke: #343d4a; } .band { fill: #1b212a; } .line, .grid { stroke: #343d4a; }
.leader { stroke: #6b7788; } .zero { stroke: #e3a341; }
.plain { fill: #74a7ec; stroke: #74a7ec; } .good { fill: #5cc681; stroke: #5cc681; }
.warn { fill: #e3a341; stroke: #e3a341; } .bad { fill: #f3727c; stroke: #f3727c; } }
</style>\n";

/// The plot's place and scale.
struct Frame {
    scale: Scale,
    left: f64,
    width: f64,
}

impl Frame {
    fn of(picture: &TimelinePicture) -> Self {
        let marks = || picture.lanes.iter().flat_map(|lane| &lane.marks);
        let spans = || picture.lanes.iter().flat_map(|lane| &lane.spans);
        let scale = Scale::over(
            marks()
                .map(|mark| mark.at_us)
                .chain(spans().flat_map(|span| [span.from_us, span.to_us])),
        );
        let names = picture.lanes.iter().map(|lane| text_width(&clip(&lane.name, 18)));
        let left = MARGIN + names.fold(40.0, f64::max) * 1.1 + 20.0;
        // As wide as it can be with every label inside the picture.
        let room = WIDTH - MARGIN - left;
        let width = marks().fold(room, |width, mark| {
            let place = scale.place(mark.at_us);
            let text = text_width(&caption(mark)) + 8.0;
            if place > 0.0 { width.min((room - text) / place) } else { width }
        });
        Self { scale, left, width: width.max(room * 0.4) }
    }

    fn x(&self, us: f64) -> f64 {
        self.left + self.scale.place(us) * self.width
    }

    /// One lane from `top` on, and its height.
    fn lane(&self, lane: &Lane, top: f64, banded: bool) -> (String, f64) {
        let mut marks: Vec<&MarkAt> = lane.marks.iter().collect();
        marks.sort_by(|a, b| a.at_us.total_cmp(&b.at_us));
        let labels: Vec<Label> = marks
            .iter()
            .map(|mark| Label { x: self.x(mark.at_us), width: text_width(&caption(mark)) })
            .collect();
        let label_rows = label_rows(&labels);
        let bars: Vec<Bar> = lane.spans.iter().map(|span| self.bar(span)).collect();
        let bar_rows = bar_rows(&bars.iter().map(Bar::extent).collect::<Vec<_>>());
        let depth = |rows: &[usize]| rows.iter().max().map_or(0.0, |most| *most as f64 + 1.0);

        let line = top + 14.0 + depth(&label_rows).max(0.6) * LABEL_ROW + 4.0;
        let height = line - top + 14.0 + depth(&bar_rows) * BAR_ROW;
        let mut out = String::from(if banded { "<g class=\"on-band\">\n" } else { "<g>\n" });
        if banded {
            _ = writeln!(
                out,
                "<rect class=\"band\" x=\"1\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                WIDTH - 2.0
            );
        }
        out += &self.grid(top, top + height);
        let end = self.left + self.width;
        _ = writeln!(
            out,
            "<text class=\"name\" x=\"{MARGIN}\" y=\"{:.1}\">{}</text>\n\
             <path class=\"line\" d=\"M{:.1} {line:.1}H{end:.1}\"/>",
            line + 4.0,
            xml(&clip(&lane.name, 18)),
            self.left,
        );
        for ((mark, label), row) in marks.iter().zip(&labels).zip(&label_rows) {
            out += &drawn_mark(mark, label.x, line, line - 12.0 - *row as f64 * LABEL_ROW);
        }
        for (bar, row) in bars.iter().zip(&bar_rows) {
            out += &bar.drawn(line + 9.0 + *row as f64 * BAR_ROW);
        }
        out += "</g>\n";
        (out, height)
    }

    /// Lines at the ticks, behind everything.
    fn grid(&self, top: f64, bottom: f64) -> String {
        let mut out = String::new();
        for tick in self.scale.ticks() {
            let class = if tick == 0.0 { "zero" } else { "grid" };
            let x = self.x(tick);
            _ = writeln!(out, "<path class=\"{class}\" d=\"M{x:.1} {top:.1}V{bottom:.1}\"/>");
        }
        out
    }

    /// The scale under the lanes.
    fn axis(&self, top: f64) -> String {
        let mut out = self.grid(top, top + 6.0);
        let mut free = f64::MIN;
        // The event itself first: its label must not give way to a neighbour's.
        let zero = self.x(0.0);
        for tick in self.scale.ticks() {
            let (x, label) = (self.x(tick), tick_label(tick));
            let half = text_width(&label) / 2.0 + 4.0;
            let near_zero = tick != 0.0 && (x - zero).abs() < half + 12.0;
            if x - half < free || near_zero {
                continue;
            }
            free = x + half;
            _ = writeln!(
                out,
                "<text class=\"soft\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>",
                top + 21.0
            );
        }
        _ = writeln!(
            out,
            "<text class=\"soft\" x=\"{MARGIN}\" y=\"{:.1}\">Time from the kernel's remove event, \
             on a logarithmic scale.</text>",
            top + 43.0
        );
        out
    }

    fn bar(&self, span: &Span) -> Bar {
        let (from, to) =
            (self.x(span.from_us.min(span.to_us)), self.x(span.from_us.max(span.to_us)));
        let to = to.max(from + 3.0);
        let mut text = clip(&span.label, LONGEST + 16);
        let width = |text: &str| text_width(text) + 14.0;
        let right = WIDTH - MARGIN;
        let at = if width(&text) <= to - from {
            from + 7.0
        } else if to + width(&text) <= right {
            to + 7.0
        } else if from - width(&text) >= self.left {
            from - width(&text) + 7.0
        } else {
            // Whatever of it there is room for.
            let room = (right - from - 14.0).max(14.0);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small, positive"
            )]
            let chars = (room / 13.0).max(1.0) as usize;
            if text_width(&text) > room {
                text = clip(&span.label, chars);
            }
            from + 7.0
        };
        Bar { from, to, text_at: at, text, tone: span.tone, whole: span.label.clone() }
    }
}

#[cfg(test)]
mod tests;
