//! The golden vectors, through the optimizer directly. Files are run by their neutral fields,
//! never by name; `HALFLIFE_GOLDEN_DIR` points at another set.

mod case;
mod compare;
mod configure;
mod run;
mod schedules;

use case::{Case, files};
use halflife_optim::OptimizerConfig;
use std::path::Path;

/// Runs one file whole and in slices, which must not change a bit.
fn check(case: &Case) -> Result<usize, String> {
    let config = configure::configure(case)?;
    survives_text(&config);
    let whole = run::run(case, &config, usize::MAX);
    for slice in [1, 3] {
        let cut = run::run(case, &config, slice);
        let same = whole.iter().zip(&cut).all(|(whole, cut)| same_bits(whole, cut));
        assert!(same, "{}: slices of {slice} change bits", case.path.display());
    }
    compare::compare(case, &whole)
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
            Err(reason) if reason.contains("unknown variant") => eprintln!("not yet: {reason}"),
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
