//! The schedule files: step -> value, within each file's tolerance.

use crate::case::{files, numbers, read_json};
use halflife_optim::schedule::{Anneal, Boundary, Clock, WsdShape};
use halflife_optim::{Curve, Schedule, ScheduleConfig};
use serde_json::Value;

/// A neutral schedule as one of ours; `None` for a kind this test does not know.
pub(crate) fn schedule(neutral: &Value) -> Option<ScheduleConfig> {
    let number = |key: &str| neutral[key].as_f64();
    let steps = |key: &str| neutral[key].as_u64();
    let base = number("base").unwrap_or(f64::NAN);
    let restarts = |period: &str, mult: &str| (steps(period), steps(mult).unwrap_or(1));
    let curve = match neutral["kind"].as_str()? {
        "constant" => return Some(base.into()),
        "warmup_linear" => {
            let warmup = steps("warmup")?;
            let decay = Curve::Linear { base, end: 0.0, steps: Some(steps("total")? - warmup) };
            warmup_then(warmup, 0.0, Clock::Restarts, decay)
        }
        "warmup_cosine" => {
            let warmup = steps("warmup")?;
            let decay = Curve::Cosine { base, end: number("end")?, steps: Some(steps("total")? - warmup) };
            warmup_then(warmup, number("init")?, Clock::Restarts, decay)
        }
        "bert" => {
            let decay = polynomial(neutral, number("end")?)?;
            warmup_then(steps("warmup")?, 0.0, Clock::Runs, decay)
        }
        "poly" => polynomial(neutral, 0.0)?,
        "cosine" => Curve::Cosine { base, end: number("min")?, steps: steps("total") },
        "cosine_restarts" => {
            let (period, period_mult) = restarts("T_0", "T_mult");
            Curve::CosineRestarts {
                base,
                end: number("min")?,
                period: period?,
                period_mult,
                restart_mult: number("m_mul").unwrap_or(1.0),
            }
        }
        "sgdr_lua" => {
            let (period, period_mult) = restarts("Te", "Tmult");
            Curve::SgdrCode {
                base,
                batches_per_epoch: steps("batches_per_epoch")?,
                period_epochs: period?,
                period_mult,
            }
        }
        "normalized" if neutral["Te"].is_u64() => {
            let (period, period_mult) = restarts("Te", "Tmult");
            Curve::NormalizedRestarts {
                lambda: number("lambda_norm")?,
                batches_per_epoch: steps("batches_per_epoch")?,
                period_epochs: period?,
                period_mult,
            }
        }
        "normalized" => Curve::Normalized {
            lambda: number("lambda_norm")?,
            batch: steps("batch")?,
            dataset: steps("dataset")?,
            epochs: steps("epochs")?,
        },
        "inverse_sqrt" => {
            let timescale = steps("warmup")?;
            let decay = Curve::InverseSqrt { base, timescale };
            warmup_then(timescale, 0.0, Clock::Restarts, decay)
        }
        "noam" => Curve::Noam { base, warmup: steps("warmup")?, d_model: steps("d_model")? },
        "step" => Curve::Step { base, every: steps("size")?, gamma: number("gamma")? },
        "multistep" => multistep(neutral, Boundary::New)?,
        "multistep_after" => multistep(neutral, Boundary::Old)?,
        "exponential" => Curve::Exponential {
            base,
            gamma: number("gamma")?,
            every: steps("every").unwrap_or(1),
            staircase: neutral["staircase"].as_bool().unwrap_or(false),
        },
        "inverse_time" => Curve::InverseTime { base, decay: number("decay")? },
        "inv" => Curve::CaffeInv { base, gamma: number("gamma")?, power: number("power")? },
        "sigmoid" => Curve::CaffeSigmoid { base, gamma: number("gamma")?, midpoint: steps("size")? },
        "factor_mx" => Curve::MxnetFactor {
            base,
            every: steps("step")?,
            factor: number("factor")?,
            offset: steps("num_update_offset")?,
        },
        "onecycle" => Curve::OneCycle {
            base,
            pct_start: number("pct_start")?,
            div_factor: number("div_factor")?,
            final_div_factor: number("final_div_factor")?,
            anneal: match neutral["anneal"].as_str()? {
                "cos" => Anneal::Cos,
                "linear" => Anneal::Linear,
                _ => return None,
            },
            three_phase: neutral["three_phase"].as_bool().unwrap_or(false),
            steps: steps("total"),
        },
        "wsd" => {
            let decay = Curve::Wsd {
                base,
                end: number("floor")?,
                stable: steps("stable")?,
                decay: steps("decay"),
                shape: match neutral["shape"].as_str()? {
                    "linear" => WsdShape::Linear,
                    "sqrt" => WsdShape::Sqrt,
                    "cosine" => WsdShape::Cosine,
                    _ => return None,
                },
            };
            let from = number("warmup_from")?;
            warmup_then(steps("warmup")?, from, Clock::Restarts, decay)
        }
        _ => return None,
    };
    Some(curve.into())
}

fn warmup_then(steps: u64, from: f64, clock: Clock, then: Curve) -> Curve {
    Curve::Warmup { steps, from, clock, then: then.into() }
}

fn polynomial(neutral: &Value, end: f64) -> Option<Curve> {
    Some(Curve::Polynomial {
        base: neutral["base"].as_f64()?,
        end,
        power: neutral["power"].as_f64()?,
        steps: neutral["total"].as_u64(),
    })
}

fn multistep(neutral: &Value, at: Boundary) -> Option<Curve> {
    let milestones = neutral["milestones"].as_array()?;
    Some(Curve::Multistep {
        base: neutral["base"].as_f64()?,
        milestones: milestones.iter().filter_map(Value::as_u64).collect(),
        gamma: neutral["gamma"].as_f64()?,
        at,
    })
}

/// Checks a schedule against values at rising steps.
pub(crate) fn check(what: &str, schedule: &Schedule, steps: &[u64], values: &[f64], rtol_of_peak: f64) {
    let peak = values.iter().copied().fold(0.0, f64::max);
    for (&step, &expected) in steps.iter().zip(values) {
        let ours = schedule.value(step);
        assert!((ours - expected).abs() <= rtol_of_peak * peak, "{what}: step {step}: expected {expected}, got {ours}");
    }
}

#[test]
fn every_schedule_file_passes() {
    for path in files("schedules") {
        let file = read_json(&path);
        let what = path.display().to_string();
        let config = schedule(&file["schedule"]).unwrap_or_else(|| panic!("{what}: cannot run {}", file["schedule"]));
        let lr = numbers(&file["lr"]).expect("lr");
        let steps = file["global_step"].as_array().expect("global_step");
        let steps: Vec<u64> = steps.iter().filter_map(Value::as_u64).collect();
        assert_eq!(steps.len(), lr.len());
        let compiled = Schedule::new("lr", &config, lr.len() as u64).expect("schedule");
        let rtol = file["tolerance"]["rtol_of_peak"].as_f64().expect("rtol");
        check(&what, &compiled, &steps, &lr, rtol);
    }
}
