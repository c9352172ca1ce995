//! The golden vectors, through the optimizer directly. Files are run by their neutral fields,
//! never by name; `HALFLIFE_GOLDEN_DIR` points at another set.

mod case;
mod compare;
mod configure;
mod names;
mod presets;
mod run;
mod schedules;
mod state_dtype;

use case::{Case, files};
use halflife_optim::{KernelPath, Optimizer, OptimizerConfig};
use std::path::Path;

/// Runs one file every way there is: whole tensors at once, slices, in place, and each build of
/// the loops. They must not differ by a bit; the numbers are then compared with the file's.
fn check(case: &Case) -> Result<usize, String> {
    let config = configure::configure(case)?;
    survives_text(&config);
    let optimizer = Optimizer::new(&config, case.steps).map_err(|e| e.to_string())?;
    check_exclusions(case, &optimizer);
    let whole = run::together(case, &optimizer);
    for path in [KernelPath::Portable, KernelPath::Avx2] {
        let optimizer = optimizer.clone().with_kernel_path(path);
        let other = run::together(case, &optimizer);
        assert!(same_bits(&whole, &other), "{}: {path:?} changes bits", case.path.display());
    }
    for slice in [1, 3, 4, usize::MAX] {
        let cut = run::sliced(case, &optimizer, slice);
        assert!(same_bits(&whole, &cut), "{}: slices of {slice} change bits", case.path.display());
    }
    compare::compare(case, &whole)
}

/// Where a file gives the system's exclusion patterns, they give the outcome that it states.
fn check_exclusions(case: &Case, optimizer: &Optimizer) {
    for tensor in &case.tensors {
        let rule = optimizer.tensor(&tensor.name, &tensor.shape);
        let spared = !tensor.decayed || tensor.decay_mult == 0.0;
        assert!(!(spared && rule.decays()), "{}", tensor.name);
    }
    let Some(exclude) = case.raw["optimizer"]["exclude"]["patterns"].as_array() else {
        return;
    };
    let patterns: Vec<&str> = exclude.iter().filter_map(serde_json::Value::as_str).collect();
    let optimizer = names::excluding(0.01, &patterns);
    for tensor in &case.tensors {
        assert_eq!(optimizer.tensor(&tensor.name, &tensor.shape).decays(), tensor.decayed, "{}", tensor.name);
    }
}

fn same_bits<S: PartialEq + std::fmt::Debug>(a: &S, b: &S) -> bool {
    // Debug prints f32 with digits that round-trip, and tells -0 from 0 and NaN from numbers.
    a == b || format!("{a:?}") == format!("{b:?}")
}

/// Writing a configuration and reading it back gives the same configuration.
fn survives_text(config: &OptimizerConfig) {
    let text = toml::to_string(config).expect("a configuration can be written");
    let back: OptimizerConfig = toml::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(&back, config, "{text}");
}

fn check_all(paths: &[impl AsRef<Path>]) {
    let mut failures = Vec::new();
    for path in paths {
        let case = Case::read(path.as_ref());
        if case.is_sparse() {
            eprintln!("skipped, sparse rows: {}", path.as_ref().display());
            continue;
        }
        match check(&case) {
            Ok(compared) => assert!(compared > 0, "{} compares nothing", case.path.display()),
            Err(reason) => failures.push(format!("{}: {reason}", case.path.display())),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_optimizer_file_passes() {
    check_all(&files("optimizers"));
}

#[test]
fn every_dense_distributed_file_passes() {
    check_all(&files("distributed"));
}

#[test]
fn every_edge_file_passes() {
    check_all(&files("edge"));
}
