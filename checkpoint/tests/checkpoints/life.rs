//! The life of a checkpoint: claimed, written, committed, listed, read, pruned.

use halflife_checkpoint::{
    CheckpointId, Checkpoints, ClaimError, CommitError, NonceError, OpenError, PruneError, ReadError, Retention,
    RoomError, WriteError,
};
use halflife_proto::ids::{Generation, ServerIndex};

use crate::sample::{self, claim, id, job};

fn open() -> (tempfile::TempDir, Checkpoints) {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open("here", directory.path()).unwrap();
    (directory, checkpoints)
}

async fn listed(checkpoints: &Checkpoints) -> Vec<(CheckpointId, bool)> {
    checkpoints.list().await.unwrap().into_iter().map(|listed| (listed.id, listed.in_history)).collect()
}

#[tokio::test]
async fn what_was_written_reads_back_on_any_number_of_servers() {
    let (_directory, checkpoints) = open();
    checkpoints.claim(&claim(1, None)).await.unwrap();
    let mut digests = Vec::new();
    for servers in [1, 2, 5, 9] {
        let manifest = sample::commit(&checkpoints, id(u64::from(servers), 1), servers, 7).await.unwrap();
        assert_eq!(checkpoints.manifest(manifest.id).await.unwrap(), manifest);
        assert_eq!(sample::read_all(&checkpoints, &manifest).await.unwrap(), sample::blocks(7));
        let verified = checkpoints.verify(manifest.id).await.unwrap();
        assert_eq!((verified.files, verified.blocks), (servers as usize, sample::blocks(7).len() as u64));
        digests.push((manifest.weights_digest, manifest.state_digest));
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "digests do not depend on who wrote what");
    assert_eq!(checkpoints.newest().await.unwrap(), Some(id(9, 1)));
}

#[tokio::test]
async fn only_the_blocks_wanted_are_read() {
    let (_directory, checkpoints) = open();
    let manifest = sample::commit(&checkpoints, id(3, 1), 2, 1).await.unwrap();
    let all = sample::blocks(1);
    let wanted = [all[4].block, all[0].block, all[4].block];
    let mut read = Vec::new();
    checkpoints.read_blocks(&manifest, &wanted, &mut |block| read.push(block)).await.unwrap();
    assert_eq!(read, [all[0].clone(), all[4].clone()]);
    let mut foreign = all[0].block;
    foreign.index = 99;
    let error = checkpoints.read_blocks(&manifest, &[foreign], &mut |_| panic!("nothing is right")).await.unwrap_err();
    assert!(matches!(error, ReadError::MissingBlock { block, .. } if block == foreign), "{error}");
}

#[tokio::test]
async fn what_is_not_committed_is_not_there() {
    let (_directory, checkpoints) = open();
    checkpoints.claim(&claim(1, None)).await.unwrap();
    let manifest = sample::write(&checkpoints, id(3, 1), 2, 1).await.unwrap();
    assert_eq!(listed(&checkpoints).await, []);
    assert_eq!(checkpoints.newest().await.unwrap(), None);
    assert!(matches!(checkpoints.manifest(id(3, 1)).await, Err(ReadError::Store(_))));
    checkpoints.commit(&manifest).await.unwrap();
    assert_eq!(listed(&checkpoints).await, [(id(3, 1), true)]);
}

#[tokio::test]
async fn committing_again_succeeds_and_committing_something_else_does_not() {
    let (_directory, checkpoints) = open();
    let mut manifest = sample::commit(&checkpoints, id(3, 1), 1, 1).await.unwrap();
    checkpoints.commit(&manifest).await.unwrap();
    manifest.mode = "async".to_owned();
    assert!(matches!(checkpoints.commit(&manifest).await, Err(CommitError::Conflict { .. })));
    let error = checkpoints.write_blocks(id(3, 1), ServerIndex(0), &job(), vec![]).await.unwrap_err();
    assert!(matches!(error, WriteError::Committed { .. }), "{error}");
}

#[tokio::test]
async fn a_checkpoint_that_is_not_whole_is_not_committed() {
    let (_directory, checkpoints) = open();
    let whole = sample::write(&checkpoints, id(3, 1), 3, 1).await.unwrap();
    let mut short = whole.clone();
    short.files.remove(1);
    let error = checkpoints.commit(&short).await.unwrap_err();
    assert!(matches!(&error, CommitError::Read(ReadError::MissingBlock { .. })), "{error}");
    let mut other = whole.clone();
    other.state_digest[0] ^= 1;
    let error = checkpoints.commit(&other).await.unwrap_err();
    assert!(matches!(&error, CommitError::Read(ReadError::StateDigest { part: "state", .. })), "{error}");
    let mut twice = whole.clone();
    twice.files.push(twice.files[0]);
    let error = checkpoints.commit(&twice).await.unwrap_err().to_string();
    assert!(error.contains("found also in"), "{error}");
    checkpoints.commit(&whole).await.unwrap();
}

#[tokio::test]
async fn written_again_before_the_commit_the_last_write_counts() {
    let (_directory, checkpoints) = open();
    sample::write(&checkpoints, id(3, 1), 2, 1).await.unwrap();
    let manifest = sample::commit(&checkpoints, id(3, 1), 2, 2).await.unwrap();
    assert_eq!(sample::read_all(&checkpoints, &manifest).await.unwrap(), sample::blocks(2));
}

#[tokio::test]
async fn of_many_claimants_one_wins_and_the_others_learn_who() {
    let (_directory, checkpoints) = open();
    let tasks: Vec<_> = (0..8)
        .map(|claimant| {
            let checkpoints = checkpoints.clone();
            let mut claim = claim(1, None);
            claim.claimant = format!("claimant {claimant}");
            tokio::spawn(async move { (claim.claimant.clone(), checkpoints.claim(&claim).await) })
        })
        .collect();
    let (mut won, mut named) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            (claimant, Ok(())) => won.push(claimant),
            (_, Err(ClaimError::Taken { by })) => named.push(by.claimant),
            (_, Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!(won.len(), 1);
    assert!(named.len() == 7 && named.iter().all(|name| *name == won[0]));
    let claims = checkpoints.claims().await.unwrap();
    assert_eq!(claims.len(), 1);
    checkpoints.claim(&claims[0]).await.unwrap();
}

#[tokio::test]
async fn a_fenced_lead_neither_commits_nor_is_restored() {
    let (_directory, checkpoints) = open();
    checkpoints.claim(&claim(1, None)).await.unwrap();
    sample::commit(&checkpoints, id(10, 1), 1, 1).await.unwrap();
    let late = sample::write(&checkpoints, id(20, 1), 1, 2).await.unwrap();
    checkpoints.claim(&claim(2, Some(id(10, 1)))).await.unwrap();
    let error = checkpoints.commit(&late).await.unwrap_err();
    assert!(matches!(error, CommitError::Fenced { .. }), "{error}");

    // The commit may also have passed its look at the claims just before the claim.
    let (_other_directory, racing) = open();
    racing.claim(&claim(1, None)).await.unwrap();
    sample::commit(&racing, id(10, 1), 1, 1).await.unwrap();
    sample::commit(&racing, id(20, 1), 1, 2).await.unwrap();
    racing.claim(&claim(2, Some(id(10, 1)))).await.unwrap();
    // Before it has begun, nothing is undone: it may find the commit when it looks once more, or never begin.
    assert_eq!(racing.newest().await.unwrap(), Some(id(20, 1)));
    racing.begin_generation(Generation(2)).await.unwrap();
    racing.begin_generation(Generation(2)).await.unwrap();
    assert_eq!(racing.newest().await.unwrap(), Some(id(10, 1)));
    assert_eq!(listed(&racing).await, [(id(10, 1), true), (id(20, 1), false)]);
    sample::commit(&racing, id(15, 2), 1, 3).await.unwrap();
    assert_eq!(racing.newest().await.unwrap(), Some(id(15, 2)));
}

#[tokio::test]
async fn pruning_deletes_what_nobody_restores_and_its_leftovers() {
    let (_directory, checkpoints) = open();
    let retention = Retention { keep_last: 2, keep_every: 100 };
    checkpoints.claim(&claim(1, None)).await.unwrap();
    for step in [0, 50, 100, 150, 160] {
        sample::commit(&checkpoints, id(step, 1), 2, step).await.unwrap();
    }
    sample::write(&checkpoints, id(155, 1), 2, 1).await.unwrap();
    sample::write(&checkpoints, id(170, 1), 2, 1).await.unwrap();
    let pruned = checkpoints.prune(retention).await.unwrap();
    assert_eq!((pruned.checkpoints, pruned.orphans), (vec![id(50, 1)], vec![id(155, 1)]));
    assert!(pruned.bytes > 4 * 4096);
    checkpoints.claim(&claim(2, Some(id(150, 1)))).await.unwrap();
    let pruned = checkpoints.prune(Retention { keep_last: 0, keep_every: 0 }).await.unwrap();
    assert_eq!(pruned.checkpoints, [id(0, 1), id(100, 1)], "what is newest stays, and what is claimed to be continued");
    assert_eq!(pruned.orphans, []);
    checkpoints.begin_generation(Generation(2)).await.unwrap();
    let pruned = checkpoints.prune(Retention { keep_last: 0, keep_every: 0 }).await.unwrap();
    assert_eq!(pruned.checkpoints, [id(160, 1)]);
    assert_eq!(pruned.orphans, [id(170, 1)]);
    assert_eq!(listed(&checkpoints).await, [(id(150, 1), true)]);
    checkpoints.verify(id(150, 1)).await.unwrap();
    assert_eq!(checkpoints.prune(retention).await.unwrap(), Default::default());
}

#[tokio::test]
async fn a_damaged_claim_stops_what_depends_on_history() {
    let (directory, checkpoints) = open();
    checkpoints.claim(&claim(1, None)).await.unwrap();
    checkpoints.claim(&claim(2, None)).await.unwrap();
    let path = directory.path().join("here/generations/00000001.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    for error in [checkpoints.newest().await.unwrap_err(), checkpoints.list().await.unwrap_err()] {
        assert!(error.to_string().starts_with("generations/00000001.json"), "{error}");
    }
    let error = checkpoints.prune(Retention { keep_last: 1, keep_every: 0 }).await.unwrap_err();
    assert!(matches!(error, PruneError::Read(_)), "{error}");
    assert!(matches!(checkpoints.claim(&claim(1, None)).await, Err(ClaimError::Read(_))));
    std::fs::copy(directory.path().join("here/generations/00000002.json"), &path).unwrap();
    let error = checkpoints.claims().await.unwrap_err();
    assert!(matches!(error, ReadError::Foreign { .. }), "{error}");
}

#[tokio::test]
async fn a_nonce_shows_whether_the_store_is_shared() {
    let (_directory, lead) = open();
    let (_other_directory, elsewhere) = open();
    lead.write_nonce("nonce-1").await.unwrap();
    lead.clone().read_nonce("nonce-1").await.unwrap();
    assert!(matches!(elsewhere.read_nonce("nonce-1").await, Err(NonceError::NotShared { .. })));
    lead.delete_nonce("nonce-1").await.unwrap();
    assert!(matches!(lead.read_nonce("nonce-1").await, Err(NonceError::NotShared { .. })));
    for bad in ["", "../x", "a/b", &"n".repeat(65)] {
        assert!(matches!(lead.write_nonce(bad).await, Err(NonceError::Name { .. })), "{bad}");
    }
}

#[tokio::test]
async fn a_location_is_a_directory_or_a_bucket() {
    let directory = tempfile::tempdir().unwrap();
    for bad in ["", "gs://bucket/prefix", "s3://"] {
        let error = Checkpoints::open(bad, directory.path()).unwrap_err();
        assert!(matches!(&error, OpenError::Location { found } if found == bad), "{error}");
    }
    let (_directory, local) = open();
    local.check_room(1).await.unwrap();
    let full = local.check_room(u64::MAX).await.unwrap_err();
    assert!(matches!(full, RoomError::Full { needed: u64::MAX, free, .. } if free > 0), "{full}");
}
