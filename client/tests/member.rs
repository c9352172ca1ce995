//! A member against a fake job over real sockets: work, assignments, weights, the end.

#![allow(clippy::unwrap_used)] // a test crate: every function here serves a test

mod fake;

use std::time::{Duration, Instant};

use fake::{FakeJob, Fault, SLOTS, State, assignment, manifest, options, refusal};
use halflife_client::{ClientError, Lead, Member, NodeGradient, NodeSum, SlotGradient, TensorSet, Work};
use halflife_proto::blocks::BlockId;
use halflife_proto::contribution::{Contribution, Payload};
use halflife_proto::ids::{Step, TensorIndex};
use halflife_proto::job::{Combine, Wire};
use halflife_proto::manifest::Tensor;
use halflife_proto::refusal::RefusalCause;
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::{Dtype, Encoded};
use halflife_proto::v1;

/// f, w, b, c.
const INITIAL: [f32; 11] = [7., 8., 10., 11., 12., 13., 14., 5., 20., 21., 22.];

/// Slot s has the gradient s + 1 everywhere: the mean over 4 slots is 2.5.
fn node_gradient(member: &Member, node: SlotRange) -> NodeGradient {
    let mut sum = NodeSum::new(member.layout(), Combine::Mean, Dtype::F32, node, member.buffers().clone());
    while let Some(slot) = sum.next_slot() {
        let mut values = member.buffers().take();
        values.fill(slot as f32 + 1.0);
        sum.add(SlotGradient { values, absent: TensorSet::new(), weight: 1.0 }).unwrap();
    }
    sum.finish().unwrap()
}

/// Waits until the fake job has seen so much.
async fn until(job: &FakeJob, what: &str, is_so: impl Fn(&State) -> bool) {
    let begun = Instant::now();
    while !is_so(&job.state()) {
        assert!(begun.elapsed() < Duration::from_secs(10), "never {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn next_work(member: &mut Member) -> Result<Work, ClientError> {
    tokio::time::timeout(Duration::from_secs(10), member.next_work()).await.expect("work or an error in time")
}

/// The next work is these nodes of this step.
async fn expect_nodes(member: &mut Member, step: u64, nodes: &[(u32, u32)]) {
    match next_work(member).await.unwrap() {
        Work::Compute { step: found, nodes: found_nodes, weights } => {
            let found_nodes: Vec<_> = found_nodes.iter().map(|node| (node.begin, node.end)).collect();
            assert_eq!((found.0, found_nodes.as_slice(), weights.step.0), (step, nodes, step - 1));
        }
        other => panic!("expected nodes {nodes:?} of step {step}, found {other:?}"),
    }
}

async fn initialize(member: &mut Member) {
    assert!(matches!(next_work(member).await.unwrap(), Work::Initialize));
    member.initialize(INITIAL.to_vec()).await.unwrap();
}

async fn contribute(member: &mut Member, step: u64, nodes: &[(u32, u32)]) {
    for (begin, end) in nodes {
        let node = SlotRange::new(*begin, *end).unwrap();
        let gradient = node_gradient(member, node);
        member.contribute(Step(step), node, gradient).await.unwrap();
    }
}

/// Works until there is nothing more to do; the final weights.
async fn train(member: &mut Member) -> Result<Vec<f32>, ClientError> {
    loop {
        match next_work(member).await? {
            Work::Initialize => member.initialize(INITIAL.to_vec()).await?,
            Work::Compute { step, nodes, .. } => {
                for node in nodes {
                    let gradient = node_gradient(member, node);
                    member.contribute(step, node, gradient).await?;
                }
            }
            Work::Finished { weights } => return Ok(weights.values.clone()),
            Work::Drained => panic!("nobody drains it"),
        }
    }
}

/// The weights after this many whole steps.
fn expected(steps: u32) -> Vec<f32> {
    let change = 2.5 * steps as f32;
    let mut weights: Vec<f32> = INITIAL.iter().map(|weight| weight - change).collect();
    weights[..2].copy_from_slice(&INITIAL[..2]);
    weights[7] = if steps == 0 { INITIAL[7] } else { 2.5 };
    weights
}

#[tokio::test]
async fn a_job_runs_from_its_initialization_to_its_end() {
    let job = FakeJob::start(3, &[(0, SLOTS)]).await;
    let mut member = job.join().await;
    assert_eq!((member.number(), member.job().slots), (3, SLOTS));
    initialize(&mut member).await;
    for step in 1..=3 {
        expect_nodes(&mut member, step, &[(0, SLOTS)]).await;
        contribute(&mut member, step, &[(0, SLOTS)]).await;
    }
    let Work::Finished { weights } = next_work(&mut member).await.unwrap() else { panic!("expected the end") };
    assert_eq!(weights.values, expected(3));
    assert_eq!((weights.step, weights.lr, weights.decay), (Step(3), 3.0, 30.0));
    assert_eq!(job.state().tensor(1), expected(3)[2..7]);
    let tied = member.layout().range(TensorIndex(2));
    assert_eq!(weights.values[tied], expected(3)[2..7]);
    member.leave().await.unwrap();
    assert_eq!(job.state().leaves, 1);
    assert!(job.state().contributions.iter().all(|c| c.step == Step::ZERO || c.block.tensor != TensorIndex(0)));
}

#[tokio::test]
async fn three_workers_make_the_same_weights_as_one() {
    let job = FakeJob::start(5, &[(0, 2)]).await;
    let mut workers = tokio::task::JoinSet::new();
    for nodes in [&[(0, 2)][..], &[(2, 3), (3, 4)], &[]] {
        job.state().assignment = v1::Assignment { initialize: workers.is_empty(), ..assignment(1, 1, nodes) };
        let mut member = job.join().await;
        workers.spawn(async move { train(&mut member).await });
    }
    while let Some(weights) = workers.join_next().await {
        assert_eq!(weights.unwrap().unwrap(), expected(5));
    }
}

#[tokio::test]
async fn slots_assigned_in_the_middle_of_a_step_are_computed_in_that_step() {
    let job = FakeJob::start(2, &[(0, 2)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, 2)]).await;
    contribute(&mut member, 1, &[(0, 2)]).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), member.next_work()).await.is_err(), "all is sent");
    job.state().notify(v1::notice::Notice::Assignment(assignment(3, 1, &[(0, 2), (2, 4)])));
    expect_nodes(&mut member, 1, &[(2, 4)]).await;
    job.state().notify(v1::notice::Notice::Assignment(assignment(2, 1, &[(0, 1)])));
    contribute(&mut member, 1, &[(2, 4)]).await;
    expect_nodes(&mut member, 2, &[(0, 2), (2, 4)]).await;
    contribute(&mut member, 2, &[(0, 2), (2, 4)]).await;
    assert_eq!(train(&mut member).await.unwrap(), expected(2));
}

#[tokio::test]
async fn heartbeats_say_which_step_is_computed() {
    let job = FakeJob::start(3, &[(0, SLOTS)]).await;
    let mut member = job.join().await;
    until(&job, "a heartbeat", |state| !state.heartbeats.is_empty()).await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, SLOTS)]).await;
    contribute(&mut member, 1, &[(0, SLOTS)]).await;
    expect_nodes(&mut member, 2, &[(0, SLOTS)]).await;
    let says_2 = |state: &State| state.heartbeats.last().is_some_and(|heartbeat| heartbeat.step == 2);
    until(&job, "a heartbeat of step 2", says_2).await;
    let steps: Vec<_> = job.state().heartbeats.iter().map(|heartbeat| heartbeat.step).collect();
    assert_eq!((steps.first(), steps.last()), (Some(&0), Some(&2)));
    assert!(steps.is_sorted());
}

#[tokio::test]
async fn a_member_that_is_dropped_beats_no_more() {
    let job = FakeJob::start(3, &[(0, SLOTS)]).await;
    let member = job.join().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(member);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let heartbeats = job.state().heartbeats.len();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(heartbeats > 0);
    assert_eq!(job.state().heartbeats.len(), heartbeats);
}

#[tokio::test]
async fn a_nonfinite_slot_is_sent_so_for_every_block_that_changes() {
    let job = FakeJob::start(3, &[(0, 1)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, 1)]).await;
    let node = SlotRange::new(0, 1).unwrap();
    let mut sum = NodeSum::new(member.layout(), Combine::Mean, Dtype::F32, node, member.buffers().clone());
    let values = vec![f32::INFINITY; member.layout().elements()];
    sum.add(SlotGradient { values, absent: TensorSet::new(), weight: 1.0 }).unwrap();
    let gradient = sum.finish().unwrap();
    member.contribute(Step(1), node, gradient).await.unwrap();
    let of_step_1 = |state: &State| state.contributions.iter().filter(|c| c.step == Step(1)).count();
    until(&job, "all blocks", |state| of_step_1(state) >= 6).await;
    // What should not be sent would come with them.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let state = job.state();
    let sent: Vec<_> = state.contributions.iter().filter(|c| c.step == Step(1)).collect();
    assert_eq!(sent.len(), 6, "3 blocks of w, 1 of b, 2 of c");
    assert!(sent.iter().all(|c| c.payload == Payload::Nonfinite && c.weight == 1.0));
}

#[tokio::test]
async fn a_gradient_that_does_not_fit_is_refused_before_it_is_sent() {
    let job = FakeJob::start(3, &[(0, 4)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, 4)]).await;
    let node = SlotRange::new(0, 4).unwrap();
    let good = node_gradient(&member, node);
    let short = NodeGradient { values: vec![0.0; 3], ..good.clone() };
    let weightless = NodeGradient { weight: 0.0, ..good.clone() };
    for (step, node, gradient, text) in [
        (1, node, short, "gradient: expected 11 elements, found 3 elements"),
        (1, node, weightless, "weight of a gradient: expected a positive finite number, found 0"),
        (1, SlotRange { begin: 1, end: 3 }, good.clone(), "expected a node of slots [0, 4), found slots [1, 3)"),
        (0, node, good.clone(), "step of a gradient: expected 1 to 3, found 0"),
        (4, node, good, "step of a gradient: expected 1 to 3, found 4"),
    ] {
        let error = member.contribute(Step(step), node, gradient).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    assert_eq!(train(&mut member).await.unwrap(), expected(3));
}

#[tokio::test]
async fn a_stopped_job_and_a_fence_are_told_with_their_reason_and_again() {
    use v1::notice::Notice;
    for (notice, fenced) in [
        (Notice::Stopped(refusal(RefusalCause::JobStopped).into()), false),
        (Notice::Fenced(refusal(RefusalCause::Fenced).into()), true),
    ] {
        let mut job = FakeJob::start(3, &[(0, 2)]).await;
        let mut member = job.join().await;
        initialize(&mut member).await;
        expect_nodes(&mut member, 1, &[(0, 2)]).await;
        job.state().notify(notice);
        job.kill();
        for _ in 0..2 {
            // Work may still be at hand before the notice arrives.
            let error = loop {
                match next_work(&mut member).await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => break error,
                }
            };
            match error {
                ClientError::JobStopped(refusal) => assert!(!fenced && refusal.message == "the test says so"),
                ClientError::Fenced(refusal) => assert!(fenced && refusal.message == "the test says so"),
                other => panic!("expected the notice, found {other}"),
            }
        }
    }
}

#[tokio::test]
async fn weights_of_a_wrong_size_are_an_error_that_names_the_server() {
    let job = FakeJob::start(3, &[(0, SLOTS)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, SLOTS)]).await;
    job.state().faults.push(Fault::TruncatedWeights(1));
    contribute(&mut member, 1, &[(0, SLOTS)]).await;
    let error = train(&mut member).await.unwrap_err();
    assert!(matches!(error, ClientError::BadWeights { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(job.url(1)) && text.contains("expected 8 bytes, found 7"), "{text}");
}

#[tokio::test]
async fn a_lost_server_is_an_error_but_not_after_the_end() {
    let mut job = FakeJob::start(1, &[(0, SLOTS)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, SLOTS)]).await;
    let mut late = job.join().await;
    contribute(&mut member, 1, &[(0, SLOTS)]).await;
    assert_eq!(train(&mut member).await.unwrap(), expected(1));
    assert_eq!(train(&mut late).await.unwrap(), expected(1));
    job.state().notify(v1::notice::Notice::Finished(v1::Finished { step: 1 }));
    job.kill();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(train(&mut member).await.unwrap(), expected(1));

    let mut job = FakeJob::start(2, &[(0, 2)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, 2)]).await;
    contribute(&mut member, 1, &[(0, 2)]).await;
    job.kill();
    let error = train(&mut member).await.unwrap_err();
    assert!(matches!(error, ClientError::GaveUp { .. }), "{error}");
}

#[tokio::test]
async fn a_joiner_begins_with_the_newest_step_and_waits_for_its_own() {
    let job = FakeJob::start(4, &[(0, SLOTS)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, SLOTS)]).await;
    contribute(&mut member, 1, &[(0, SLOTS)]).await;
    expect_nodes(&mut member, 2, &[(0, SLOTS)]).await;
    job.state().assignment = assignment(2, 3, &[(2, 4)]);
    let mut joiner = job.join().await;
    let early = tokio::time::timeout(Duration::from_millis(50), joiner.next_work()).await;
    assert!(early.is_err(), "its slots begin with step 3");
    contribute(&mut member, 2, &[(0, SLOTS)]).await;
    for step in [3, 4] {
        expect_nodes(&mut joiner, step, &[(2, 4)]).await;
        contribute(&mut joiner, step, &[(2, 4)]).await;
        contribute(&mut member, step, &[(0, 2)]).await;
    }
    assert_eq!(train(&mut joiner).await.unwrap(), expected(4));
    assert_eq!(train(&mut member).await.unwrap(), expected(4));
}

/// A worker died after it had sent everything to server 0 and nothing to server 1: whoever joins
/// now sees blocks of two steps, and the older one is what the job waits for.
fn put_server_0_ahead(job: &FakeJob) {
    let mut state = job.state();
    let ahead: Vec<BlockId> = state.blocks.iter().filter(|(_, block)| block.server == 0).map(|(id, _)| *id).collect();
    for id in ahead.into_iter().filter(|id| id.tensor != TensorIndex(0)) {
        let node = SlotRange::new(0, SLOTS).unwrap();
        let weights = state.weights(id, None, Dtype::F32).unwrap();
        let sum = vec![10.0f32; weights.data.len() / 4];
        let data = Encoded::f32(bytemuck::cast_slice::<f32, u8>(&sum).to_vec());
        state.take_in(Contribution {
            block: id,
            generation: fake::GENERATION,
            step: Step(1),
            slots: node,
            weight: 4.0,
            payload: Payload::Dense(data),
            push: None,
        });
    }
    state.faults.push(Fault::BaselineGone);
}

#[tokio::test]
async fn a_version_that_never_was_whole_here_is_pulled() {
    let job = FakeJob::start(3, &[(0, SLOTS)]).await;
    let mut first = job.join().await;
    initialize(&mut first).await;
    expect_nodes(&mut first, 1, &[(0, SLOTS)]).await;
    drop(first);
    put_server_0_ahead(&job);
    let mut second = job.join().await;
    expect_nodes(&mut second, 1, &[(0, SLOTS)]).await;
    assert_eq!(train(&mut second).await.unwrap(), expected(3));
}

// ---- lossy wires ----

/// As the initial weights, but bf16 holds none of them.
fn unrounded() -> Vec<f32> {
    INITIAL.iter().map(|weight| weight + 0.1).collect()
}

fn rounded(values: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    halflife_proto::tensor_codec::round(Dtype::Bf16, &mut values);
    values
}

/// A worker of a job with unrounded initial weights on `wire`, and its first work.
async fn first_work(job: &FakeJob, wire: Wire) -> (Member, Work) {
    job.state().wire = wire;
    let mut member = job.join().await;
    assert!(matches!(next_work(&mut member).await.unwrap(), Work::Initialize));
    member.initialize(unrounded()).await.unwrap();
    let work = next_work(&mut member).await.unwrap();
    (member, work)
}

#[tokio::test]
async fn on_a_lossy_wire_slots_go_one_by_one_and_the_result_is_in_full() {
    for gradients in [Dtype::Bf16, Dtype::I8Scaled] {
        let mut job = FakeJob::start(2, &[(0, SLOTS)]).await;
        let (mut member, mut work) = first_work(&job, Wire { gradients, weights: Dtype::Bf16 }).await;
        for steps in 0..2 {
            let Work::Compute { nodes, weights, .. } = work else { panic!("expected work, found {work:?}") };
            let masters: Vec<f32> = [0, 1, 3, 4].iter().flat_map(|index| job.state().tensor(*index)).collect();
            assert_eq!(weights.values, rounded(&masters), "after {steps} steps");
            assert_eq!(nodes, [(0, 1), (1, 2), (2, 3), (3, 4)].map(|(a, b)| SlotRange::new(a, b).unwrap()));
            let pair = SlotRange::new(0, 2).unwrap();
            let presummed = node_gradient(&member, pair);
            let refused = member.contribute(Step(steps + 1), pair, presummed).await.unwrap_err().to_string();
            assert!(refused.contains(&format!("a single slot, since gradients travel as {gradients}")), "{refused}");
            for node in nodes {
                let gradient = node_gradient(&member, node);
                member.contribute(Step(steps + 1), node, gradient).await.unwrap();
            }
            work = next_work(&mut member).await.unwrap();
        }
        let Work::Finished { weights } = work else { panic!("expected the end, found {work:?}") };
        let masters = job.state().tensor(1);
        assert_eq!(weights.values[2..7], masters);
        assert_ne!(masters, rounded(&masters));
        job.kill();
        assert_eq!(train(&mut member).await.unwrap(), weights.values, "told again without asking");
    }
}

#[tokio::test]
async fn a_pulled_version_is_computed_at_as_the_wire_would_have_carried_it() {
    let job = FakeJob::start(3, &[(0, SLOTS)]).await;
    let wire = Wire { gradients: Dtype::F32, weights: Dtype::Bf16 };
    drop(first_work(&job, wire).await);
    put_server_0_ahead(&job);
    let mut second = job.join().await;
    let Work::Compute { step, weights, .. } = next_work(&mut second).await.unwrap() else { panic!("expected work") };
    assert_eq!((step, &weights.values), (Step(1), &rounded(&unrounded())));
}

#[tokio::test]
async fn joining_waits_for_a_job_that_is_not_ready() {
    let job = FakeJob::start(1, &[(0, SLOTS)]).await;
    job.state().faults.push(Fault::NotReadyTwice);
    let mut member = job.join().await;
    assert_eq!(job.state().joins, 3);
    assert_eq!(train(&mut member).await.unwrap(), expected(1));
}

#[tokio::test]
async fn another_model_is_refused_at_once() {
    let job = FakeJob::start(1, &[(0, SLOTS)]).await;
    let other = halflife_proto::manifest::Manifest::new(vec![Tensor::trainable("x", &[1])]).unwrap();
    let error = job.connect().await.join(other).await.unwrap_err();
    let ClientError::Refused { url, refusal } = error else { panic!("expected a refusal, found {error}") };
    assert_eq!((url.as_str(), refusal.cause), (job.url(0), RefusalCause::ManifestMismatch));
    assert_eq!(job.state().joins, 1);
}

#[tokio::test]
async fn a_tool_reads_the_weights_of_one_step() {
    let job = FakeJob::start(2, &[(0, SLOTS)]).await;
    let mut lead = job.connect().await;
    let error = lead.read_weights(&manifest()).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { ref refusal, .. } if refusal.cause == RefusalCause::NotInitialized));
    let mut member = job.join().await;
    assert_eq!(train(&mut member).await.unwrap(), expected(2));
    job.state().faults.push(Fault::StepGoneOnce);
    assert_eq!(lead.read_weights(&manifest()).await.unwrap(), (Step(2), expected(2)));
    assert!(job.state().faults.is_empty(), "the first step asked for was gone");
    assert_eq!(lead.status().await.unwrap().step, 2);
    job.state().faults.push(Fault::TruncatedWeights(0));
    let error = lead.read_weights(&manifest()).await.unwrap_err();
    assert!(matches!(error, ClientError::BadWeights { .. }), "{error}");
}

#[tokio::test]
async fn nobody_at_the_url_is_an_error_that_names_it_and_the_cause() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let options = halflife_client::ClientOptions { give_up_after: Duration::from_millis(200), ..options() };
    let error = Lead::connect(&url, options.clone()).await.unwrap_err();
    assert!(matches!(error, ClientError::GaveUp { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("refused"), "{text}");
    for url in ["localhost:1", "http://", "https://localhost:1", "no url at all"] {
        let error = Lead::connect(url, options.clone()).await.unwrap_err();
        assert!(matches!(error, ClientError::BadUrl { .. }), "{url}: {error}");
    }
}

#[tokio::test]
async fn a_hold_ends_with_the_heartbeat_stream_that_told_of_it() {
    let job = FakeJob::start(2, &[(0, SLOTS)]).await;
    let mut member = job.join().await;
    initialize(&mut member).await;
    expect_nodes(&mut member, 1, &[(0, SLOTS)]).await;
    job.state().notify(v1::notice::Notice::Hold(v1::Hold { after_step: Some(1) }));
    tokio::time::sleep(Duration::from_millis(50)).await;
    contribute(&mut member, 1, &[(0, SLOTS)]).await;
    let early = tokio::time::timeout(Duration::from_millis(50), member.next_work()).await;
    assert!(early.is_err(), "the job rests");
    // It is resumed while the worker is cut off: the lead has nothing to tell the stream that follows.
    job.state().notices.clear();
    expect_nodes(&mut member, 2, &[(0, SLOTS)]).await;
}
