//! Names of the stored files, and which checkpoint a path belongs to.

use halflife_proto::ids::{Generation, ServerIndex};

use crate::id::CheckpointId;

/// Directory of the claims.
pub const CLAIMS: &str = "generations";
/// Directory of the checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// File of a claim.
pub fn claim(generation: Generation) -> String {
    format!("{CLAIMS}/{:08}.json", generation.0)
}

/// File whose existence says that a generation has begun.
pub fn begun(generation: Generation) -> String {
    format!("{CLAIMS}/{:08}.begun", generation.0)
}

/// Directory of a checkpoint.
pub fn checkpoint(id: CheckpointId) -> String {
    format!("{CHECKPOINTS}/{id}")
}

/// File whose existence commits a checkpoint.
pub fn manifest(id: CheckpointId) -> String {
    format!("{CHECKPOINTS}/{id}/manifest.json")
}

/// File with the arrays of a server's blocks.
pub fn data(id: CheckpointId, server: ServerIndex) -> String {
    format!("{CHECKPOINTS}/{id}/server-{:04}.safetensors", server.0)
}

/// File that says where in [`data`] what lies.
pub fn index(id: CheckpointId, server: ServerIndex) -> String {
    format!("{CHECKPOINTS}/{id}/server-{:04}.json", server.0)
}

/// File of a nonce.
pub fn nonce(nonce: &str) -> String {
    format!("nonces/{nonce}")
}

/// The generation a claim's path names, or that of the file beside it, and whether it says that the generation has begun.
pub fn of_generation(path: &str) -> Option<(Generation, bool)> {
    let (number, _) = path.strip_prefix(CLAIMS)?.strip_prefix('/')?.split_once('.')?;
    let generation = Generation(number.parse().ok()?);
    let has_begun = begun(generation) == path;
    (has_begun || claim(generation) == path).then_some((generation, has_begun))
}

/// The checkpoint a path lies in, and whether it is its manifest.
pub fn inside(path: &str) -> Option<(CheckpointId, bool)> {
    let (directory, name) = path.strip_prefix(CHECKPOINTS)?.strip_prefix('/')?.split_once('/')?;
    Some((directory.parse().ok()?, name == "manifest.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use halflife_proto::ids::Step;

    #[test]
    fn paths_read_back_as_what_they_are_of() {
        let id = CheckpointId { step: Step(7), generation: Generation(2) };
        assert_eq!(manifest(id), "checkpoints/000000000007-g00000002/manifest.json");
        assert_eq!(inside(&manifest(id)), Some((id, true)));
        assert_eq!(data(id, ServerIndex(3)), "checkpoints/000000000007-g00000002/server-0003.safetensors");
        assert_eq!(inside(&data(id, ServerIndex(3))), Some((id, false)));
        assert_eq!(inside("checkpoints/notes/manifest.json"), None);
        assert_eq!(of_generation("generations/00000012.json"), Some((Generation(12), false)));
        assert_eq!(of_generation("generations/00000012.begun"), Some((Generation(12), true)));
        assert_eq!(of_generation("generations/12.json"), None);
        assert_eq!(of_generation("generations/00000012.other"), None);
        assert_eq!(of_generation("generations/.00000012.json.partial"), None);
    }
}
