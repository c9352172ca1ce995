//! How long a checkpoint of 124 million parameters takes to write, against the disk alone.
//!
//! Writes weights and two planes, 1.49 GB, as a server does, and in turn as many bytes with O_DIRECT
//! in writes of 8 MiB and a sync, which is what the disk can do. Prints medians and their ratio.
//!
//!     cargo bench -p halflife-checkpoint --bench write -- [directory] [rounds]
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use halflife_checkpoint::store::{PART_BYTES, parts};
use halflife_checkpoint::{Array, ArrayDtype, BlockContents, CheckpointId, Checkpoints};
use halflife_proto::blocks::{BLOCK_ELEMENTS_DEFAULT, BlockId};
use halflife_proto::ids::{Generation, JobId, ServerIndex, Step, TensorIndex};
use rustix::fs::{FallocateFlags, Mode, OFlags};

const ELEMENTS: usize = 124_000_000;
const ARRAYS: [&str; 3] = ["weights", "m", "v"];
const ROUNDS_DEFAULT: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let directory = arguments.next().map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let rounds = arguments.next().map_or(Ok(ROUNDS_DEFAULT), |rounds| rounds.parse())?;
    let state: Vec<Bytes> = ARRAYS.map(|name| memory(name, 4 * ELEMENTS)).to_vec();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let checkpoints = Checkpoints::open("bench-write", &directory)?;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut bytes = 0;
    for round in 0..rounds as u64 {
        let begun = Instant::now();
        let id = CheckpointId { step: Step(round), generation: Generation(1) };
        let job = JobId("bench".to_owned());
        bytes = runtime.block_on(checkpoints.write_blocks(id, ServerIndex(0), &job, blocks(&state)))?.bytes;
        times[0].push(begun.elapsed());
        std::fs::remove_dir_all(directory.join("bench-write/checkpoints"))?;
        times[1].push(disk_alone(&directory.join("bench-write/alone"), bytes)?);
        let begun = Instant::now();
        for array in &state {
            std::hint::black_box(blake3::hash(array));
        }
        times[2].push(begun.elapsed());
    }
    std::fs::remove_dir_all(directory.join("bench-write"))?;
    let medians = times.map(median);
    for (name, time) in ["checkpoint", "O_DIRECT alone", "BLAKE3 alone"].iter().zip(medians) {
        println!("{name:>15}: {:.3} s, {:.2} GB/s", time.as_secs_f64(), bytes as f64 / time.as_secs_f64() / 1e9);
    }
    println!("{:>15}: {:.2} (goal: at most 1.5)", "ratio", medians[0].as_secs_f64() / medians[1].as_secs_f64());
    Ok(())
}

/// Bytes that no file system can compress or share.
fn memory(name: &str, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn blocks(state: &[Bytes]) -> Vec<BlockContents> {
    let block_elements = BLOCK_ELEMENTS_DEFAULT as usize;
    let block = |index: usize| {
        let elements = index * block_elements..ELEMENTS.min((index + 1) * block_elements);
        let array = |(name, bytes): (&&str, &Bytes)| Array {
            name: (*name).to_owned(),
            dtype: ArrayDtype::F32,
            data: bytes.slice(4 * elements.start..4 * elements.end),
        };
        BlockContents {
            block: BlockId { tensor: TensorIndex(0), index: index as u32 },
            tensor: "parameters".to_owned(),
            updates: 1,
            arrays: ARRAYS.iter().zip(state).map(array).collect(),
        }
    };
    (0..ELEMENTS.div_ceil(block_elements)).map(block).collect()
}

fn disk_alone(path: &Path, bytes: u64) -> Result<Duration, Box<dyn Error>> {
    let (mut sender, mut parts) = parts(PART_BYTES);
    sender.write(&memory("disk", PART_BYTES))?;
    let part = parts.next_blocking().ok_or("expected one part")?;
    let begun = Instant::now();
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::DIRECT;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    let mut left = bytes as usize;
    while left > 0 {
        let write = left.min(PART_BYTES);
        file.write_all(&part.as_ref()[..write])?;
        left -= write;
    }
    file.sync_all()?;
    let time = begun.elapsed();
    std::fs::remove_file(path)?;
    Ok(time)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
