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

/// The generation a claim's path names.
pub fn claimed(path: &str) -> Option<Generation> {
    let number = path.strip_prefix(CLAIMS)?.strip_prefix('/')?.strip_suffix(".json")?;
    let generation = Generation(number.parse().ok()?);
    (claim(generation) == path).then_some(generation)
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
        assert_eq!(claimed("generations/00000012.json"), Some(Generation(12)));
        assert_eq!(claimed("generations/12.json"), None);
        assert_eq!(claimed("generations/.00000012.json.partial"), None);
    }
}
