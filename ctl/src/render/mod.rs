//! Reports for people: as text and as a picture.

pub mod held;
pub mod holders;
mod layout;
mod picture;
pub mod quotas;
mod report;
#[cfg(test)]
pub(crate) mod sample;
mod scale;
mod shapes;
mod style;
mod svg;
pub mod tables;
pub mod text;

pub use picture::{Lane, MarkAt, Span, TimelinePicture, Tone};
pub use report::{report_table, report_table_styled};
pub use style::{Paint, Style, stdout_redraws};
pub use svg::timeline_svg;
