//! Compares a run with a file's expectations, within the file's tolerance.

use crate::case::{Case, numbers};
use crate::run::History;
use serde_json::Value;

/// What must hold, from the file's `tolerance.rule`.
enum Rule {
    /// abs(x - expected) <= rtol scale + atol.
    OfScale,
    /// Infinities equal; finite values within rtol |expected| + atol.
    OfExpected,
}

/// Checks every state the file lists at every checkpoint, against both columns.
///
/// # Errors
/// The first value out of tolerance.
pub(crate) fn compare(case: &Case, history: &History) -> Result<usize, String> {
    let tolerance = &case.raw["tolerance"];
    let rule = tolerance["rule"].as_str().expect("rule");
    let rule = if rule.starts_with("inf must be inf") {
        Rule::OfExpected
    } else if rule.starts_with("abs(x - expected) <= rtol*scale") {
        Rule::OfScale
    } else {
        return Err(format!("unknown tolerance rule {rule}"));
    };
    let rtol = tolerance["rtol_f32"].as_f64().expect("rtol_f32");
    let atol = tolerance["atol_f32"].as_f64().expect("atol_f32");
    let mut compared = 0;
    for (step, tensors) in case.raw["expected"].as_object().expect("expected") {
        let index: usize = step.parse().expect("step");
        for (tensor, states) in tensors.as_object().expect("tensors") {
            for (state, columns) in states.as_object().expect("states") {
                let ours = history[index - 1][tensor].get(state);
                let ours = ours.ok_or(format!("no state {state} of {tensor}"))?;
                let scale = numbers(&case.raw["scale"][tensor][state]);
                for column in ["f32_library", "f64_reference"] {
                    let Some(expected) = expected(columns, column) else {
                        continue;
                    };
                    assert_eq!(ours.len(), expected.len(), "{tensor}.{state}");
                    for (i, (&x, &e)) in ours.iter().zip(&expected).enumerate() {
                        let allowed = atol
                            + rtol
                                * match rule {
                                    Rule::OfScale => scale.as_ref().expect("scale")[i],
                                    Rule::OfExpected => e.abs(),
                                };
                        if !close(f64::from(x), e, allowed) {
                            return Err(format!(
                                "step {step} {tensor}.{state}[{i}] {column}: expected {e}, got \
                                 {x}, off by {:e}, allowed {allowed:e}",
                                (f64::from(x) - e).abs()
                            ));
                        }
                        compared += 1;
                    }
                }
            }
        }
    }
    Ok(compared)
}

fn expected(columns: &Value, column: &str) -> Option<Vec<f64>> {
    numbers(&columns[column])
}

fn close(x: f64, expected: f64, allowed: f64) -> bool {
    if !expected.is_finite() || !x.is_finite() {
        return x == expected || (x.is_nan() && expected.is_nan());
    }
    (x - expected).abs() <= allowed
}
