//! `halflife-server checkpoint ...`: how a person makes, looks at, checks, thins out and exchanges checkpoints.
//!
//! `now` asks the lead; all other verbs work on the store, whether or not the job runs. A verb a file; `place` finds the
//! store and the checkpoint meant, `arguments` is the command line. Nothing here decides what a checkpoint is: the crate
//! `halflife-checkpoint` does.

mod amounts;
mod arguments;
mod error;
mod export;
mod import;
mod inspect;
mod list;
mod now;
mod place;
mod prune;
mod verify;

use std::io::{self, Write as _};

pub use arguments::CheckpointArguments;
use arguments::Verb;
pub use error::CheckpointCommandError;

/// Does what is asked; results go to standard output.
///
/// # Errors
/// [`CheckpointCommandError`].
pub async fn run(arguments: CheckpointArguments) -> Result<(), CheckpointCommandError> {
    match arguments.verb {
        Verb::Now(arguments) => now::run(&arguments).await,
        Verb::List(arguments) => list::run(&arguments).await,
        Verb::Inspect(arguments) => inspect::run(&arguments).await,
        Verb::Verify(arguments) => verify::run(&arguments).await,
        Verb::Prune(arguments) => prune::run(&arguments).await,
        Verb::Export(arguments) => export::run(&arguments).await,
        Verb::Import(arguments) => import::run(&arguments).await,
    }
}

fn say(text: &str) {
    // Standard output may be closed; there is nobody left to tell.
    let _ = writeln!(io::stdout(), "{text}");
}
