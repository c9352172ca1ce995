//! A sweep as a picture: step time and throughput by the size of the model.

use std::error::Error;
use std::ops::Range;

use plotters::prelude::*;

use super::sweep::Row;

/// Width and height, in pixels.
const SIZE: (u32, u32) = (1200, 520);
/// Around a range of values, as a factor.
const MARGIN: f64 = 1.4;

/// A line of the picture: its name, and what each panel shows by size.
struct Series<'a> {
    name: String,
    rows: Vec<&'a Row>,
}

/// Draws as SVG. The error says why it cannot.
pub(super) fn draw(rows: &[Row]) -> Result<String, String> {
    if rows.is_empty() {
        return Err("expected at least one row, found none".to_owned());
    }
    let mut svg = String::new();
    draw_on(&mut svg, rows).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw_on(svg: &mut String, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    let series = series(rows);
    panel(&left, "median step time, ms", &series, |row| row.step_ms_p50)?;
    panel(&right, "gradients, GB/s (as much again comes down)", &series, |row| row.gradient_gb_per_second)?;
    root.present()?;
    Ok(())
}

/// Rows that differ in size only, in order of size.
fn series(rows: &[Row]) -> Vec<Series<'_>> {
    let mut series: Vec<Series<'_>> = Vec::new();
    for row in rows {
        let name = format!("blocks of {}, {}", row.point.block_elements, row.point.dtype.name());
        match series.iter_mut().find(|known| known.name == name) {
            Some(known) => known.rows.push(row),
            None => series.push(Series { name, rows: vec![row] }),
        }
    }
    series.iter_mut().for_each(|series| series.rows.sort_by_key(|row| row.point.parameters));
    series
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    series: &[Series<'_>],
    value: fn(&Row) -> f64,
) -> Result<(), Box<dyn Error>> {
    let rows = || series.iter().flat_map(|series| &series.rows);
    let across = around(rows().map(|row| row.point.parameters as f64));
    let up = around(rows().map(|row| value(row)));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(across.log_scale(), up.log_scale())?;
    chart.configure_mesh().x_desc("parameters").light_line_style(WHITE).draw()?;
    for (index, series) in series.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = series.rows.iter().map(|row| (row.point.parameters as f64, value(row)));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?
            .label(series.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// A range on a logarithmic axis that no value touches the ends of.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high), value| (value.min(low), value.max(high)));
    low.max(f64::MIN_POSITIVE) / MARGIN..high.max(f64::MIN_POSITIVE) * MARGIN
}
