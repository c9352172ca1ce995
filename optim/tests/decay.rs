//! What decay does over a run: half-lives, ledgers, equivalents, warnings.

use halflife_optim::{DecayLedger, DecayScale, DecayWarning, Optimizer, OptimizerConfig, Parameters};

fn build(text: &str, steps: u64) -> Optimizer {
    let config: OptimizerConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    Optimizer::new(&config, steps).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

const WARMUP_COSINE: &str =
    "lr = { kind = \"warmup\", steps = 50, then = { kind = \"cosine\", base = 0.01, end = 1e-4 } }\n";

fn decay(rest: &str) -> String {
    format!("{WARMUP_COSINE}weight_decay = {{ mode = \"decoupled\", {rest} }}\nsteps_per_epoch = 20")
}

#[test]
fn a_half_life_is_what_the_ledger_then_says() {
    for scale in ["lr", "corrected_lr", "schedule", "independent", "lr_squared", "nothing"] {
        let optimizer = build(&decay(&format!("half_life = \"300 steps\", scaled_by = \"{scale}\"")), 1000);
        let ledger = optimizer.ledger(&optimizer.tensor("w", &[2, 2]), 1000);
        let half_life = ledger.half_life_steps().unwrap();
        assert!((half_life - 300.0).abs() < 1e-6, "{scale}: {half_life}");
        assert!((ledger.remaining() - 0.5_f64.powf(1000.0 / 300.0)).abs() < 1e-9);
    }
}

#[test]
fn a_timescale_in_epochs_is_what_the_ledger_then_says() {
    let optimizer = build(&decay("timescale = \"5 epochs\""), 1000);
    let ledger = optimizer.ledger(&optimizer.tensor("w", &[2, 2]), 1000);
    assert!((ledger.timescale_epochs(20).unwrap() - 5.0).abs() < 1e-9);
}

#[test]
fn weights_without_gradient_shrink_by_what_the_ledger_says() {
    let optimizer = build(&decay("half_life = \"100 steps\""), 400);
    let mut model = Parameters::default();
    model.add(&optimizer, "w", &[1], vec![3.0]).unwrap();
    for step in 1..=400 {
        optimizer.step(&mut model, &[Some(&[0.0])], step).unwrap();
    }
    let left = f64::from(model.tensors()[0].weights()[0]) / 3.0;
    assert!((left - 0.0625).abs() < 1e-5, "{left}");
}

#[test]
fn an_equivalent_under_another_convention_decays_as_much() {
    let optimizer = build(&decay("value = 0.1"), 1000);
    let rule = optimizer.tensor("w", &[2, 2]);
    let exponent = optimizer.ledger(&rule, 1000).log_remaining;
    for (scale, name) in [
        (DecayScale::Lr, "lr"),
        (DecayScale::CorrectedLr, "corrected_lr"),
        (DecayScale::Schedule, "schedule"),
        (DecayScale::Nothing, "nothing"),
    ] {
        let value = optimizer.equivalent_decay(&rule, scale).unwrap().unwrap();
        let other = build(&decay(&format!("value = {value:e}, scaled_by = \"{name}\"")), 1000);
        let found = other.ledger(&other.tensor("w", &[2, 2]), 1000).log_remaining;
        assert!((found - exponent).abs() < 1e-9 * exponent.abs(), "{name}: {found} {exponent}");
        if scale == DecayScale::Lr {
            assert!((value - 0.1).abs() < 1e-12);
        }
    }
}

#[test]
fn a_decay_of_zero_has_no_equivalent() {
    let optimizer = build("lr = 0.1\nweight_decay = { mode = \"decoupled\", value = 0.0 }", 10);
    assert_eq!(optimizer.equivalent_decay(&optimizer.tensor("w", &[2, 2]), DecayScale::Nothing).unwrap(), None);
}

#[test]
fn adamc_scales_decay_by_the_square_of_lr() {
    let optimizer = build(&decay("value = 0.5, scaled_by = \"lr_squared\""), 1000);
    let rule = optimizer.tensor("w", &[2, 2]);
    for step in [10, 51, 400, 1000] {
        let factors = optimizer.factors(&rule, step, step);
        let expected = factors.lr() * factors.lr() / 0.01 * 0.5;
        assert!((factors.decay() - expected).abs() < 1e-15, "step {step}");
    }
}

#[test]
fn cautious_decay_spares_weights_that_the_update_pulls_outwards() {
    for order in ["before", "fused"] {
        let text = format!(
            "algorithm = \"sgd\"\nlr = 0.5\nweight_decay = {{ mode = \"decoupled\", value = 0.5, order = \"{order}\", \
             cautious = true }}"
        );
        let optimizer = build(&text, 1);
        let factors = optimizer.factors(&optimizer.tensor("w", &[4]), 1, 1);
        let mut next = [0.0; 4];
        // u = 0.5 g; w shrinks by a quarter only where u w >= 0.
        optimizer.update(&factors, &[1.0, 1.0, -1.0, 2.0], &mut next, &mut [], &[1.0, -1.0, 1.0, 0.0]);
        assert_eq!(next, [0.25, 1.5, -1.5, 1.5], "{order}");
        optimizer.update(&factors, &[-2.0, 0.0, 0.0, -1.0], &mut next, &mut [], &[0.0, 0.0, 1.0, -1.0]);
        assert_eq!(next, [-1.5, 0.0, -0.5, -0.25], "{order}: an update of 0 opposes no weight");
    }
}

#[test]
fn a_recorded_run_is_the_ledger_of_the_run() {
    for (mode, decays) in [("decoupled", true), ("l2", false)] {
        let optimizer = build(&format!("{WARMUP_COSINE}weight_decay = {{ mode = \"{mode}\", value = 0.3 }}"), 200);
        let rule = optimizer.tensor("w", &[2, 2]);
        let mut recorded = DecayLedger::default();
        (1..=200).for_each(|step| recorded.record(&optimizer.factors(&rule, step, step)));
        assert_eq!(recorded, optimizer.ledger(&rule, 200), "{mode}");
        assert_eq!((recorded.steps, recorded.log_remaining < 0.0), (200, decays), "{mode}");
    }
}

#[test]
fn every_rule_with_moments_tells_decay_its_bias_correction() {
    for algorithm in ["adam", "nadam_torch", "nadam_optax", "radam", "lamb"] {
        let outside = if algorithm == "lamb" { ", inside_trust_ratio = false" } else { "" };
        let text = format!(
            "algorithm = \"{algorithm}\"\nlr = 0.01\nbetas = [0.9, 0.999]\n\
             weight_decay = {{ mode = \"decoupled\", value = 0.5, scaled_by = \"corrected_lr\"{outside} }}"
        );
        let optimizer = build(&text, 10);
        let found = optimizer.factors(&optimizer.tensor("w", &[2, 2]), 3, 3).decay();
        let expected = 0.5 * 0.01 * (1.0 - 0.999_f64.powi(3)).sqrt() / (1.0 - 0.9_f64.powi(3));
        assert!((found / expected - 1.0).abs() < 1e-6, "{algorithm}: {found} {expected}");
    }
}

#[test]
fn spans_that_no_factor_below_one_reaches_are_refused() {
    let solved = |half_life: &str| {
        let text = format!("lr = 0.1\nweight_decay = {{ mode = \"decoupled\", half_life = \"{half_life} steps\" }}");
        let config: OptimizerConfig = toml::from_str(&text).unwrap();
        Optimizer::new(&config, 10)
    };
    let error = solved("0.01").unwrap_err().to_string();
    assert!(error.contains("a span that factors below 1 can reach"), "{error}");
    let optimizer = solved("0.1").unwrap();
    let remaining = optimizer.ledger(&optimizer.tensor("w", &[2, 2]), 10).log_remaining;
    assert!((remaining + 100.0 * std::f64::consts::LN_2).abs() < 1e-6, "{remaining}");
}

#[test]
fn suspicious_decays_are_named() {
    let found = |text: &str, steps| build(text, steps).warnings([("w", &[2, 2][..]), ("b", &[2][..])]);
    let raw = found("preset = \"tf-contrib-adamw\"\nlr = 0.001\nweight_decay = { value = 0.01 }", 1000);
    assert!(raw.iter().any(|w| matches!(w, DecayWarning::LargeRawDecay { .. })), "{raw:?}");
    let slow = found("lr = 0.001\nweight_decay = { mode = \"decoupled\", value = 0.01 }", 1000);
    assert!(slow.iter().any(|w| matches!(w, DecayWarning::LongerThanRun { .. })), "{slow:?}");
    assert!(slow.contains(&DecayWarning::DecaysVectors { tensors: vec!["b".into()] }));
    let fast = found(&decay("half_life = \"10 steps\""), 1000);
    assert!(fast.iter().any(|w| matches!(w, DecayWarning::ShorterThanWarmup { .. })), "{fast:?}");
    let tiny = found("lr = 1e-6\nweight_decay = { mode = \"decoupled\", value = 0.01 }", 10);
    assert!(tiny.iter().any(|w| matches!(w, DecayWarning::BelowF32 { .. })), "{tiny:?}");
    let whole = found("lr = 1.0\nweight_decay = { mode = \"decoupled\", value = 1.0 }", 10);
    assert!(whole.contains(&DecayWarning::TakesEverything { step: 1, factor: 1.0 }), "{whole:?}");
    for warning in raw.iter().chain(&slow).chain(&fast).chain(&tiny).chain(&whole) {
        assert!(warning.to_string().contains("deca"), "{warning}");
    }
    assert_eq!(found("lr = 1.0", 10), vec![]);
}

#[test]
fn a_warmup_that_outlasts_the_run_is_named_with_or_without_decay() {
    for decay in ["", "weight_decay = { mode = \"decoupled\", value = 0.1 }"] {
        let text = format!("lr = {{ kind = \"warmup\", steps = 50, then = 0.01 }}\n{decay}");
        let named = DecayWarning::WarmupLongerThanRun { warmup_steps: 50, run_steps: 49 };
        assert!(build(&text, 49).warnings([]).contains(&named), "{text}");
        assert!(!build(&text, 50).warnings([]).iter().any(|w| matches!(w, DecayWarning::WarmupLongerThanRun { .. })));
    }
}

#[test]
fn a_large_decay_by_the_schedule_alone_is_as_suspect_as_a_raw_one() {
    for (scale, suspect) in [("schedule", true), ("nothing", true), ("lr", false), ("lr_squared", false)] {
        let text =
            format!("lr = 0.001\nweight_decay = {{ mode = \"decoupled\", value = 0.01, scaled_by = \"{scale}\" }}");
        let found = build(&text, 1000).warnings([]);
        assert_eq!(found.contains(&DecayWarning::LargeRawDecay { factor: 0.01 }), suspect, "{scale}: {found:?}");
    }
}

#[test]
fn a_decay_that_f32_shows_is_not_called_too_small() {
    for (value, lost) in [(2e-8, true), (4e-8, false), (1e-6, false)] {
        let text = format!("lr = 1.0\nweight_decay = {{ mode = \"decoupled\", value = {value:e} }}");
        let found = build(&text, 10).warnings([]);
        assert_eq!(found.iter().any(|w| matches!(w, DecayWarning::BelowF32 { .. })), lost, "{value}: {found:?}");
    }
}

#[test]
fn a_group_is_judged_by_its_own_numbers() {
    let text = r#"
        lr = 0.001
        weight_decay = { mode = "decoupled", value = 2.0, scaled_by = "lr" }
        [[groups]]
        name = "head"
        patterns = ["^head"]
        decay_mult = 600.0
        [[groups]]
        name = "slow"
        patterns = ["^slow"]
        lr = { kind = "warmup", steps = 2000, then = 1e-9 }
        [[groups]]
        name = "alike"
        patterns = ["^alike"]
        [[groups]]
        name = "twin"
        patterns = ["^twin"]
    "#;
    let optimizer = build(text, 1000);
    let of = |group: &str, warning| DecayWarning::OfGroup { group: group.into(), warning: Box::new(warning) };
    let found = |names: &[&str]| optimizer.warnings(names.iter().map(|name| (*name, &[2, 2][..])));
    let head = of("head", DecayWarning::TakesEverything { step: 1, factor: 1.2 });
    let slow = of("slow", DecayWarning::WarmupLongerThanRun { warmup_steps: 2000, run_steps: 1000 });
    assert_eq!(found(&["w", "alike.w"]), vec![], "a timescale of 500 steps is half the run");
    assert_eq!(found(&["w", "head.w"]), std::slice::from_ref(&head));
    assert_eq!(
        head.to_string(),
        "group \"head\": decay takes 1.2 of a weight at step 1: at 1 and above weights change sign"
    );
    let all = found(&["slow.w", "head.w", "w"]);
    assert!(all.contains(&head) && all.contains(&slow), "{all:?}");
    assert!(all.iter().all(|warning| matches!(warning, DecayWarning::OfGroup { .. })), "{all:?}");
    assert_eq!(optimizer.warnings([]), all, "of no tensors all groups are judged");

    let alike = build(&text.replace("2.0", "0.01"), 1000);
    let repeated = alike.warnings([("alike.w", &[2, 2][..]), ("w", &[2, 2][..])]);
    assert!(matches!(repeated[..], [DecayWarning::LongerThanRun { .. }]), "said once: {repeated:?}");
    let shared = alike.warnings([("alike.w", &[2, 2][..])]);
    assert!(matches!(shared[..], [DecayWarning::OfGroup { .. }]), "{shared:?}");
    let twins = alike.warnings([("alike.w", &[2, 2][..]), ("twin.w", &[2, 2][..])]);
    assert_eq!(twins, shared, "what the first of two groups is told, the second is not");
}

#[test]
fn a_decay_is_lost_in_f32_below_half_a_unit_and_not_at_it() {
    let lost = |value: f64| {
        let text =
            format!("lr = 0.1\nweight_decay = {{ mode = \"decoupled\", value = {value:e}, scaled_by = \"nothing\" }}");
        build(&text, 10).warnings([]).iter().any(|w| matches!(w, DecayWarning::BelowF32 { .. }))
    };
    let half_unit = 2f64.powi(-25);
    assert!(lost(0.99 * half_unit) && !lost(half_unit));
}

#[test]
fn groups_that_spare_every_tensor_are_named() {
    let optimizer = build("preset = \"mxnet-0.7\"\nlr = 0.1", 10);
    let nothing = |tensors: &[(&str, &[usize])]| {
        let found = optimizer.warnings(tensors.iter().copied());
        found.iter().any(|w| matches!(w, DecayWarning::DecaysNothing { .. }))
    };
    assert!(nothing(&[("layers.0.weight", &[2, 2]), ("layers.0.bias", &[2])]), "MXNet's pattern is _weight$");
    assert!(!nothing(&[("fc1_weight", &[2, 2]), ("fc1_bias", &[2])]));
    assert!(!nothing(&[]), "of no tensors nothing can be said");
    let zero = build("lr = 0.1\nweight_decay = { mode = \"decoupled\", value = 0.0 }", 10);
    assert_eq!(zero.warnings([("w", &[2, 2][..])]), vec![], "a decay of 0 spares on purpose");
}

#[test]
fn group_rules_are_those_their_tensors_get() {
    let text = "lr = 0.1\nweight_decay = { mode = \"decoupled\", value = 0.1 }\n\
        [[groups]]\nname = \"spared\"\npatterns = [\"bias$\"]\ndecay_mult = 0.0\n\
        [[groups]]\nname = \"fast\"\npatterns = [\"head\"]\nlr_mult = 2.0";
    let optimizer = build(text, 10);
    let of_tensors: Vec<_> = ["w", "bias", "head"].into_iter().map(|name| optimizer.tensor(name, &[2, 2])).collect();
    assert_eq!(optimizer.group_rules(), of_tensors);
}

#[test]
fn decay_scaled_by_lr_carries_the_lr_multiplier_of_its_group() {
    for (scale, with_lr) in [("lr", true), ("corrected_lr", true), ("lr_squared", true), ("schedule", false)] {
        let text = format!(
            "lr = 0.5\nweight_decay = {{ mode = \"decoupled\", value = 0.25, scaled_by = \"{scale}\" }}\n\
             [[groups]]\nname = \"fast\"\npatterns = [\"^f\"]\nlr_mult = 4.0\ndecay_mult = 2.0"
        );
        let optimizer = build(&text, 10);
        let decay = |name| optimizer.factors(&optimizer.tensor(name, &[2, 2]), 3, 3).decay();
        let expected = if with_lr { 8.0 } else { 2.0 };
        assert!((decay("f") / decay("w") - expected).abs() < 1e-12, "{scale}");
    }
}

#[test]
fn the_global_counter_counts_steps_and_the_other_this_tensors_updates() {
    let lr_by_counter = |counter: &str| {
        let text = format!(
            "lr = 0.1\nstep_counter = \"{counter}\"\n\
             weight_decay = {{ mode = \"decoupled\", value = 0.1, scaled_by = \"corrected_lr\" }}"
        );
        let optimizer = build(&text, 100);
        let rule = optimizer.tensor("w", &[2]);
        // Corrected by sqrt(bc2) / bc1 of the count that was read.
        (optimizer.factors(&rule, 50, 2).decay(), optimizer.factors(&rule, 50, 50).decay())
    };
    let (skipped, dense) = lr_by_counter("global");
    assert!((skipped - dense).abs() < 1e-15);
    let (skipped, dense) = lr_by_counter("per_tensor");
    assert!((skipped - dense).abs() > 0.01 * dense);
}
