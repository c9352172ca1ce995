//! `checkpoint list`: what there is.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use halflife_checkpoint::{CheckpointId, Listed};
use serde_json::json;

use super::arguments::ListArguments;
use super::error::CheckpointCommandError;
use super::place::Place;
use super::{amounts, say};

/// Lists the checkpoints of a place.
pub(super) async fn run(arguments: &ListArguments) -> Result<(), CheckpointCommandError> {
    let place = Place::find(&arguments.place)?;
    let listed = place.list().await?;
    let newest = place.checkpoints.newest().await.map_err(|error| place.unreadable(error))?;
    say(&if arguments.json { json(&place, &listed, newest) } else { text(&place, &listed, newest) });
    Ok(())
}

fn text(place: &Place, listed: &[Listed], newest: Option<CheckpointId>) -> String {
    let mut text = place.checkpoints.location();
    if listed.is_empty() {
        text.push_str(": no checkpoints");
        return text;
    }
    _ = write!(
        text,
        "\n{:<23} {:>10} {:>10}  {:<23} {:>9}  history",
        "checkpoint", "step", "generation", "committed", "size"
    );
    for Listed { id, in_history, bytes } in listed {
        let at = place.committed_at(*id).map_or_else(|| "-".to_owned(), amounts::time);
        let standing = match (Some(*id) == newest, in_history) {
            (true, _) => "a restart goes on from it",
            (false, true) => "survives",
            (false, false) => "undone by a later generation",
        };
        let (step, generation, size) = (id.step.0, id.generation.0, amounts::bytes(*bytes));
        _ = write!(text, "\n{id:<23} {step:>10} {generation:>10}  {at:<23} {size:>9}  {standing}", id = id.to_string());
    }
    text
}

fn json(place: &Place, listed: &[Listed], newest: Option<CheckpointId>) -> String {
    let seconds = |id| {
        let at = place.committed_at(id)?;
        Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    let entry = |Listed { id, in_history, bytes }: &Listed| {
        json!({
            "id": id.to_string(),
            "step": id.step.0,
            "generation": id.generation.0,
            "committed_unix_s": seconds(*id),
            "bytes": bytes,
            "in_history": in_history,
        })
    };
    json!({
        "location": place.checkpoints.location(),
        "newest": newest.map(|id| id.to_string()),
        "checkpoints": listed.iter().map(entry).collect::<Vec<_>>(),
    })
    .to_string()
}
