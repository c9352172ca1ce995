//! Section 2: the update rule in plain notation, and what its letters are in this job.

use halflife_optim::{
    BiasRounding, DecayMode, DecayScale, MomentRounding, OptimizerConfig, ScheduleConfig, StepCounter,
};

use super::layout::hanging;
use super::number;
use super::run::Run;

pub(super) fn lines(run: &Run) -> Vec<String> {
    let formula = run.config().formula().expect("the configuration has been expanded before");
    let letters = letters(run, &formula.join("\n"));
    let mut lines: Vec<String> = formula.iter().flat_map(|line| hanging("  ", "      ", line)).collect();
    lines.push(String::new());
    let width = letters.iter().map(|(letter, _)| letter.len()).max().unwrap_or(0);
    let indent = " ".repeat(width + 4);
    for (letter, meaning) in letters {
        lines.extend(hanging(&format!("  {letter:width$}  "), &indent, &meaning));
    }
    lines
}

/// Every letter of the formula whose meaning is a choice of this job.
fn letters(run: &Run, formula: &str) -> Vec<(&'static str, String)> {
    let config = run.config();
    let mut letters =
        vec![("w, g", "a weight, its gradient".to_owned()), ("lr", schedule(run.optimizer.lr_schedule().config()))];
    if run.decay_mode() != DecayMode::None {
        letters.push(("wd", strength(run)));
    }
    if run.decay().scaled_by == Some(DecayScale::Schedule) {
        let eta = run.decay().schedule.as_ref();
        let multiplier = format!("lr / {}, its base", number::value(run.optimizer.lr_schedule().base()));
        letters.push(("eta", eta.map_or(multiplier, schedule)));
    }
    if let (Some([b1, b2]), true) = (config.betas, formula.contains("bc")) {
        letters.push(("bc", format!("bc1 = 1 - {b1}^t, bc2 = 1 - {b2}^t")));
    }
    if let Some(counter) = config.step_counter {
        let counted = match counter {
            StepCounter::PerTensor => "updates of the tensor, this one included",
            StepCounter::Global => "steps of the job, this one included",
        };
        letters.push(("t", counted.to_owned()));
    }
    letters.extend(rounding(config).map(|rounding| ("f32", rounding)));
    if !config.groups.is_empty() {
        letters.push(("groups", multipliers(run)));
    }
    letters
}

/// A schedule in words: `warmup (steps 50, from 0), then cosine (base 0.02, end 0, steps 950)`.
fn schedule(schedule: &ScheduleConfig) -> String {
    match schedule {
        ScheduleConfig::Constant(value) => format!("{} at every step", number::value(*value)),
        ScheduleConfig::Curve(_) => {
            toml::Value::try_from(schedule).map_or_else(|_| String::new(), |value| words(&value))
        }
    }
}

/// Most elements of a list that are spelt out.
const LIST_MAX: usize = 8;

fn words(value: &toml::Value) -> String {
    match value {
        toml::Value::Float(value) => number::value(*value),
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(list) => {
            let shown: Vec<String> = list.iter().take(LIST_MAX).map(words).collect();
            let rest = if list.len() > LIST_MAX { format!(", ... {} in all", list.len()) } else { String::new() };
            format!("[{}{rest}]", shown.join(", "))
        }
        toml::Value::Table(table) => curve(table),
        other => other.to_string(),
    }
}

fn curve(table: &toml::Table) -> String {
    let kind = table.get("kind").map_or_else(String::new, words);
    let settings = table.iter().filter(|(key, _)| !matches!(key.as_str(), "kind" | "then"));
    let settings: Vec<String> = settings.map(|(key, value)| format!("{key} {}", words(value))).collect();
    let then = table.get("then").map(|then| format!(", then {}", words(then))).unwrap_or_default();
    let space = if kind.is_empty() { "" } else { " " };
    format!("{kind}{space}({}){then}", settings.join(", "))
}

/// wd, also where a half-life or a timescale stands in for it.
fn strength(run: &Run) -> String {
    let decay = run.decay();
    if let Some(value) = &decay.value {
        return schedule(value);
    }
    let asked = match (decay.half_life, decay.timescale) {
        (Some(span), _) => format!("a half-life of {span}"),
        (None, Some(span)) => format!("a timescale of {span}"),
        (None, None) => return "none".to_owned(),
    };
    let ungrouped = &run.optimizer.group_rules()[0];
    let solved = run.optimizer.equivalent_decay(ungrouped, decay.scaled_by.unwrap_or_default());
    match solved {
        Ok(Some(value)) => format!("{}, which under this schedule gives {asked}", number::value(value)),
        _ => asked,
    }
}

fn rounding(config: &OptimizerConfig) -> Option<String> {
    let rounding = config.hyper_rounding?;
    let moments = (rounding.moments == MomentRounding::F32).then_some("the betas of the moments are rounded to f32");
    let powers = match rounding.bias_correction {
        BiasRounding::F64 => None,
        BiasRounding::F32 => Some("beta^t is a power of the f32 beta"),
        BiasRounding::F32RunningProduct => Some("beta^t is an f32 product, rounded at every step"),
    };
    let said: Vec<&str> = moments.into_iter().chain(powers).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn multipliers(run: &Run) -> String {
    let groups = run.config().groups.iter().map(|group| {
        let lr = if group.lr.is_some() { "an lr of its own".to_owned() } else { format!("lr x {}", group.lr_mult) };
        format!("{:?}: {lr}, wd x {}", group.name, group.decay_mult)
    });
    groups.collect::<Vec<_>>().join("; ")
}
