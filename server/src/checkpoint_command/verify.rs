//! `checkpoint verify`: every byte of one checkpoint, or of all.

use halflife_checkpoint::{CheckpointId, ReadError, Verified};
use serde_json::{Value, json};

use super::arguments::VerifyArguments;
use super::error::CheckpointCommandError;
use super::place::Place;
use super::{amounts, say};

/// Verifies, and says of each checkpoint what was found.
pub(super) async fn run(arguments: &VerifyArguments) -> Result<(), CheckpointCommandError> {
    let (place, id) = Place::find_one(&arguments.one)?;
    let ids: Vec<CheckpointId> = match (arguments.all, id) {
        (true, None) => place.list().await?.iter().map(|listed| listed.id).collect(),
        (true, Some(id)) => {
            let found = format!("both, with {id:?}");
            return Err(CheckpointCommandError::Place { expected: "either ID or --all", found });
        }
        (false, id) => vec![place.choose(id).await?],
    };
    let mut entries = Vec::with_capacity(ids.len());
    let mut errors = Vec::new();
    for id in &ids {
        let result = place.checkpoints.verify(*id).await;
        match arguments.json {
            true => entries.push(entry(*id, &result)),
            false => say(&line(*id, &result)),
        }
        errors.extend(result.err());
    }
    if arguments.json {
        say(&json!({ "location": place.checkpoints.location(), "checkpoints": entries }).to_string());
    }
    let damaged = errors.len();
    match errors.pop() {
        None => Ok(()),
        Some(error) if ids.len() == 1 => Err(place.unreadable(error)),
        Some(_) => {
            Err(CheckpointCommandError::Damaged { location: place.checkpoints.location(), damaged, of: ids.len() })
        }
    }
}

fn line(id: CheckpointId, result: &Result<Verified, ReadError>) -> String {
    match result {
        Ok(Verified { files, blocks, bytes }) => {
            let (size, files_word) = (amounts::bytes(*bytes), if *files == 1 { "file" } else { "files" });
            format!("{id}  whole: {blocks} blocks in {files} data {files_word}, {size}")
        }
        Err(error) => format!("{id}  DAMAGED: {error}"),
    }
}

fn entry(id: CheckpointId, result: &Result<Verified, ReadError>) -> Value {
    match result {
        Ok(Verified { files, blocks, bytes }) => {
            json!({"id": id.to_string(), "whole": true, "files": files, "blocks": blocks, "bytes": bytes})
        }
        Err(error) => json!({"id": id.to_string(), "whole": false, "error": error.to_string()}),
    }
}
