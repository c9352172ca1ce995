//! A small curve in braille characters: 2 x 4 dots a character, from 0 to the largest value.

use super::number;

/// Characters of the curve.
const COLUMNS: usize = 60;
const ROWS: usize = 5;
/// Dots of the curve.
const DOTS_WIDE: usize = COLUMNS * 2;
const DOTS_HIGH: usize = ROWS * 4;
/// Steps looked at per column of dots: what a dot shows is not left to chance.
const SAMPLES: u64 = 16;
/// Width of the labels on the left.
const LABEL: usize = 12;
/// The bit of each dot in a braille character, by row and column.
const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// The curve of `value` over steps 1 to `steps`, with axes.
pub(super) fn plot(name: &str, steps: u64, value: impl Fn(u64) -> f64) -> Vec<String> {
    let ranges = ranges(steps, value);
    let top = ranges.iter().map(|range| range.1).fold(0.0, f64::max);
    let cells = cells(&ranges, top);
    let mut lines = Vec::with_capacity(ROWS + 2);
    for (row, cells) in cells.iter().enumerate() {
        let label = match row {
            0 => format!("{name}  {}", number::short(top)),
            row if row == ROWS - 1 => "0".to_owned(),
            _ => String::new(),
        };
        let curve: String = cells.iter().map(|&bits| if bits == 0 { ' ' } else { braille(bits) }).collect();
        lines.push(format!("{label:>LABEL$} │{curve}").trim_end().to_owned());
    }
    lines.push(format!("{:LABEL$} └{}", "", "─".repeat(COLUMNS)));
    let last = number::count(steps);
    lines.push(format!("{:LABEL$}  1{last:>width$}", "", width = COLUMNS - 1));
    lines
}

fn braille(bits: u32) -> char {
    char::from_u32(0x2800 + bits).unwrap_or(' ')
}

/// Smallest and largest value of each column of dots, touching the column before, so that jumps
/// are drawn as lines.
fn ranges(steps: u64, value: impl Fn(u64) -> f64) -> Vec<(f64, f64)> {
    let mut before: Option<f64> = None;
    let wide = DOTS_WIDE as u64;
    let range = |column: u64| {
        // u128: the product of two step counts may not fit.
        let start = |column: u64| (u128::from(column) * u128::from(steps) / u128::from(wide)) as u64;
        let (first, end) = (start(column), start(column + 1).max(start(column) + 1));
        let stride = (end - first).div_ceil(SAMPLES);
        let mut range = before.map_or((f64::INFINITY, f64::NEG_INFINITY), |before| (before, before));
        for done in (first..end).step_by(stride as usize) {
            let value = value(done + 1);
            range = (range.0.min(value), range.1.max(value));
            before = Some(value);
        }
        range
    };
    (0..wide).map(range).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a number of dots
fn cells(ranges: &[(f64, f64)], top: f64) -> [[u32; COLUMNS]; ROWS] {
    let mut cells = [[0; COLUMNS]; ROWS];
    let scale = if top > 0.0 { (DOTS_HIGH - 1) as f64 / top } else { 0.0 };
    let height = |value: f64| ((value * scale).round() as usize).min(DOTS_HIGH - 1);
    for (x, &(low, high)) in ranges.iter().enumerate() {
        for dot in height(low)..=height(high) {
            let y = DOTS_HIGH - 1 - dot;
            cells[y / 4][x / 2] |= BITS[y % 4][x % 2];
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_down_begins_at_the_top_and_ends_at_the_bottom() {
        let lines = plot("lr", 1_001, |step| 1_001.0 - step as f64);
        assert_eq!(lines.len(), ROWS + 2);
        assert!(lines[0].starts_with("   lr  1,000 │⠉"), "{}", lines[0]);
        assert!(lines[4].starts_with("           0 │ ") && lines[4].ends_with('⣀'), "{}", lines[4]);
        assert!(lines[6].ends_with("1,001"));
    }

    #[test]
    fn a_constant_is_drawn_at_the_top_and_zero_at_the_bottom() {
        let constant = plot("lr", 3, |_| 0.5);
        assert_eq!(constant[0], format!("     lr  0.5 │{}", "⠉".repeat(COLUMNS)));
        let zero = plot("d", 1, |_| 0.0);
        assert_eq!(zero[4], format!("           0 │{}", "⣀".repeat(COLUMNS)));
        assert_eq!(zero[0], "        d  0 │");
    }
}
