//! The configuration: strict, round-tripping, and refused with a reason when it cannot hold.

use halflife_optim::{ConfigError, DecayMode, Optimizer, OptimizerConfig, Reduction, Span};

const FULL: &str = r#"
    algorithm = "adam"
    betas = [0.9, 0.95]
    eps = 1e-8
    eps_placement = "corrected"
    lr = { kind = "warmup", steps = 10, then = { kind = "cosine", base = 1e-3 } }
    weight_decay = { mode = "decoupled", value = 0.1, scaled_by = "lr", order = "before" }

    [[groups]]
    name = "spared"
    patterns = ["bias$", "norm"]
    decay_mult = 0.0

    [[groups]]
    name = "late"
    patterns = ["bias"]
    lr_mult = 2.0
"#;

fn build(text: &str) -> Result<Optimizer, ConfigError> {
    let config: OptimizerConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{e}"));
    Optimizer::new(&config, 100)
}

fn refusal(text: &str) -> String {
    build(text).expect_err(text).to_string()
}

#[test]
fn a_full_configuration_round_trips() {
    let config: OptimizerConfig = toml::from_str(FULL).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<OptimizerConfig>(&text).unwrap(), config);
}

#[test]
fn unknown_keys_are_named() {
    for (text, key) in [
        ("lr = 1.0\nbeta = 0.9", "beta"),
        ("lr = { kind = \"cosine\", base = 1.0, stepz = 3 }", "stepz"),
        ("lr = 1.0\nweight_decay = { mode = \"none\", x = 1 }", "x"),
        ("lr = 1.0\n[[groups]]\nname = \"a\"\npattern = \"b\"", "pattern"),
        ("lr = 1.0\ngradient = [{ op = \"rescale\", by = 1.0, to = 2.0 }]", "to"),
    ] {
        let error = toml::from_str::<OptimizerConfig>(text).unwrap_err();
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
}

#[test]
fn the_first_matching_group_wins() {
    let optimizer = build(FULL).unwrap();
    let rule = optimizer.tensor("layer.bias", &[4]);
    assert_eq!(rule.group(), Some("spared"));
    assert!(!rule.decays());
    let rule = optimizer.tensor("bias_table", &[4, 4]);
    assert_eq!((rule.group(), rule.lr_mult()), (Some("late"), 2.0));
    let rule = optimizer.tensor("kernel", &[4, 4]);
    assert_eq!((rule.group(), rule.decays()), (None, true));
}

#[test]
fn what_cannot_hold_is_refused_with_its_field() {
    for (text, part) in [
        ("lr = -0.1", "lr: expected"),
        ("lr = { kind = \"linear\", base = -1.0 }", "lr.base"),
        ("lr = nan", "lr: expected"),
        ("lr = 1.0\nbetas = [1.0, 0.9]", "betas[0]"),
        ("lr = 1.0\nbetas = [0.9, -0.1]", "betas[1]"),
        ("lr = 1.0\neps = 0.0", "eps: expected"),
        ("lr = 1.0\neps = inf", "eps: expected"),
        ("lr = 1.0\neps = 1e-50", "eps: expected"),
        ("lr = 1.0\nmomentum = 0.9", "momentum is set, but algorithm = adam"),
        ("lr = 1.0\nalgorithm = \"sgd\"\nbetas = [0.9, 0.9]", "betas is set"),
        ("lr = 1.0\nalgorithm = \"sgd\"\nnesterov = true", "nesterov"),
        ("lr = 1.0\nweight_decay = { value = 0.1 }", "weight_decay.mode is missing"),
        ("lr = 1.0\nweight_decay = { mode = \"l2\" }", "weight_decay.value is missing"),
        ("lr = 1.0\nweight_decay = { mode = \"l2\", value = 0.1, order = \"after\" }", "weight_decay.order is set"),
        ("lr = 1.0\nweight_decay = { mode = \"decoupled\", value = -0.1 }", "weight_decay.value: expected"),
        ("lr = 1.0\ngradient = [{ op = \"l2\" }]", "cannot be combined"),
        ("lr = 1.0\n[[groups]]\nname = \"g\"\npatterns = [\"(\"]", "not a regular expression"),
        ("lr = 1.0\n[[groups]]\nname = \"g\"", "groups.g.patterns is missing"),
        ("lr = 1.0\n[[groups]]\nname = \"g\"\nrank_max = 1\nlr_mult = -1.0", "groups.g.lr_mult"),
        ("lr = { kind = \"table\", values = [] }", "lr.values"),
        ("lr = 1.0\nalgorithm = \"sgd\"\neps = 1e-8", "eps is set, but algorithm = sgd"),
        ("lr = 1.0\nalgorithm = \"lion\"\neps = 1e-8", "eps is set, but algorithm = lion"),
        ("lr = 1.0\nalgorithm = \"lion\"\nstep_counter = \"global\"", "step_counter is set"),
        (
            "lr = 1.0\nalgorithm = \"sgd\"\nmomentum = 0.9\nmomentum_form = \"lr_inside\"\ndampening = 0.5",
            "momentum = 0.9, momentum_form = lr_inside",
        ),
        ("lr = 1.0\ngradient = [{ op = \"rescale\", by = 0.0 }]", "gradient.rescale.by"),
        ("lr = 1.0\ngradient = [{ op = \"clip_value\", at = -1.0 }]", "gradient.clip_value.at"),
        ("lr = 1.0\ngradient = [{ op = \"clip_norm\", max_norm = 0.0 }]", "gradient.clip_norm.max_norm"),
        ("lr = 1.0\ngradient = [{ op = \"clip_global_norm\", max_norm = nan }]", "gradient.clip_global_norm"),
        ("lr = { kind = \"step\", base = 1.0, every = 0, gamma = 0.1 }", "lr.every"),
    ] {
        let error = refusal(text);
        assert!(error.contains(part), "{text}\n{error}");
    }
}

#[test]
fn a_rank_limit_takes_that_rank_and_below() {
    let optimizer = build("lr = 1.0\n[[groups]]\nname = \"low\"\nrank_max = 1").unwrap();
    let group = |shape: &[usize]| optimizer.tensor("w", shape).group().map(str::to_owned);
    assert_eq!(group(&[]).as_deref(), Some("low"));
    assert_eq!(group(&[4]).as_deref(), Some("low"));
    assert_eq!(group(&[4, 4]), None);
}

#[test]
fn only_a_colon_and_digits_are_stripped_from_names() {
    let text = "lr = 1.0\nstrip_name_suffix = true\n[[groups]]\nname = \"end\"\npatterns = [\"bias$\"]";
    let optimizer = build(text).unwrap();
    let matches = |name| optimizer.tensor(name, &[1]).group().is_some();
    assert!(matches("bias") && matches("bias:0") && matches("bias:12"));
    assert!(!matches("bias:") && !matches("bias:a") && !matches("bias:0:1"));
}

#[test]
fn schedules_hold_their_last_value() {
    for lr in [
        "{ kind = \"one_cycle\", base = 1.0, steps = 20 }",
        "{ kind = \"cosine\", base = 1.0, end = 0.25, steps = 20 }",
        "{ kind = \"polynomial\", base = 1.0, end = 0.25, power = 2.0, steps = 20 }",
        "{ kind = \"table\", values = [1.0, 0.5] }",
        "{ kind = \"sequence\", parts = [{ steps = 5, schedule = 1.0 }, { steps = 1, schedule = 0.5 }] }",
    ] {
        let optimizer = build(&format!("lr = {lr}")).unwrap();
        let schedule = optimizer.lr_schedule();
        assert_eq!(schedule.value(20).to_bits(), schedule.value(1_000_000).to_bits(), "{lr}");
        assert!(schedule.value(20) < schedule.peak(20), "{lr}");
    }
}

#[test]
fn decays_that_cannot_hold_are_refused_with_their_reason() {
    let refused = |algorithm: &str, decay: &str, part: &str| {
        let text = format!("lr = 1.0\nalgorithm = \"{algorithm}\"\nweight_decay = {{ mode = \"decoupled\", {decay} }}");
        let error = refusal(&text);
        assert!(error.contains(part), "{text}\n{error}");
    };
    let corrected = "value = 0.1, scaled_by = \"corrected_lr\", inside_trust_ratio = true";
    refused("lamb", corrected, "weight_decay.scaled_by = corrected_lr, order =");
    refused("adam", "value = 0.1, cautious = true, order = \"after\"", "cautious");
    refused("adam", "half_life = \"9 steps\", timescale = \"9 steps\"", "they set the same number");
    refused("adam", "value = 0.1, half_life = \"9 steps\"", "they set the same number");
    refused("adam", "value = 0.1, scaled_by = \"lr\", schedule = 1.0", "weight_decay.schedule is set");
    refused("adam", "value = 0.1, inside_trust_ratio = true", "inside_trust_ratio is set, but algorithm = adam");
    for decay in ["scaled_by = \"nothing\"", "order = \"before\"", "cautious = true"] {
        refused("lamb", &format!("value = 0.1, {decay}"), "inside the trust ratio");
        let outside = format!("value = 0.1, inside_trust_ratio = false, {decay}");
        build(&format!("lr = 1.0\nalgorithm = \"lamb\"\nweight_decay = {{ mode = \"decoupled\", {outside} }}"))
            .unwrap_or_else(|error| panic!("{decay}: {error}"));
    }
}

#[test]
fn a_group_changes_only_what_it_says() {
    let optimizer = build("lr = 1.0\n[[groups]]\nname = \"g\"\npatterns = [\"w\"]").unwrap();
    let rule = optimizer.tensor("w", &[2]);
    assert_eq!((rule.group(), rule.lr_mult(), rule.decay_mult()), (Some("g"), 1.0, 1.0));
    let text = "lr = 1.0\n[[groups]]\nname = \"g\"\npatterns = [\"w\"]\nlr_mult = 0.5\ndecay_mult = 3.0";
    let rule = build(text).unwrap().tensor("w", &[2]);
    assert_eq!((rule.lr_mult(), rule.decay_mult()), (0.5, 3.0));
}

#[test]
fn a_preset_gives_its_decay_to_what_leaves_it_open() {
    let decay = |text: &str| {
        let config: OptimizerConfig =
            toml::from_str(&format!("preset = \"keras-adamw\"\nlr = 0.1\nweight_decay = {{ {text} }}")).unwrap();
        let decay = config.expanded().unwrap().weight_decay.unwrap();
        (decay.mode, decay.value.is_some(), decay.half_life.is_some() || decay.timescale.is_some())
    };
    let decoupled = Some(DecayMode::Decoupled);
    assert_eq!(decay("order = \"before\""), (decoupled, true, false));
    assert_eq!(decay("mode = \"decoupled\""), (decoupled, true, false), "the preset's own mode");
    assert_eq!(decay("half_life = \"9 steps\""), (decoupled, false, true), "a span in the value's place");
    assert_eq!(decay("timescale = \"9 steps\""), (decoupled, false, true));
    assert_eq!(decay("mode = \"none\""), (Some(DecayMode::None), false, false), "another mode takes nothing");
}

#[test]
fn spans_are_a_number_above_zero_and_a_unit() {
    let parsed = |text: &str| text.parse::<Span>().map(|span| span.to_string()).ok();
    assert_eq!(parsed("9 steps").as_deref(), Some("9 steps"));
    assert_eq!(parsed(" 0.5  epochs ").as_deref(), Some("0.5 epochs"));
    assert_eq!(String::from(Span::Steps(2.0)), "2 steps");
    for text in ["0 steps", "-1 steps", "inf steps", "nan epochs", "9", "9 weeks", "steps"] {
        assert_eq!(parsed(text), None, "{text}");
    }
}

#[test]
fn the_cost_of_state_is_told() {
    let cost = |text: &str| {
        let optimizer = build(text).unwrap();
        (optimizer.state_bytes_per_parameter(), optimizer.needs_whole_tensors(), optimizer.reductions())
    };
    assert_eq!(cost("lr = 1.0"), (8, false, vec![]));
    assert_eq!(cost("lr = 1.0\namsgrad = true\nstate_dtype = \"bf16\""), (6, false, vec![]));
    assert_eq!(cost("lr = 1.0\nalgorithm = \"sgd\""), (0, false, vec![]));
    assert_eq!(cost("lr = 1.0\nalgorithm = \"lamb\""), (8, false, vec![Reduction::TrustRatio]));
    assert_eq!(cost("lr = 1.0\nalgorithm = \"adafactor_torch\""), (0, true, vec![]));
    let clipped = cost("lr = 1.0\ngradient = [{ op = \"clip_global_norm\", max_norm = 1.0 }]");
    assert_eq!(clipped, (8, false, vec![Reduction::GlobalNorm]));
    assert!(Reduction::GlobalNorm.is_global() && !Reduction::TrustRatio.is_global());
}
