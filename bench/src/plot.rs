//! Curves as an SVG picture.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::report::{Plot, Scale};

const SIZE: (u32, u32) = (800, 450);
/// Told from each other by those who see few colours, too (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];

/// The picture's text.
pub fn draw(plot: &Plot) -> Result<String> {
    let x = of(plot, |point| point.0);
    let mut text = String::new();
    match plot.x.1 {
        Scale::Linear => on(plot, &mut text, x)?,
        Scale::Logarithmic => on(plot, &mut text, x.log_scale())?,
    }
    Ok(text)
}

/// From the least to the most of all curves.
fn of(plot: &Plot, which: impl Fn(&(f64, f64)) -> f64) -> Range<f64> {
    let all = || plot.series.iter().flat_map(|series| &series.points).map(&which);
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    // A range of nothing cannot be drawn.
    least..most.max(least + 1e-9)
}

fn on<X>(plot: &Plot, text: &mut String, x: X) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
{
    let wrong = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", plot.file);
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| wrong(&error))?;
    let y = 0.0..of(plot, |point| point.1).end * 1.05;
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)
        .map_err(|error| wrong(&error))?;
    chart
        .configure_mesh()
        .x_desc(&plot.x.0)
        .y_desc(&plot.y)
        .draw()
        .map_err(|error| wrong(&error))?;
    for (series, colour) in plot.series.iter().zip(COLOURS.iter().cycle()) {
        let line = LineSeries::new(series.points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)
            .map_err(|error| wrong(&error))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|error| wrong(&error))?;
    area.present().map_err(|error| wrong(&error))
}
