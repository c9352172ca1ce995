//! `checkpoint prune`: deletes what nobody will restore.
//!
//! May run beside the job: whoever claims a generation meanwhile ends it.

use halflife_checkpoint::{Pruned, Retention};

use super::arguments::PruneArguments;
use super::error::CheckpointCommandError;
use super::place::Place;
use super::{amounts, say};

/// Prunes, or says what would be.
pub(super) async fn run(arguments: &PruneArguments) -> Result<(), CheckpointCommandError> {
    let place = Place::find(&arguments.place)?;
    let retention = retention(arguments, &place);
    let Pruned { checkpoints, orphans, bytes } = if arguments.dry_run {
        place.checkpoints.prunable(retention).await.map_err(|error| place.unreadable(error))?
    } else {
        place.checkpoints.prune(retention).await.map_err(|source| CheckpointCommandError::Prune {
            location: place.checkpoints.location(),
            source: Box::new(source),
        })?
    };
    let done = if arguments.dry_run { "would be deleted" } else { "deleted" };
    checkpoints.iter().for_each(|id| say(&format!("{id}  {done}")));
    orphans.iter().for_each(|id| say(&format!("{id}  {done}: has no manifest, so it is no checkpoint")));
    let (count, size) = (checkpoints.len() + orphans.len(), amounts::bytes(bytes));
    let left = place.list().await?.len() - if arguments.dry_run { checkpoints.len() } else { 0 };
    say(&format!("{count} {done}, {size}; {left} {}", if arguments.dry_run { "would stay" } else { "stay" }));
    Ok(())
}

fn retention(arguments: &PruneArguments, place: &Place) -> Retention {
    let section = place.section.as_ref();
    let keep_last = arguments.keep_last.or(section.map(|section| section.keep_last)).unwrap_or_default();
    let keep_every = arguments.keep_every.or(section.and_then(|section| section.keep_every)).unwrap_or_default();
    Retention { keep_last: keep_last as usize, keep_every }
}
