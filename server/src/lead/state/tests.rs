//! The lead's decisions as tables: what happened, what it did about it.

use std::time::Duration;

use super::*;
use halflife_proto::hello::Fingerprint;
use halflife_proto::job::Consistency;
use halflife_proto::manifest::{Role, Tensor};
use halflife_proto::membership::Assignment;
use halflife_proto::membership::Operation;
use halflife_proto::slots::SlotRange;
use halflife_proto::slots::SlotTree;

mod forming;
mod job;
mod keeping;
mod members;
mod modes;
mod operate;
mod progress;

const LEASE: Duration = Duration::from_secs(5);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn manifest() -> Manifest {
    Manifest::new(vec![Tensor::trainable("w", &[8]), Tensor::trainable("b", &[2])]).unwrap()
}

fn settings(servers: u32) -> Settings {
    Settings {
        servers,
        slots: SlotTree::new(4).unwrap(),
        steps: Step(10),
        block_elements: 2,
        initial_tensors: None,
        whole_tensors: false,
        lease: LEASE,
        consistency: Consistency::default(),
        demand: Demand::default(),
        checkpoints: None,
        forming: None,
    }
}

fn join(state: &mut LeadState, seconds: u64, worker: u64) -> (Result<Joined, Refusal>, Vec<Effect>) {
    state.join(at(seconds), Incarnation(worker), Fingerprint::default(), manifest())
}

/// A job of `servers` servers whose blocks are placed.
fn placed(servers: u32) -> LeadState {
    let mut state = LeadState::new(settings(servers));
    for index in 0..servers {
        let url = format!("http://s{index}");
        assert_eq!(state.register(Incarnation(900 + u64::from(index)), url.into(), None), Ok(ServerIndex(index)));
    }
    let (refused, effects) = join(&mut state, 0, 1);
    assert_eq!(refused.unwrap_err().cause, RefusalCause::NotReady);
    assert_eq!(effects.len(), servers as usize);
    for index in 0..servers {
        assert_eq!(state.placed(ServerIndex(index)), []);
    }
    state
}

fn nodes(assignment: &Assignment) -> Vec<(u32, u32)> {
    assignment.nodes.iter().map(|node| (node.begin, node.end)).collect()
}

/// Incarnation, nodes, from_step.
type Told = (u64, Vec<(u32, u32)>, u64);

/// The assignments that workers were told of.
fn told(effects: &[Effect]) -> Vec<Told> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notify(worker, Notice::Assignment(assignment)) => {
                Some((worker.0, nodes(assignment), assignment.from_step.0))
            }
            _ => None,
        })
        .collect()
}

fn complete_everywhere(state: &mut LeadState, step: u64) -> Vec<Effect> {
    let servers = state.servers().len() as u32;
    (0..servers).flat_map(|index| state.complete(ServerIndex(index), Step(step))).collect()
}

// ---- modes ----

use halflife_proto::ids::Ticket;
use halflife_proto::job::Mode;
use halflife_proto::membership::{PushesReport, TicketAnswer, VoidedTicket};

/// A job of two workers (1 and 2) at step 3 complete; both compute step 4.
fn two_workers() -> LeadState {
    let mut state = placed(2);
    join(&mut state, 0, 1).0.unwrap();
    join(&mut state, 0, 2).0.unwrap();
    complete_everywhere(&mut state, 3);
    state.tick(at(0));
    state
}

fn beat(state: &mut LeadState, second: u64, worker: u64, step: u64) {
    state.heartbeat(at(second), Incarnation(worker), Step(step), vec![], true).unwrap();
}
