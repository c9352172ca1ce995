//! What bf16 moments cost: the weights of PyTorch's AdamW cases, against the same run with f32
//! moments. `cargo test -p halflife-optim --test golden bf16 -- --nocapture` prints the figures of
//! README.md.

use crate::case::{Case, files};
use crate::configure::configure;
use crate::run::{History, together};
use halflife_optim::{Optimizer, OptimizerConfig, StateDtype};

/// The largest distance of a weight from the f32 run, relative to the larger of it and 1e-3, over
/// all steps and tensors.
fn deviation(full: &History, half: &History) -> f64 {
    let mut largest = 0.0_f64;
    for (full, half) in full.iter().zip(half) {
        for (name, states) in full {
            for (a, b) in states["p"].iter().zip(&half[name]["p"]) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                largest = largest.max((a - b).abs() / a.abs().max(1e-3));
            }
        }
    }
    largest
}

/// The distance from the f32 run after the last step, relative to the way that run has gone; the
/// largest of all tensors.
fn detour(case: &Case, full: &History, half: &History) -> f64 {
    let (Some(full), Some(half)) = (full.last(), half.last()) else { return 0.0 };
    let distance = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
    };
    let of = |name: &str, init: &[f32]| distance(&full[name]["p"], &half[name]["p"]) / distance(&full[name]["p"], init);
    case.tensors.iter().map(|tensor| of(&tensor.name, &tensor.init)).fold(0.0, f64::max)
}

#[test]
fn bf16_moments_move_the_weights_of_torch_adamw_by_little() {
    let cases = files("optimizers").into_iter().map(|path| Case::read(&path));
    let is_adamw = |case: &Case| case.raw["source"].as_str().is_some_and(|source| source.contains("torch.optim.AdamW"));
    let mut seen = 0;
    for case in cases.filter(is_adamw) {
        let config = configure(&case).expect("config");
        let run = |dtype| {
            let config = OptimizerConfig { state_dtype: Some(dtype), ..config.clone() };
            together(&case, &Optimizer::new(&config, case.steps).expect("optimizer"))
        };
        let (full, half) = (run(StateDtype::F32), run(StateDtype::Bf16));
        let (deviation, detour) = (deviation(&full, &half), detour(&case, &full, &half));
        eprintln!("| {} | {} | {deviation:.1e} | {detour:.1e} |", case.raw["name"], case.steps);
        assert!(deviation > 0.0 && deviation < 0.06 && detour < 0.02, "{}", case.path.display());
        seen += 1;
    }
    assert!(seen > 0, "no case of torch.optim.AdamW");
}
