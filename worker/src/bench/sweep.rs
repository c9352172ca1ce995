//! One measurement after the other, over sizes, block sizes and dtypes: a table and a picture.
//!
//! Promises: `sweep.csv` has every row as soon as it is measured, so that a sweep that is stopped leaves
//! what it found. Does not: compare rows with each other within one run; the bound, in turns with each
//! row, does that.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use thiserror::Error;

use super::child::Running;
use super::controller::{self, BenchError};
use super::plot;
use super::report::Report;
use super::settings::Settings;
use super::shape::ModelShape;
use super::wire::{Wire, WireDtype};

/// Sizes unless others are asked for, in elements.
pub const PARAMETERS: [u64; 5] = [1 << 10, 1 << 16, 1 << 20, 1 << 22, 25_000_000];
/// Block sizes unless others are asked for, in elements.
pub const BLOCKS: [u64; 4] = [1 << 14, 1 << 16, 1 << 18, 1 << 20];
/// Dtypes unless others are asked for; those that this build's jobs do not know are left out.
pub const DTYPES: [WireDtype; 2] = [WireDtype::F32, WireDtype::Bf16];

/// Why a sweep ended early.
#[derive(Debug, Error)]
pub enum SweepError {
    /// The directory or a file in it cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A measurement failed.
    #[error("{point}: {source}")]
    Bench {
        /// Which.
        point: Point,
        /// Its reason.
        source: Box<BenchError>,
    },
    /// A measurement's weights were wrong.
    #[error("{0}: the weights are not what they must be")]
    WrongWeights(Point),
    /// The picture cannot be drawn.
    #[error("cannot draw: {0}")]
    Draw(String),
}

/// What rows differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Elements of the model.
    pub parameters: u64,
    /// Elements per block.
    pub block_elements: u64,
    /// Of both ways.
    pub dtype: WireDtype,
}

/// What was found at a point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Where.
    pub point: Point,
    /// Median step time, in milliseconds.
    pub step_ms_p50: f64,
    /// 99th percentile.
    pub step_ms_p99: f64,
    /// Steps per second.
    pub steps_per_second: f64,
    /// Gradients up, in 10^9 bytes per second.
    pub gradient_gb_per_second: f64,
    /// CPU milliseconds per step of all processes.
    pub cpu_ms: f64,
    /// Median of job / bound, and its interval; where the bound was measured.
    pub bound_ratio: Option<[f64; 3]>,
}

/// The points of a sweep, largest models last. A block far larger than the model is the model: of those only
/// the smallest is a point.
#[must_use]
pub fn points(parameters: &[u64], blocks: &[u64], dtypes: &[WireDtype]) -> Vec<Point> {
    let mut points = Vec::new();
    for parameters in parameters.iter().copied() {
        let whole = blocks.iter().copied().filter(|block| *block >= parameters).min();
        for block_elements in blocks.iter().copied().filter(|block| *block < parameters || Some(*block) == whole) {
            points.extend(dtypes.iter().map(|dtype| Point { parameters, block_elements, dtype: *dtype }));
        }
    }
    points
}

/// Whether a job of this build can carry a dtype.
#[must_use]
pub fn is_known(base: &Settings, dtype: WireDtype) -> bool {
    Settings { wire: both(dtype), ..base.clone() }.job(&[]).is_ok()
}

/// Measures every point and writes `sweep.csv` and `sweep.svg` into `directory`. `shown` sees each row.
///
/// # Errors
/// [`SweepError`]; the table has the rows measured until then.
pub fn run(
    base: &Settings,
    points: &[Point],
    directory: &Path,
    running: &Running,
    mut shown: impl FnMut(&Row),
) -> Result<(), SweepError> {
    let cannot = |path: &Path| {
        let path = path.display().to_string();
        move |source| SweepError::Write { path, source }
    };
    fs::create_dir_all(directory).map_err(cannot(directory))?;
    let (table, picture) = (directory.join("sweep.csv"), directory.join("sweep.svg"));
    let mut file = File::create(&table).map_err(cannot(&table))?;
    writeln!(file, "{COLUMNS}").map_err(cannot(&table))?;
    let mut rows = Vec::new();
    for point in points {
        let settings = settings(base, *point);
        let report = controller::run(&settings, running.clone())
            .map_err(|source| SweepError::Bench { point: *point, source: Box::new(source) })?;
        let row = Row::new(*point, &report).ok_or(SweepError::WrongWeights(*point))?;
        writeln!(file, "{}", row.csv(base)).map_err(cannot(&table))?;
        shown(&row);
        rows.push(row);
    }
    let drawn = plot::draw(&rows).map_err(SweepError::Draw)?;
    fs::write(&picture, drawn).map_err(cannot(&picture))
}

fn settings(base: &Settings, point: Point) -> Settings {
    Settings {
        shape: ModelShape::Parameters(point.parameters),
        block_elements: Some(point.block_elements),
        wire: both(point.dtype),
        bound: base.bound && both(point.dtype).is_exact(),
        ..base.clone()
    }
}

fn both(dtype: WireDtype) -> Wire {
    Wire { gradients: dtype, weights: dtype }
}

const COLUMNS: &str = "parameters,block_elements,dtype,servers,workers,step_ms_p50,step_ms_p99,steps_per_second,\
                       gradient_gb_per_second,cpu_ms_per_step,bound_ratio,bound_ratio_low,bound_ratio_high";

impl Row {
    /// `None` when the weights were wrong.
    fn new(point: Point, report: &Report) -> Option<Row> {
        let part = report.parts.first().filter(|_| report.verified.passed)?;
        Some(Row {
            point,
            step_ms_p50: part.step_ms.p50,
            step_ms_p99: part.step_ms.p99,
            steps_per_second: part.steps_per_second,
            gradient_gb_per_second: part.gradient_gb_per_second,
            cpu_ms: part.cpu_ms(),
            bound_ratio: report.bound_ratio.map(|ratio| [ratio.time.median, ratio.time.low, ratio.time.high]),
        })
    }

    fn csv(&self, base: &Settings) -> String {
        let Row { point, step_ms_p50, step_ms_p99, steps_per_second, gradient_gb_per_second, cpu_ms, bound_ratio } =
            self;
        let Point { parameters, block_elements, dtype } = point;
        let ratio =
            bound_ratio.map_or(",,".to_owned(), |[median, low, high]| format!("{median:.4},{low:.4},{high:.4}"));
        let (servers, workers) = (base.servers.unwrap_or(1), base.workers);
        format!(
            "{parameters},{block_elements},{},{servers},{workers},{step_ms_p50:.4},{step_ms_p99:.4},\
             {steps_per_second:.2},{gradient_gb_per_second:.4},{cpu_ms:.4},{ratio}",
            dtype.name()
        )
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameters, blocks of {}, {}", self.parameters, self.block_elements, self.dtype.name())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { point, step_ms_p50, step_ms_p99, .. } = self;
        write!(f, "{point}: p50 {step_ms_p50:.3} ms, p99 {step_ms_p99:.3} ms")?;
        self.bound_ratio.map_or(Ok(()), |[median, ..]| write!(f, ", {median:.3} of the bound"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(parameters: u64, bound_ratio: Option<[f64; 3]>) -> Row {
        let point = Point { parameters, block_elements: 64, dtype: WireDtype::F32 };
        Row {
            point,
            step_ms_p50: 1.5,
            step_ms_p99: 2.0,
            steps_per_second: 600.0,
            gradient_gb_per_second: 0.25,
            cpu_ms: 3.0,
            bound_ratio,
        }
    }

    #[test]
    fn of_blocks_larger_than_the_model_the_smallest_is_measured() {
        let found = points(&[100, 5000], &[64, 1024, 4096], &[WireDtype::F32]);
        let found: Vec<_> = found.iter().map(|point| (point.parameters, point.block_elements)).collect();
        assert_eq!(found, [(100, 64), (100, 1024), (5000, 64), (5000, 1024), (5000, 4096)]);
    }

    #[test]
    fn every_row_has_every_column() {
        let base = Settings::of(ModelShape::Small);
        for row in [row(100, None), row(100, Some([1.0, 0.9, 1.1]))] {
            assert_eq!(row.csv(&base).split(',').count(), COLUMNS.split(',').count(), "{}", row.csv(&base));
        }
    }

    #[test]
    fn a_picture_shows_every_series() {
        let rows = [row(100, None), row(10_000, Some([1.0, 0.9, 1.1]))];
        let svg = plot::draw(&rows).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("blocks of 64, f32"), "{svg}");
        assert!(plot::draw(&[]).is_err());
    }
}
