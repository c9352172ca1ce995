//! Section 6: where the configuration cannot mean what it says.

use halflife_optim::DecayWarning;

use super::layout::hanging;
use super::run::Run;

pub(super) fn lines(run: &Run) -> Vec<String> {
    let warnings = run.optimizer.warnings(run.tensors.iter());
    if warnings.is_empty() {
        return vec!["  none".to_owned()];
    }
    let mut lines: Vec<String> =
        warnings.iter().flat_map(|warning| hanging("  ! ", "    ", &warning.to_string())).collect();
    let of_tensors = |warning: &DecayWarning| {
        matches!(warning, DecayWarning::DecaysVectors { .. } | DecayWarning::DecaysNothing { .. })
    };
    if !run.tensors.own && warnings.iter().any(of_tensors) {
        let names: Vec<&str> = run.tensors.iter().map(|(name, _)| name).collect();
        let note = format!("(The job names no tensors; judged by typical ones: {}.)", names.join(", "));
        lines.extend(hanging("    ", "    ", &note));
    }
    lines
}
