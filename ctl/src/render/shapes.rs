//! Marks and bars, drawn where the layout put them.

use super::layout::text_width;
use super::picture::{MarkAt, Tone};
use super::text::{clip, micros, xml};

/// The height of a bar.
const BAR: f64 = 18.0;
/// Longest label, in characters.
pub(super) const LONGEST: usize = 44;

const fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "plain",
        Tone::Good => "good",
        Tone::Warn => "warn",
        Tone::Bad => "bad",
    }
}

/// A span, placed.
pub(super) struct Bar {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) text_at: f64,
    pub(super) text: String,
    pub(super) tone: Tone,
    pub(super) whole: String,
}

impl Bar {
    pub(super) fn extent(&self) -> (f64, f64) {
        (self.from.min(self.text_at), self.to.max(self.text_at + text_width(&self.text)))
    }

    pub(super) fn drawn(&self, top: f64) -> String {
        let class = class(self.tone);
        let (from, width) = (self.from, self.to - self.from);
        let within = self.text_at > from && self.text_at < self.to;
        let inside = if within { " class=\"inside\"" } else { "" };
        format!(
            "<g><title>{}</title><rect class=\"bar {class}\" x=\"{from:.1}\" y=\"{top:.1}\" \
             width=\"{width:.1}\" height=\"{BAR}\" rx=\"3\"/>\
             <text{inside} x=\"{:.1}\" y=\"{:.1}\">{}</text></g>\n",
            xml(&self.whole),
            self.text_at,
            top + 13.0,
            xml(&self.text),
        )
    }
}

/// A mark's label with its time, as it is measured; drawn in two colours.
pub(super) fn caption(mark: &MarkAt) -> String {
    format!("{}  {}", clip(&mark.label, LONGEST), micros(mark.at_us))
}

pub(super) fn drawn_mark(mark: &MarkAt, x: f64, line: f64, base: f64) -> String {
    let shape = match mark.tone {
        Tone::Plain | Tone::Good => {
            format!("M{x:.1} {line:.1}m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z")
        }
        Tone::Warn => format!("M{x:.1} {line:.1}m0 -6l6 11h-12z"),
        Tone::Bad => format!("M{x:.1} {line:.1}m0 -7l7 7l-7 7l-7-7z"),
    };
    format!(
        "<g><title>{}</title><path class=\"leader\" d=\"M{x:.1} {line:.1}V{:.1}\"/>\
         <path class=\"{}\" d=\"{shape}\"/><text x=\"{:.1}\" y=\"{base:.1}\">{} \
         <tspan class=\"soft\">{}</tspan></text></g>\n",
        xml(&mark.label),
        base - 9.0,
        class(mark.tone),
        x + 5.0,
        xml(&clip(&mark.label, LONGEST)),
        micros(mark.at_us),
    )
}
