//! Crashes: the machine stops at every single operation on the disk and forgets what was not synced.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use halflife_checkpoint::faults::ForgetfulDisk;
use halflife_checkpoint::store::LocalStore;
use halflife_checkpoint::{CheckpointId, Checkpoints, Retention};
use halflife_proto::ids::Generation;

use crate::sample::{self, claim, id};

/// Crashes at each operation, each with so many ways to forget.
const SEEDS: u64 = 2;

fn open(disk: &ForgetfulDisk) -> Option<Checkpoints> {
    Some(Checkpoints::in_store(Arc::new(LocalStore::on(disk.clone(), Path::new("/job")).ok()?)))
}

/// What the job was told has happened.
#[derive(Debug, Default)]
struct Acknowledged {
    claims: Vec<u64>,
    committed: Vec<CheckpointId>,
}

/// A short life of a job, up to the crash.
async fn live(disk: &ForgetfulDisk) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    // The first error is the crash: nothing after it matters.
    let _ = try_live(disk, &mut acknowledged).await;
    acknowledged
}

async fn try_live(disk: &ForgetfulDisk, acknowledged: &mut Acknowledged) -> Result<(), Box<dyn std::error::Error>> {
    let checkpoints = open(disk).ok_or("crashed")?;
    checkpoints.claim(&claim(1, None)).await?;
    acknowledged.claims.push(1);
    checkpoints.begin_generation(Generation(1)).await?;
    for step in [10, 20] {
        sample::commit(&checkpoints, id(step, 1), 2, step).await?;
        acknowledged.committed.push(id(step, 1));
    }
    checkpoints.claim(&claim(2, Some(id(20, 1)))).await?;
    acknowledged.claims.push(2);
    checkpoints.begin_generation(Generation(2)).await?;
    sample::commit(&checkpoints, id(30, 2), 1, 30).await?;
    acknowledged.committed.push(id(30, 2));
    // From here on either may be there: pruning was asked for and not yet answered.
    acknowledged.committed.retain(|id| *id != sample::id(10, 1));
    checkpoints.prune(Retention { keep_last: 2, keep_every: 0 }).await?;
    Ok(())
}

/// What is wrong after the crash.
async fn problems(disk: &ForgetfulDisk, acknowledged: &Acknowledged) -> Result<(), String> {
    let checkpoints = open(disk).ok_or("cannot be opened")?;
    let claims = checkpoints.claims().await.map_err(|error| format!("claims: {error}"))?;
    let claimed: Vec<_> = claims.iter().map(|claim| claim.generation.0).collect();
    if !claimed.starts_with(&acknowledged.claims) {
        return Err(format!("claims {claimed:?}"));
    }
    let listed = checkpoints.list().await.map_err(|error| format!("list: {error}"))?;
    for listed in &listed {
        checkpoints.verify(listed.id).await.map_err(|error| format!("listed, but {error}"))?;
    }
    match acknowledged.committed.iter().find(|id| !listed.iter().any(|listed| listed.id == **id)) {
        Some(lost) => Err(format!("{lost} was committed and is lost")),
        None => Ok(()),
    }
}

/// Goes on after the crash, over whatever leftovers there are.
async fn resume(disk: &ForgetfulDisk) {
    let checkpoints = open(disk).unwrap();
    let generation = checkpoints.claims().await.unwrap().last().map_or(1, |claim| claim.generation.0 + 1);
    let newest = checkpoints.newest().await.unwrap();
    checkpoints.claim(&claim(generation, newest)).await.unwrap();
    checkpoints.begin_generation(Generation(generation)).await.unwrap();
    let manifest = sample::commit(&checkpoints, id(40, generation), 3, 40).await.unwrap();
    assert_eq!(sample::read_all(&checkpoints, &manifest).await.unwrap(), sample::blocks(40));
    checkpoints.prune(Retention { keep_last: 1, keep_every: 0 }).await.unwrap();
    let listed = checkpoints.list().await.unwrap();
    assert_eq!(listed.iter().map(|listed| listed.id).collect::<Vec<_>>(), [manifest.id]);
}

#[tokio::test]
async fn a_crash_at_any_moment_leaves_whole_checkpoints_and_every_answer_true() {
    let undisturbed = ForgetfulDisk::default();
    let acknowledged = live(&undisturbed).await;
    assert_eq!((acknowledged.claims.len(), acknowledged.committed.len()), (2, 2));
    let operations = undisturbed.operations();
    assert!(operations > 100, "{operations}");
    for at in 0..operations {
        for seed in 0..SEEDS {
            let disk = ForgetfulDisk::default();
            disk.stop_at(at);
            let acknowledged = live(&disk).await;
            disk.crash(seed);
            let problems = problems(&disk, &acknowledged).await;
            assert_eq!(problems, Ok(()), "crash at operation {at}, seed {seed}, {acknowledged:?}");
            resume(&disk).await;
        }
    }
}

#[tokio::test]
async fn what_succeeds_although_an_operation_failed_outlasts_a_crash() {
    let undisturbed = ForgetfulDisk::default();
    live(&undisturbed).await;
    let mut went_on = 0;
    for at in 0..undisturbed.operations() {
        for seed in 0..SEEDS {
            let disk = ForgetfulDisk::default();
            disk.fail_at(at);
            let mut acknowledged = Acknowledged::default();
            went_on += u32::from(try_live(&disk, &mut acknowledged).await.is_ok());
            disk.crash(seed);
            let problems = problems(&disk, &acknowledged).await;
            assert_eq!(problems, Ok(()), "operation {at} fails, seed {seed}, {acknowledged:?}");
        }
    }
    assert!(went_on > 0, "an answer that is lost to a failing sync is looked for");
}

#[tokio::test]
async fn a_generation_that_has_begun_has_begun_after_a_crash_and_what_it_left_behind_stays_behind() {
    async fn live(disk: &ForgetfulDisk) -> Result<(), Box<dyn std::error::Error>> {
        let checkpoints = open(disk).ok_or("crashed")?;
        checkpoints.claim(&claim(1, None)).await?;
        checkpoints.begin_generation(Generation(1)).await?;
        for step in [10, 20] {
            sample::commit(&checkpoints, id(step, 1), 1, step).await?;
        }
        checkpoints.claim(&claim(2, Some(id(10, 1)))).await?;
        Ok(checkpoints.begin_generation(Generation(2)).await?)
    }
    let undisturbed = ForgetfulDisk::default();
    live(&undisturbed).await.unwrap();
    let (mut seen, operations) = (BTreeSet::new(), undisturbed.operations());
    for at in operations - 30..=operations {
        for seed in 0..SEEDS {
            let disk = ForgetfulDisk::default();
            disk.stop_at(at);
            let has_begun = live(&disk).await.is_ok();
            disk.crash(seed);
            let newest = open(&disk).unwrap().newest().await.unwrap();
            let expected = [Some(id(10, 1)), Some(id(20, 1)).filter(|_| !has_begun)];
            assert!(expected.contains(&newest), "crash at operation {at}, seed {seed}: {newest:?}, begun: {has_begun}");
            seen.insert((newest, has_begun));
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[tokio::test]
async fn without_syncing_this_would_be_noticed() {
    let mut noticed = 0;
    for at in (0..200).step_by(10) {
        let disk = ForgetfulDisk::lying();
        disk.stop_at(at);
        let acknowledged = live(&disk).await;
        disk.crash(at);
        noticed += u32::from(problems(&disk, &acknowledged).await.is_err());
    }
    assert!(noticed > 5, "{noticed}");
}
