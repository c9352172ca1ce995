//! `checkpoint inspect`: what a checkpoint is. Reads its manifest, not its arrays.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use halflife_checkpoint::{CheckpointManifest, GroupLedger, SpecRevision};
use halflife_optim::DecayLedger;
use halflife_proto::blocks::block_count;
use halflife_proto::manifest::Role;
use serde_json::{Value, json};

use super::arguments::InspectArguments;
use super::error::CheckpointCommandError;
use super::place::Place;
use super::{amounts, say};

/// Tensors that are shown to people; JSON has all.
const TENSORS_SHOWN: usize = 40;

/// Inspects a checkpoint.
pub(super) async fn run(arguments: &InspectArguments) -> Result<(), CheckpointCommandError> {
    let (place, id) = Place::find_one(&arguments.one)?;
    let id = place.choose(id).await?;
    let manifest = place.checkpoints.manifest(id).await.map_err(|error| place.unreadable(error))?;
    say(&if arguments.json { json(&place, &manifest) } else { text(&place, &manifest) });
    Ok(())
}

fn text(place: &Place, manifest: &CheckpointManifest) -> String {
    let CheckpointManifest { id, job, mode, schedule, .. } = manifest;
    let mut text = format!("{id}  {job}, mode {mode}");
    if let Some(at) = place.committed_at(*id) {
        _ = write!(text, ", committed {}", amounts::time(at)); // text in memory takes everything
    }
    _ = write!(text, "\nnext step {}: lr {:.6e}, decay {:.6e}", schedule.next_step.0, schedule.lr, schedule.decay);
    model(&mut text, manifest);
    let (weights, state) = (amounts::hex(&manifest.weights_digest), amounts::hex(&manifest.state_digest));
    _ = write!(text, "\n\ndigests over blocks  weights {weights}\n                     state   {state}");
    _ = write!(text, "\n\n{:<24} {:>10} {:>14} {:>18}", "decay of group", "steps", "left", "half-life (steps)");
    for group in &manifest.ledger {
        let ledger = ledger(group);
        let half_life = ledger.half_life_steps().map_or_else(|| "-".to_owned(), |steps| format!("{steps:.1}"));
        let (name, left) = (group_name(group), format!("{:.6}", ledger.remaining()));
        _ = write!(text, "\n{name:<24} {:>10} {left:>14} {half_life:>18}", ledger.steps);
    }
    let counters: Vec<_> = manifest.counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
    _ = write!(text, "\n\ncounters  {}", counters.join(", "));
    revisions(&mut text, &manifest.revisions);
    text
}

fn model(text: &mut String, manifest: &CheckpointManifest) {
    let tensors = manifest.model.tensors();
    _ = write!(
        text,
        "\n\n{} tensors, {} elements, {} blocks of up to {}, {} data files",
        tensors.len(),
        manifest.model.elements(),
        blocks(manifest),
        manifest.block_elements,
        manifest.files.len(),
    );
    for file in &manifest.files {
        _ = write!(text, "\n  server {:<4} {:>9}", file.server.0, amounts::bytes(file.bytes));
    }
    for tensor in tensors.iter().take(TENSORS_SHOWN) {
        let count = block_count(tensor, manifest.block_elements);
        _ = write!(text, "\n  {} {:?} {}, {count} blocks", tensor.name, tensor.shape, tensor.role);
    }
    if tensors.len() > TENSORS_SHOWN {
        _ = write!(text, "\n  and {} more; --json has all", tensors.len() - TENSORS_SHOWN);
    }
}

/// What each revision changed: lines of the settings, resolved.
fn revisions(text: &mut String, revisions: &[SpecRevision]) {
    let mut before: Option<&SpecRevision> = None;
    for revision in revisions {
        let from = revision.from_step.0;
        match before {
            None => {
                _ = write!(text, "\n\nsettings from step {from}:");
                let lines = revision.spec_toml.lines().filter(|line| !line.is_empty());
                lines.for_each(|line| _ = write!(text, "\n  {line}"));
            }
            Some(before) => {
                _ = write!(text, "\n\nfrom step {from}:");
                let (gone, come) = difference(before, revision);
                gone.iter().for_each(|line| _ = write!(text, "\n  - {line}"));
                come.iter().for_each(|line| _ = write!(text, "\n  + {line}"));
            }
        }
        before = Some(revision);
    }
}

fn difference<'a>(before: &'a SpecRevision, after: &'a SpecRevision) -> (Vec<&'a str>, Vec<&'a str>) {
    let only = |these: &'a str, those: &'a str| {
        let known: Vec<&str> = those.lines().collect();
        these.lines().filter(|line| !known.contains(line)).collect()
    };
    (only(&before.spec_toml, &after.spec_toml), only(&after.spec_toml, &before.spec_toml))
}

fn blocks(manifest: &CheckpointManifest) -> u64 {
    manifest.model.tensors().iter().map(|tensor| block_count(tensor, manifest.block_elements)).sum()
}

fn ledger(group: &GroupLedger) -> DecayLedger {
    DecayLedger { steps: group.steps, log_remaining: group.log_remaining }
}

fn group_name(group: &GroupLedger) -> &str {
    if group.group.is_empty() { "(tensors of no group)" } else { &group.group }
}

fn json(place: &Place, manifest: &CheckpointManifest) -> String {
    let at = place.committed_at(manifest.id).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let files = manifest.files.iter().map(|file| json!({"server": file.server.0, "bytes": file.bytes}));
    let revisions = manifest
        .revisions
        .iter()
        .map(|revision| json!({"from_step": revision.from_step.0, "spec_toml": revision.spec_toml}));
    json!({
        "id": manifest.id.to_string(),
        "step": manifest.id.step.0,
        "generation": manifest.id.generation.0,
        "committed_unix_s": at.map(|at| at.as_secs()),
        "job": manifest.job.0,
        "mode": manifest.mode,
        "format_version": manifest.format_version,
        "block_elements": manifest.block_elements,
        "blocks": blocks(manifest),
        "tensors": tensors_json(manifest),
        "files": files.collect::<Vec<_>>(),
        "weights_digest": amounts::hex(&manifest.weights_digest),
        "state_digest": amounts::hex(&manifest.state_digest),
        "ledger": manifest.ledger.iter().map(ledger_json).collect::<Vec<_>>(),
        "schedule": {
            "next_step": manifest.schedule.next_step.0,
            "lr": manifest.schedule.lr,
            "decay": manifest.schedule.decay,
        },
        "counters": manifest.counters,
        "revisions": revisions.collect::<Vec<_>>(),
    })
    .to_string()
}

fn tensors_json(manifest: &CheckpointManifest) -> Vec<Value> {
    let role = |role: &Role| match role {
        Role::Trainable => json!("trainable"),
        Role::Frozen => json!("frozen"),
        Role::Buffer => json!("buffer"),
        Role::Tied(to) => json!({"tied_to": to}),
    };
    let tensors = manifest.model.tensors().iter();
    tensors.map(|tensor| json!({"name": tensor.name, "shape": tensor.shape, "role": role(&tensor.role)})).collect()
}

fn ledger_json(group: &GroupLedger) -> Value {
    let ledger = ledger(group);
    json!({
        "group": group.group,
        "steps": ledger.steps,
        // Absent once a step has taken everything: JSON has no infinity.
        "log_remaining": ledger.log_remaining.is_finite().then_some(ledger.log_remaining),
        "half_life_steps": ledger.half_life_steps(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::ids::Step;

    #[test]
    fn a_revision_shows_what_it_changed() {
        let revision = |from, text: &str| SpecRevision { from_step: Step(from), spec_toml: text.to_owned() };
        let mut text = String::new();
        revisions(&mut text, &[revision(1, "lr = 0.1\nsteps = 9"), revision(5, "lr = 0.2\nsteps = 9")]);
        assert_eq!(
            text,
            "\n\nsettings from step 1:\n  lr = 0.1\n  steps = 9\n\nfrom step 5:\n  - lr = 0.1\n  + lr = 0.2"
        );
    }
}
