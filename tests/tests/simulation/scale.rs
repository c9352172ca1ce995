//! What the lead has to do in a large cluster: messages and time per step and worker, by `LeadState` alone.
//!
//!     cargo test --release -p halflife-tests --test simulation -- --ignored --nocapture lead
//!
//! Times are of one thread, without the wire: what a lead's lock is held for. Not a bound that is asserted.

use std::time::{Duration, Instant};

use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Incarnation, ServerIndex, Step};
use halflife_proto::job::Consistency;
use halflife_proto::manifest::{Manifest, Tensor};
use halflife_proto::membership::Partial;
use halflife_proto::slots::SlotTree;
use halflife_server::lead::simulation::{Effect, Heard};
use halflife_server::lead::{Demand, LeadState, Settings};

use crate::say;

const STEPS: u64 = 50;
/// Blocks of each server.
const BLOCKS: u64 = 16;
const BLOCK_ELEMENTS: u64 = 4;
/// The lead's ticks in a step of one second.
const TICKS: u64 = 20;

/// A lead with everyone there.
struct Cluster {
    state: LeadState,
    workers: u64,
    servers: u32,
    blocks_of: Vec<Vec<BlockId>>,
}

/// What something took: messages to the lead, from it, and time.
#[derive(Clone, Copy, Default)]
struct Cost {
    heard: u64,
    said: u64,
    time: Duration,
}

impl Cluster {
    /// Everyone joins: the cost of all joins, with the notices that each sets off.
    fn new(workers: u64, servers: u32) -> (Cluster, Cost) {
        let elements = (u64::from(servers) * BLOCKS * BLOCK_ELEMENTS) as usize;
        let manifest = Manifest::new(vec![Tensor::trainable("weight", &[elements])]).expect("a manifest");
        let mut state = LeadState::new(Settings {
            servers,
            slots: SlotTree::new(workers as u32).expect("a slot for every worker"),
            steps: Step(1_000_000),
            block_elements: BLOCK_ELEMENTS,
            initial_tensors: None,
            whole_tensors: false,
            lease: Duration::from_secs(5),
            demand: Demand::default(),
            checkpoints: None,
            forming: None,
            consistency: Consistency::default(),
        });
        for server in 0..servers {
            state
                .register(Incarnation(1 << 40 | u64::from(server)), format!("http://s{server}").into(), None)
                .expect("a place for every server");
        }
        let join = |state: &mut LeadState, worker: u64| {
            state.join(Duration::ZERO, Incarnation(worker), Fingerprint::default(), manifest.clone())
        };
        let (refused, _) = join(&mut state, 0);
        refused.expect_err("blocks are placed first");
        (0..servers).for_each(|server| _ = state.placed(ServerIndex(server)));
        let begun = Instant::now();
        let mut cost = Cost::default();
        for worker in 0..workers {
            let (joined, effects) = join(&mut state, worker);
            joined.expect("a joiner is taken in");
            cost.heard += 1;
            cost.said += 1 + effects.len() as u64;
        }
        cost.time = begun.elapsed();
        let (manifest, placement) = state.model().expect("a model was shown");
        let mut blocks_of = vec![Vec::new(); servers as usize];
        for (block, _) in all_blocks(manifest, placement.block_elements()) {
            let owner = placement.server_of(block).expect("every block has an owner");
            blocks_of[owner.0 as usize].push(block);
        }
        (Cluster { state, workers, servers, blocks_of }, cost)
    }

    /// One step of a second: heartbeats, ticks, every server's completion, and its part of a norm if there is one.
    fn step(&mut self, step: u64, with_norm: bool) -> Cost {
        let parts: Vec<Partial> = self
            .blocks_of
            .iter()
            .map(|blocks| {
                let blocks = blocks.iter().map(|block| (*block, [1.0, 0.0])).collect();
                Partial { step: Step(step), stage: 0, blocks }
            })
            .collect();
        let begun = Instant::now();
        let (mut heard, mut said) = (0, 0);
        for tick in 0..TICKS {
            let now = Duration::from_millis(1000 * step + 50 * tick);
            said += self.state.tick(now).len() as u64;
        }
        for worker in 0..self.workers {
            let now = Duration::from_secs(step);
            let beat = self.state.heartbeat(now, Incarnation(worker), Step(step), Vec::new(), true);
            heard += u64::from(beat.is_ok());
        }
        if with_norm {
            for part in parts {
                said += self.state.partial(part).len() as u64;
                heard += 1;
            }
        }
        for server in 0..self.servers {
            said += self.state.complete(ServerIndex(server), Step(step)).len() as u64;
            heard += 1;
        }
        Cost { heard, said, time: begun.elapsed() }
    }

    /// A worker leaves: its slots move, and everyone's notices are read off the state.
    fn lose(&mut self, worker: u64) -> Cost {
        let mut heard: Vec<Heard> = vec![Heard::default(); self.workers as usize];
        for (worker, heard) in heard.iter_mut().enumerate() {
            _ = self.state.notices(Incarnation(worker as u64), heard);
        }
        let begun = Instant::now();
        let effects = self.state.leave(Incarnation(worker));
        let moved = effects.iter().filter(|effect| matches!(effect, Effect::Notify(..))).count();
        let mut said = 0;
        for (worker, heard) in heard.iter_mut().enumerate() {
            said += self.state.notices(Incarnation(worker as u64), heard).len() as u64;
        }
        assert!(moved as u64 >= self.workers - 1, "everyone's slots change");
        Cost { heard: 1, said, time: begun.elapsed() }
    }
}

fn shown(cost: Cost, times: u64) -> String {
    let time_us = cost.time.as_secs_f64() * 1e6 / times as f64;
    format!("{:>8} {:>8} {time_us:>10.1}", cost.heard / times, cost.said / times)
}

#[test]
#[ignore = "for its table of times, in a release build: see .ci/long"]
fn the_lead_of_a_large_cluster() {
    say(
        "per step of 1 s (heartbeats 1/s): messages in, out, us | per worker: ns | the same with a norm | a loss | a join",
    );
    for (workers, servers) in [(10, 4), (100, 8), (1_000, 8), (1_000, 64), (4_000, 64)] {
        let (mut cluster, joins) = Cluster::new(workers, servers);
        (0..servers).for_each(|server| _ = cluster.state.complete(ServerIndex(server), Step::ZERO));
        let mut costs = [Cost::default(); 2];
        for step in 1..=2 * STEPS {
            let kind = usize::from(step > STEPS);
            let cost = cluster.step(step, kind == 1);
            costs[kind].heard += cost.heard;
            costs[kind].said += cost.said;
            costs[kind].time += cost.time;
        }
        let everyone = workers + u64::from(servers);
        assert_eq!((costs[0].heard, costs[0].said), (STEPS * everyone, 0), "a step says nothing to anybody");
        let with_norm = (STEPS * (everyone + u64::from(servers)), STEPS * u64::from(servers));
        assert_eq!((costs[1].heard, costs[1].said), with_norm, "a norm is a part and a total for each server");
        let loss = cluster.lose(workers / 2);
        let per_worker_ns = costs[0].time.as_secs_f64() * 1e9 / (STEPS * workers) as f64;
        say(&format!(
            "{workers:>5} x {servers:<3} | {} | {per_worker_ns:>6.0} | {} | {} | {}",
            shown(costs[0], STEPS),
            shown(costs[1], STEPS),
            shown(loss, 1),
            shown(joins, workers),
        ));
    }
}
