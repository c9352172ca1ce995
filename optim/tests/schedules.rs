//! Schedules beside the vectors of the libraries: defaults, lengths, compositions, refusals.

use halflife_optim::{Optimizer, OptimizerConfig};

fn values(lr: &str, run_steps: u64, at: &[u64]) -> Vec<f64> {
    let config: OptimizerConfig = toml::from_str(&format!("lr = {lr}")).unwrap_or_else(|e| panic!("{e}\n{lr}"));
    let optimizer = Optimizer::new(&config, run_steps).unwrap_or_else(|e| panic!("{e}\n{lr}"));
    at.iter().map(|step| optimizer.lr_schedule().value(*step)).collect()
}

fn close(found: &[f64], expected: &[f64]) {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12 * b.abs().max(1e-3);
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(near), "{found:?} {expected:?}");
}

#[test]
fn what_is_left_out_is_what_the_documentation_says() {
    for (short, long) in [
        ("polynomial\", base = 2.0", "polynomial\", base = 2.0, end = 0.0, power = 1.0, steps = 40"),
        ("cosine\", base = 2.0", "cosine\", base = 2.0, end = 0.0, steps = 40"),
        (
            "cosine_restarts\", base = 2.0, period = 7",
            "cosine_restarts\", base = 2.0, end = 0.0, period = 7, period_mult = 1, restart_mult = 1.0",
        ),
        (
            "sgdr_code\", base = 2.0, batches_per_epoch = 3, period_epochs = 2",
            "sgdr_code\", base = 2.0, batches_per_epoch = 3, period_epochs = 2, period_mult = 1",
        ),
        (
            "normalized_restarts\", lambda = 2.0, batches_per_epoch = 3, period_epochs = 2",
            "normalized_restarts\", lambda = 2.0, batches_per_epoch = 3, period_epochs = 2, period_mult = 1",
        ),
        ("noam\", warmup = 9, d_model = 64", "noam\", base = 1.0, warmup = 9, d_model = 64"),
        (
            "exponential\", base = 2.0, gamma = 0.9",
            "exponential\", base = 2.0, gamma = 0.9, every = 1, staircase = false",
        ),
        (
            "mxnet_factor\", base = 2.0, every = 5, factor = 0.5",
            "mxnet_factor\", base = 2.0, every = 5, factor = 0.5, offset = 1",
        ),
        (
            "one_cycle\", base = 2.0",
            "one_cycle\", base = 2.0, pct_start = 0.3, div_factor = 25.0, final_div_factor = 1e4, steps = 40",
        ),
        ("wsd\", base = 2.0, stable = 30", "wsd\", base = 2.0, end = 0.0, stable = 30, decay = 10"),
    ] {
        let [short, long] = [short, long].map(|rest| {
            let steps: Vec<u64> = (0..60).collect();
            values(&format!("{{ kind = \"{rest} }}"), 40, &steps)
        });
        assert_eq!(short, long);
        assert!(short.iter().any(|value| (value - short[0]).abs() > 1e-3) || short[0] > 0.8, "{short:?}");
    }
}

#[test]
fn defaults_have_the_values_of_their_papers() {
    let one_cycle = "{ kind = \"one_cycle\", base = 2.0, steps = 41 }";
    close(&values(one_cycle, 41, &[0, 40]), &[2.0 / 25.0, 2.0 / 25.0 / 1e4]);
    let noam = 64_f64.powf(-0.5) * 9.0_f64.powf(-0.5);
    close(&values("{ kind = \"noam\", warmup = 9, d_model = 64 }", 40, &[8]), &[noam]);
    close(&values("{ kind = \"polynomial\", base = 2.0 }", 40, &[0, 10, 40]), &[2.0, 1.5, 0.0]);
    close(&values("{ kind = \"exponential\", base = 2.0, gamma = 0.5 }", 40, &[0, 1, 2]), &[2.0, 1.0, 0.5]);
}

#[test]
fn a_decay_without_a_length_ends_with_the_run() {
    let wsd = "{ kind = \"wsd\", base = 2.0, stable = 30, shape = \"linear\" }";
    close(&values(wsd, 40, &[29, 30, 35, 40]), &[2.0, 2.0, 1.0, 0.0]);
    let after_warmup = "{ kind = \"warmup\", steps = 10, then = { kind = \"linear\", base = 2.0 } }";
    close(&values(after_warmup, 40, &[0, 5, 10, 25, 40]), &[0.0, 1.0, 2.0, 1.0, 0.0]);
    let with_clock = "{ kind = \"warmup\", steps = 10, clock = \"runs\", then = { kind = \"linear\", base = 2.0 } }";
    close(&values(with_clock, 40, &[10, 20, 40]), &[1.5, 1.0, 0.0]);
}

#[test]
fn a_sequence_runs_its_parts_one_after_the_other_each_at_its_own_length() {
    let sequence = "{ kind = \"sequence\", parts = [\
         { steps = 4, schedule = { kind = \"linear\", base = 8.0 } },\
         { steps = 2, schedule = 5.0 },\
         { steps = 10, schedule = { kind = \"linear\", base = 1.0, end = 0.5 } }] }";
    let found = values(sequence, 16, &[0, 1, 3, 4, 5, 6, 11, 16, 90]);
    close(&found, &[8.0, 6.0, 2.0, 5.0, 5.0, 1.0, 0.75, 0.5, 0.5]);
}

#[test]
fn a_whole_number_is_a_number() {
    close(&values("2", 10, &[0, 9]), &[2.0, 2.0]);
    let error = toml::from_str::<OptimizerConfig>("lr = true").unwrap_err().to_string();
    assert!(error.contains("a number, or a table such as"), "{error}");
    let error = serde_json::from_str::<OptimizerConfig>("{\"lr\": \"high\"}").unwrap_err().to_string();
    assert!(error.contains("a number, or a table such as"), "{error}");
    let config: OptimizerConfig = serde_json::from_str("{\"lr\": 3}").unwrap();
    close(&[Optimizer::new(&config, 1).unwrap().lr_schedule().value(0)], &[3.0]);
}

#[test]
fn curves_that_cannot_be_computed_are_refused_with_their_field() {
    for (curve, field) in [
        ("multistep\", base = 1.0, milestones = [3, 3], gamma = 0.1", "lr.milestones"),
        ("multistep\", base = 1.0, milestones = [3, 2], gamma = 0.1", "lr.milestones"),
        ("piecewise\", boundaries = [3, 2], values = [1.0, 0.5, 0.1]", "lr.boundaries"),
        ("piecewise\", boundaries = [2, 3], values = [1.0, 0.5]", "lr.values"),
        ("piecewise\", boundaries = [2], values = [1.0, 0.5, 0.1]", "lr.values"),
        ("piecewise\", boundaries = [2], values = [1.0, -0.5]", "lr.values"),
        ("table\", values = [1.0, nan]", "lr.values"),
        ("caffe_sigmoid\", base = 1.0, gamma = inf, midpoint = 3", "lr.gamma"),
        ("sgdr_code\", base = 1.0, batches_per_epoch = 0, period_epochs = 1", "lr.batches_per_epoch"),
        ("sgdr_code\", base = 1.0, batches_per_epoch = 1, period_epochs = 0", "lr.period_epochs"),
        ("sgdr_code\", base = 1.0, batches_per_epoch = 1, period_epochs = 1, period_mult = 0", "lr.period_mult"),
        (
            "normalized_restarts\", lambda = 1.0, batches_per_epoch = 9223372036854775807, period_epochs = 3",
            "lr.period_epochs",
        ),
        ("one_cycle\", base = 1.0, steps = 20, div_factor = 0.0", "lr.div_factor"),
        ("one_cycle\", base = 1.0, steps = 20, final_div_factor = -1.0", "lr.final_div_factor"),
        ("one_cycle\", base = 1.0, steps = 20, pct_start = 0.0", "lr.pct_start"),
        ("one_cycle\", base = 1.0, steps = 20, pct_start = 0.05", "lr.pct_start"),
        ("one_cycle\", base = 1.0, steps = 20, pct_start = 1.0", "lr.pct_start"),
        ("one_cycle\", base = 1.0, steps = 20, pct_start = 0.5, three_phase = true", "lr.pct_start"),
    ] {
        let config: OptimizerConfig = toml::from_str(&format!("lr = {{ kind = \"{curve} }}")).expect(curve);
        let error = Optimizer::new(&config, 20).expect_err(curve).to_string();
        assert!(error.starts_with(field), "{curve}\n{error}");
    }
    for fine in [
        "piecewise\", boundaries = [2, 3], values = [1.0, 0.5, 0.0]",
        "multistep\", base = 1.0, milestones = [2, 3], gamma = 0.1",
        "caffe_sigmoid\", base = 1.0, gamma = -0.5, midpoint = 3",
        "one_cycle\", base = 1.0, steps = 20, pct_start = 0.06",
        "one_cycle\", base = 1.0, steps = 20, pct_start = 0.49, three_phase = true",
    ] {
        values(&format!("{{ kind = \"{fine} }}"), 20, &[0, 19]);
    }
}

#[test]
fn restarts_of_equal_periods_count_them() {
    let restarts = "{ kind = \"cosine_restarts\", base = 2.0, period = 7, restart_mult = 0.5 }";
    close(&values(restarts, 40, &[0, 7, 14, 21]), &[2.0, 1.0, 0.5, 0.25]);
    // The published code is a batch ahead in the first period only.
    let code = "{ kind = \"sgdr_code\", base = 2.0, batches_per_epoch = 3, period_epochs = 2 }";
    close(&values(code, 40, &[5, 6, 12, 18]), &[0.0, 2.0, 2.0, 2.0]);
}
