//! The contract as any client sees it: what is accepted, what is refused and how, over real gRPC,
//! spoken without our SDK. After every refusal the state is unchanged and the server lives on.

use std::time::Duration;

use halflife_proto::refusal::RefusalCause;
use halflife_proto::v1::{self, step_request, step_response};
use halflife_proto::{PROTOCOL_VERSION, PULL_BLOCKS_MAX};
use halflife_server::JobSpec;
use halflife_tests::cluster::Cluster;
use halflife_tests::process::{Process, root};
use halflife_tests::small_job::{refusal, spec, started, tensors};
use halflife_tests::tool::{self, Tool, ToolTensor, bytes, floats};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

async fn push_all(tool: &mut Tool, step: u64, slots: (u32, u32), w: &[f32], b: &[f32]) -> Vec<v1::Outcome> {
    let weight = f64::from(slots.1 - slots.0);
    let mut outcomes = tool.push(step, slots, 0, Some(w), weight).await.expect("w is taken");
    outcomes.extend(tool.push(step, slots, 1, Some(b), weight).await.expect("b is taken"));
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_pushes_moves_the_weights_on_every_server() {
    let (cluster, mut tool) = started("servers = 2").await;
    assert_eq!(push_all(&mut tool, 1, (0, 4), &[4.0, 8.0, 12.0], &[-4.0]).await, [v1::Outcome::Added; 3]);
    tool.wait_for(1).await;
    assert_eq!(tool.pull(0, "", 1).await.unwrap(), [0.0, 0.0, 0.0]);
    assert_eq!(tool.pull(1, "", 1).await.unwrap(), [5.0]);
    assert_eq!(tool.pull(0, "", 0).await.unwrap(), [1.0, 2.0, 3.0], "the step before is still kept");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_contributions_are_refused_by_cause_and_change_nothing() {
    let (_cluster, mut tool) = started("").await;
    let block = tool.blocks(0)[0].0;
    let good = tool.contribution(block, 1, (0, 2), Some(&[1.0, 1.0]));
    let dense = |tensor, index| v1::BlockId { kind: Some(v1::block_id::Kind::Dense(v1::DenseBlock { tensor, index })) };
    let sparse = v1::BlockId { kind: Some(v1::block_id::Kind::Sparse(v1::SparseBlock { table: 0, shard: 0 })) };
    let slots = |begin, end| Some(v1::SlotRange { begin, end });
    let with = |change: &dyn Fn(&mut v1::Contribution)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let cases = [
        ("truncated", with(&|c| c.data = c.data.slice(..7)), RefusalCause::WrongSize),
        ("mis-sized", with(&|c| c.data = bytes(&[1.0]).into()), RefusalCause::WrongSize),
        ("oversized", with(&|c| c.data = vec![0; 4096].into()), RefusalCause::WrongSize),
        ("no dtype", with(&|c| c.dtype = 0), RefusalCause::WrongDtype),
        ("unknown dtype", with(&|c| c.dtype = 99), RefusalCause::WrongDtype),
        ("another dtype", with(&|c| c.dtype = v1::Dtype::Bf16.into()), RefusalCause::WrongDtype),
        ("unknown tensor", with(&|c| c.block = Some(dense(9, 0))), RefusalCause::UnknownBlock),
        ("unknown block", with(&|c| c.block = Some(dense(0, 2))), RefusalCause::UnknownBlock),
        ("no block", with(&|c| c.block = None), RefusalCause::Malformed),
        ("sparse block", with(&|c| c.block = Some(sparse)), RefusalCause::Unimplemented),
        ("straddling slots", with(&|c| c.slots = slots(1, 3)), RefusalCause::MisalignedSlots),
        ("slots beyond the job", with(&|c| c.slots = slots(0, 8)), RefusalCause::MisalignedSlots),
        ("empty slots", with(&|c| c.slots = slots(2, 2)), RefusalCause::MisalignedSlots),
        ("no slots", with(&|c| c.slots = None), RefusalCause::Malformed),
        ("future step", with(&|c| c.step = 2), RefusalCause::StepAhead),
        ("far future", with(&|c| c.step = u64::MAX), RefusalCause::StepAhead),
        ("other generation", with(&|c| c.generation = 7), RefusalCause::WrongGeneration),
        (
            "NaN",
            with(&|c| (c.slots, c.weight, c.data) = (slots(0, 1), 1.0, bytes(&[1.0, f32::NAN]).into())),
            RefusalCause::NonfiniteData,
        ),
        ("wrong weight", with(&|c| c.weight = 1.0), RefusalCause::InvalidWeight),
        ("infinite weight", with(&|c| c.weight = f64::INFINITY), RefusalCause::InvalidWeight),
        ("kind rows", with(&|c| c.kind = v1::ContributionKind::Rows.into()), RefusalCause::Unimplemented),
        ("kind delta", with(&|c| c.kind = v1::ContributionKind::Delta.into()), RefusalCause::Unimplemented),
        ("no kind", with(&|c| c.kind = 0), RefusalCause::Malformed),
        ("data with absent", with(&|c| c.kind = v1::ContributionKind::Absent.into()), RefusalCause::WrongSize),
        ("ticket", with(&|c| c.ticket = 3), RefusalCause::Malformed),
        (
            "other weights",
            with(&|c| (c.step, c.slots, c.weight) = (0, slots(0, 1), 1.0)),
            RefusalCause::InitializationDiffers,
        ),
    ];
    for (what, bad, cause) in cases {
        let status = tool.push_raw(0, bad).await.expect_err(what);
        assert_eq!(refusal(&status).cause, cause, "{what}: {status}");
    }
    // Had any of them counted, the step would now be whole too early or come out otherwise.
    assert_eq!(tool.pull(0, "", 0).await.unwrap(), [1.0, 2.0, 3.0]);
    push_all(&mut tool, 1, (0, 4), &[4.0, 4.0, 4.0], &[4.0]).await;
    tool.wait_for(1).await;
    assert_eq!(tool.pull(0, "", 1).await.unwrap(), [0.0, 1.0, 2.0]);
}

/// A job whose tensors travel as the [wire] table says.
async fn started_on(wire: &str) -> (Cluster, Tool) {
    started(&format!("[wire]\n{wire}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bf16_gradients_are_taken_slot_by_slot_and_summed_in_f32() {
    let (_cluster, mut tool) = started_on("gradients = \"bf16\"").await;
    let job = tool.control.describe(v1::DescribeRequest {}).await.unwrap().into_inner();
    let wire = v1::Wire { gradients: v1::Dtype::Bf16.into(), weights: v1::Dtype::F32.into() };
    assert_eq!(job.wire, Some(wire));
    let coded = |c: v1::Contribution, values: &[f32]| v1::Contribution {
        dtype: v1::Dtype::Bf16.into(),
        data: tool::bf16(values).into(),
        ..c
    };
    let blocks: Vec<_> = (0..2).flat_map(|tensor| tool.blocks(tensor)).map(|(block, ..)| block).collect();
    let good = |tool: &Tool, slots| coded(tool.contribution(blocks[0], 1, slots, Some(&[0.0; 2])), &[256.0, 1.0]);
    let slot = good(&tool, (0, 1));
    let cases = [
        ("f32", tool.contribution(blocks[0], 1, (0, 1), Some(&[1.0, 1.0])), RefusalCause::WrongDtype),
        ("i8", v1::Contribution { dtype: v1::Dtype::I8Scaled.into(), ..slot.clone() }, RefusalCause::WrongDtype),
        ("short", v1::Contribution { data: slot.data.slice(..3), ..slot.clone() }, RefusalCause::WrongSize),
        ("long", v1::Contribution { data: vec![0; 8].into(), ..slot.clone() }, RefusalCause::WrongSize),
        ("pre-summed", good(&tool, (0, 2)), RefusalCause::MisalignedSlots),
        ("all of it", good(&tool, (0, 4)), RefusalCause::MisalignedSlots),
        (
            "infinite",
            v1::Contribution { data: vec![0x80, 0x7f, 0, 0].into(), ..slot.clone() },
            RefusalCause::NonfiniteData,
        ),
    ];
    for (what, bad, cause) in cases {
        let status = tool.push_raw(0, bad).await.expect_err(what);
        let refusal = refusal(&status);
        assert_eq!(refusal.cause, cause, "{what}: {status}");
        assert!(!refusal.expected.is_empty() && !refusal.found.is_empty(), "{what}: {refusal}");
    }
    // 256 + 1 + 1 + 1 needs nine bits, which bf16 does not have: the sum is f32.
    for (slot, first) in [256.0, 1.0, 1.0, 1.0].into_iter().enumerate() {
        let slots = (slot as u32, slot as u32 + 1);
        for (block, values) in blocks.iter().zip([&[first, 4.0][..], &[0.0], &[-1.0]]) {
            let part = coded(tool.contribution(*block, 1, slots, Some(values)), values);
            assert_eq!(tool.push_raw(0, part).await.unwrap().outcome(), v1::Outcome::Added);
        }
    }
    tool.wait_for(1).await;
    assert_eq!(tool.pull(0, "", 1).await.unwrap(), [1.0 - 259.0 / 4.0, -2.0, 3.0]);
    assert_eq!(tool.pull(1, "", 1).await.unwrap(), [5.0]);
    // What holds no data is not rounded, so it may stand for several slots.
    for block in &blocks {
        let absent = tool.contribution(*block, 2, (0, 4), None);
        tool.push_raw(0, absent).await.expect("absent is taken");
    }
    tool.wait_for(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_gradients_are_read_as_the_contract_lays_them_out() {
    let (_cluster, mut tool) = started_on("gradients = \"i8\"").await;
    let status = tool.control.status(v1::StatusRequest {}).await.unwrap().into_inner();
    let promise = &status.promises[0];
    assert!(!promise.holds && promise.why.contains("error feedback"), "{promise:?}");
    let group = |scale: f32, values: &[i8]| {
        scale.to_le_bytes().into_iter().chain(values.iter().map(|value| value.cast_unsigned())).collect::<Vec<u8>>()
    };
    let i8 = |c: v1::Contribution, data: Vec<u8>| v1::Contribution {
        dtype: v1::Dtype::I8Scaled.into(),
        data: data.into(),
        ..c
    };
    let blocks: Vec<_> = (0..2).flat_map(|tensor| tool.blocks(tensor)).map(|(block, ..)| block).collect();
    let empty = tool.contribution(blocks[0], 1, (0, 1), Some(&[]));
    for (what, data, cause) in [
        ("short", group(1.0, &[1]), RefusalCause::WrongSize),
        ("infinite scale", group(f32::INFINITY, &[0, 0]), RefusalCause::NonfiniteData),
        ("NaN scale", group(f32::NAN, &[1, 0]), RefusalCause::NonfiniteData),
    ] {
        let status = tool.push_raw(0, i8(empty.clone(), data)).await.expect_err(what);
        assert_eq!(refusal(&status).cause, cause, "{what}");
    }
    for slot in 0..4 {
        for (block, values) in blocks.iter().zip([&[100i8, -128][..], &[0], &[-1]]) {
            let part = tool.contribution(*block, 1, (slot, slot + 1), Some(&[]));
            tool.push_raw(0, i8(part, group(0.5, values))).await.expect("it is taken");
        }
    }
    tool.wait_for(1).await;
    assert_eq!(tool.pull(0, "", 1).await.unwrap(), [1.0 - 50.0, 2.0 + 64.0, 3.0]);
    assert_eq!(tool.pull(1, "", 1).await.unwrap(), [4.5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_stream_in_the_wires_dtype_and_are_pulled_in_full() {
    let (_cluster, mut tool) = started_on("weights = \"bf16\"").await;
    let third = 1.0f32 / 3.0;
    push_all(&mut tool, 1, (0, 4), &[4.0 * third; 3], &[0.0]).await;
    tool.wait_for(1).await;
    let masters = [1.0 - third, 2.0 - third, 3.0 - third, 4.0];
    let pulled = [tool.pull(0, "", 1).await.unwrap(), tool.pull(1, "", 1).await.unwrap()].concat();
    assert_eq!(pulled, masters);
    let first = hello(&tool.hello, Some(1));
    let mut stream = Stream::open(&mut tool, first).await.unwrap();
    let mut data = Vec::new();
    while data.len() < 8 {
        if let step_response::Message::Weights(block) = stream.next().await {
            assert_eq!((block.step, block.dtype()), (1, v1::Dtype::Bf16));
            data.extend(block.data);
        }
    }
    assert_eq!(data, tool::bf16(&masters));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_is_refused_and_the_server_lives_on() {
    let (_cluster, mut tool) = started("").await;
    let block = tool.blocks(0)[0].0;
    let mut huge = tool.contribution(block, 1, (0, 4), None);
    (huge.kind, huge.data) = (v1::ContributionKind::Dense.into(), vec![0; 8 << 20].into());
    tool.servers[0] = tool.servers[0].clone().max_encoding_message_size(64 << 20);
    let status = tool.push_raw(0, huge).await.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(status.message().contains("too large"), "{status}");
    assert_eq!(tool.pull(1, "", 0).await.unwrap(), [4.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_covering_nodes_count_once() {
    use v1::Outcome::{Added, AlreadyApplied, Duplicate, Replaced};
    let (_cluster, mut tool) = started("").await;
    let mut push = async |slots, value: f32| {
        tool.push(1, slots, 1, Some(&[value]), f64::from(slots.1 - slots.0)).await.unwrap()[0]
    };
    assert_eq!(push((0, 1), 9.0).await, Added);
    assert_eq!(push((0, 1), 9.0).await, Duplicate);
    assert_eq!(push((0, 2), 2.0).await, Replaced);
    assert_eq!(push((1, 2), 9.0).await, Duplicate);
    assert_eq!(push((2, 4), 2.0).await, Added);
    assert_eq!(push((0, 4), 9.0).await, AlreadyApplied);
    tool.push(1, (0, 4), 0, None, 4.0).await.unwrap();
    tool.wait_for(1).await;
    assert_eq!(tool.pull(1, "", 1).await.unwrap(), [3.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_say_which_step_they_are_of_or_why_not() {
    let (_cluster, mut tool) = started("").await;
    assert_eq!(refusal(&tool.pull(0, "", 5).await.unwrap_err()).cause, RefusalCause::StepAhead);
    assert_eq!(refusal(&tool.pull(0, "v", 0).await.unwrap_err()).cause, RefusalCause::UnknownBlock);
    for step in 1..=3 {
        push_all(&mut tool, step, (0, 4), &[0.0; 3], &[0.0]).await;
        tool.wait_for(step).await;
    }
    assert_eq!(refusal(&tool.pull(0, "", 1).await.unwrap_err()).cause, RefusalCause::StepGone);
    let request = v1::PullRequest { hello: Some(tool.hello.clone()), ..v1::PullRequest::default() };
    assert_eq!(tool.servers[0].pull(request).await.unwrap().into_inner().step, 3);
}

async fn pull_times(tool: &mut Tool, block: v1::BlockId, times: usize, plane: &str) -> Result<usize, Status> {
    let (hello, blocks, plane) = (Some(tool.hello.clone()), vec![block; times], plane.to_owned());
    let pulled = tool.servers[0].pull(v1::PullRequest { hello, blocks, step: None, plane }).await?;
    Ok(pulled.into_inner().blocks.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_one_block_many_times_over_is_refused_before_anything_is_read() {
    let job = "[job]\nname = \"pulled\"\nsteps = 10\nslots = 4\n[optimizer]\nalgorithm = \"adam\"\nlr = 1.0";
    let cluster = Cluster::start(JobSpec::parse("pulled", job, &[]).expect("a valid job")).await;
    let mut tool = Tool::join(cluster.lead_url(), vec![ToolTensor::trainable("w", &[1000])]).await.unwrap();
    let block = tool.blocks(0)[0].0;
    for plane in ["", "m"] {
        // There are no weights yet, as whoever tries to read them finds out.
        let refused = refusal(&pull_times(&mut tool, block, 1, plane).await.expect_err("nothing to read"));
        assert_eq!(refused.cause, RefusalCause::NotInitialized);
        let refused = refusal(&pull_times(&mut tool, block, PULL_BLOCKS_MAX, plane).await.expect_err("too many bytes"));
        assert_eq!(refused.cause, RefusalCause::TooLarge, "{refused}");
        assert!(refused.found.contains("32768000 bytes"), "{refused}");
    }
    tool.initialize(0, &[1.0; 1000]).await.unwrap();
    assert_eq!(pull_times(&mut tool, block, 1048, "m").await.unwrap(), 1048, "as many as fit");
    assert_eq!(refusal(&pull_times(&mut tool, block, 1049, "m").await.unwrap_err()).cause, RefusalCause::TooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_manifest_is_refused_with_the_difference_spelled_out() {
    let (cluster, _tool) = started("").await;
    let other = vec![ToolTensor::trainable("w", &[3, 1]), ToolTensor::trainable("c", &[1])];
    let refusal = refusal(&Tool::join(cluster.lead_url(), other).await.expect_err("another model"));
    assert_eq!(refusal.cause, RefusalCause::ManifestMismatch);
    for part in ["\"w\" f32[3] trainable, found \"w\" f32[3, 1]", "\"b\"", "found \"c\""] {
        assert!(refusal.message.contains(part), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_differs_in_hundreds_of_tensors_is_refused_with_the_first_of_them() {
    let cluster = Cluster::start(spec("")).await;
    let model = |width| (0..400).map(|i| ToolTensor::trainable(&format!("layer_{i}.weight"), &[width])).collect();
    Tool::join(cluster.lead_url(), model(2)).await.expect("the first model");
    let refusal = refusal(&Tool::join(cluster.lead_url(), model(3)).await.expect_err("another model"));
    assert_eq!(refusal.cause, RefusalCause::ManifestMismatch);
    assert!(refusal.message.contains("layer_0.weight") && refusal.message.contains("and 390 more"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_frozen_blocks_serves_them_at_every_step() {
    let cluster = Cluster::start(spec("servers = 2")).await;
    let frozen = ToolTensor { role: v1::TensorRole::Frozen, ..ToolTensor::trainable("frozen", &[2]) };
    let mut tool = Tool::join(cluster.lead_url(), vec![frozen, ToolTensor::trainable("w", &[2])]).await.unwrap();
    assert_ne!(tool.blocks(0)[0].2, tool.blocks(1)[0].2, "each on a server of its own");
    for tensor in 0..2 {
        tool.initialize(tensor, &[1.0, 2.0]).await.unwrap();
    }
    tool.wait_for(0).await;
    for step in 1..=3 {
        tool.push(step, (0, 4), 1, Some(&[4.0, 4.0]), 4.0).await.unwrap();
        tool.wait_for(step).await;
    }
    assert_eq!(tool.pull(0, "", 3).await.unwrap(), [1.0, 2.0]);
    assert_eq!(tool.pull(1, "", 3).await.unwrap(), [-2.0, -1.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonfinite_slot_stops_the_job_or_lets_the_step_pass() {
    for policy in ["stop", "skip"] {
        let (_cluster, mut tool) = started(&format!("nonfinite = \"{policy}\"")).await;
        let mut statuses = Vec::new();
        for tensor in 0..2 {
            for (block, _, server) in tool.blocks(tensor) {
                let absent = tool.contribution(block, 1, (0, 4), None);
                let nonfinite = v1::Contribution { kind: v1::ContributionKind::Nonfinite.into(), ..absent };
                statuses.push(tool.push_raw(server, nonfinite).await);
            }
        }
        if policy == "stop" {
            let first = refusal(statuses[0].as_ref().expect_err("the job stops"));
            assert_eq!(first.cause, RefusalCause::JobStopped);
            assert!(first.message.contains("step 1, slots [0, 4) held NaN or infinity"), "{first}");
            assert_eq!(tool.pull(0, "", 0).await.unwrap(), [1.0, 2.0, 3.0], "weights can still be read");
            let status = loop {
                let status = tool.control.status(v1::StatusRequest {}).await.unwrap().into_inner();
                if status.phase() == v1::Phase::Stopped {
                    break status;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            assert!(status.note.contains("NaN or infinity"), "{}", status.note);
        } else {
            assert!(statuses.iter().all(Result::is_ok), "{statuses:?}");
            tool.wait_for(1).await;
            assert_eq!(tool.pull(0, "", 1).await.unwrap(), [1.0, 2.0, 3.0]);
            push_all(&mut tool, 2, (0, 4), &[4.0; 3], &[4.0]).await;
            tool.wait_for(2).await;
            assert_eq!(tool.pull(1, "", 2).await.unwrap(), [3.0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_of_another_kind_is_refused_naming_both_sides() {
    let (_cluster, mut tool) = started("").await;
    let good = tool.hello.clone();
    for (hello, cause, expected, found) in [
        (v1::Hello { protocol_version: 9, ..good.clone() }, RefusalCause::WrongProtocol, "1", "9"),
        (v1::Hello { job_id: "other".into(), ..good.clone() }, RefusalCause::WrongJob, "small-", "other"),
        (v1::Hello { job_id: String::new(), ..good.clone() }, RefusalCause::WrongJob, "small-", "no job"),
        (v1::Hello { generation: 5, ..good.clone() }, RefusalCause::WrongGeneration, "generation 1", "generation 5"),
    ] {
        tool.hello = hello;
        let refusal = refusal(&tool.pull(0, "", 0).await.expect_err("a wrong hello"));
        assert_eq!(refusal.cause, cause);
        assert!(refusal.expected.contains(expected) && refusal.found.contains(found), "{refusal}");
    }
    let status = tool.servers[0].pull(v1::PullRequest::default()).await.expect_err("no hello");
    assert_eq!(refusal(&status).cause, RefusalCause::Malformed);
}

/// A step stream as the test holds it.
struct Stream {
    up: mpsc::Sender<v1::StepRequest>,
    down: tonic::Streaming<v1::StepResponse>,
}

impl Stream {
    async fn open(tool: &mut Tool, first: v1::StepRequest) -> Result<Stream, Status> {
        let (up, outgoing) = mpsc::channel(16);
        up.send(first).await.expect("the stream is open");
        let down = tool.servers[0].step(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Stream { up, down })
    }

    async fn send(&self, contribution: v1::Contribution) {
        let message = Some(step_request::Message::Contribution(contribution));
        self.up.send(v1::StepRequest { message, from_step: None }).await.expect("the stream is open");
    }

    async fn next(&mut self) -> step_response::Message {
        let response =
            tokio::time::timeout(Duration::from_secs(10), self.down.message()).await.expect("an answer in time");
        response.expect("no status").expect("no end").message.expect("a message")
    }
}

fn hello(hello: &v1::Hello, from_step: Option<u64>) -> v1::StepRequest {
    v1::StepRequest { message: Some(step_request::Message::Hello(hello.clone())), from_step }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_stream_welcomes_sends_weights_and_outlives_refusals() {
    let (_cluster, mut tool) = started("").await;
    let first = hello(&tool.hello, None);
    let mut stream = Stream::open(&mut tool, first).await.expect("a stream");
    let step_response::Message::Welcome(welcome) = stream.next().await else { panic!("expected a welcome") };
    assert_eq!((welcome.server_index, welcome.step), (0, Some(0)));
    let mut weights = Vec::new();
    for _ in 0..3 {
        let step_response::Message::Weights(block) = stream.next().await else { panic!("expected weights") };
        weights.push((block.step, floats(&block.data)));
    }
    assert_eq!(weights, [(0, vec![1.0, 2.0]), (0, vec![3.0]), (0, vec![4.0])]);

    let blocks: Vec<_> = (0..2).flat_map(|tensor| tool.blocks(tensor)).map(|(block, ..)| block).collect();
    stream.send(tool.contribution(blocks[0], 1, (1, 3), Some(&[0.0, 0.0]))).await;
    let step_response::Message::Refusal(refusal) = stream.next().await else { panic!("expected a refusal") };
    assert_eq!(refusal.cause(), v1::RefusalCause::MisalignedSlots);

    for (block, values) in blocks.iter().zip([vec![4.0, 4.0], vec![4.0], vec![4.0]]) {
        stream.send(tool.contribution(*block, 1, (0, 4), Some(&values))).await;
    }
    let mut after = Vec::new();
    for _ in 0..3 {
        let step_response::Message::Weights(block) = stream.next().await else { panic!("expected weights") };
        assert_eq!((block.step, block.lr, block.decay), (1, 1.0, 0.0));
        after.extend(floats(&block.data));
    }
    assert_eq!(after, [0.0, 1.0, 2.0, 3.0]);

    stream.send(tool.contribution(blocks[0], 1, (0, 4), Some(&[4.0, 4.0]))).await;
    let step_response::Message::Acknowledgement(late) = stream.next().await else { panic!("expected an answer") };
    assert_eq!((late.outcome(), late.step, late.durable_step), (v1::Outcome::AlreadyApplied, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_begin_with_a_hello_is_refused() {
    let (_cluster, mut tool) = started("").await;
    let block = tool.blocks(0)[0].0;
    let message = Some(step_request::Message::Contribution(tool.contribution(block, 1, (0, 4), None)));
    let status = Stream::open(&mut tool, v1::StepRequest { message, from_step: None }).await.err().expect("refused");
    assert_eq!(refusal(&status).cause, RefusalCause::Malformed);
    let first = hello(&tool.hello, Some(3));
    let mut stream = Stream::open(&mut tool, first).await.expect("a later step may still come");
    assert!(matches!(stream.next().await, step_response::Message::Welcome(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_takes_the_place_of_an_earlier_one_of_the_same_incarnation() {
    let (_cluster, mut tool) = started("").await;
    let (one, two) = (tool.hello.clone(), v1::Hello { incarnation: 78, ..tool.hello.clone() });
    let mut streams = Vec::new();
    for peer in [&one, &two, &one] {
        let mut stream = Stream::open(&mut tool, hello(peer, None)).await.expect("a stream");
        assert!(matches!(stream.next().await, step_response::Message::Welcome(_)));
        streams.push(stream);
    }
    let ended = loop {
        match streams[0].down.message().await {
            Ok(Some(_)) => {} // what was under way
            Ok(None) => panic!("it ends without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(ended.message().contains("another stream"), "{ended}");
    for stream in &mut streams[1..] {
        for _ in 0..3 {
            assert!(matches!(stream.next().await, step_response::Message::Weights(_)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_begins_with_the_step_it_names() {
    let (_cluster, mut tool) = started("").await;
    push_all(&mut tool, 1, (0, 4), &[4.0; 3], &[4.0]).await;
    tool.wait_for(1).await;
    let block = tool.blocks(1)[0].0;
    let half = tool.contribution(block, 2, (0, 4), Some(&[4.0]));
    tool.push_raw(0, half).await.unwrap();
    let first = hello(&tool.hello, Some(1));
    let mut stream = Stream::open(&mut tool, first).await.unwrap();
    let mut steps = Vec::new();
    while steps.len() < 4 {
        if let step_response::Message::Weights(block) = stream.next().await {
            steps.push(block.step);
        }
    }
    assert_eq!(steps, [1, 1, 1, 2], "first every block at the step, then what is newer");
    for step in 2..=4 {
        push_all(&mut tool, step, (0, 4), &[0.0; 3], &[0.0]).await;
        tool.wait_for(step).await;
    }
    let first = hello(&tool.hello, Some(1));
    let status = Stream::open(&mut tool, first).await.err().expect("that step is gone");
    assert_eq!(refusal(&status).cause, RefusalCause::StepGone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_opened_in_the_middle_of_the_initialization_misses_no_block() {
    let cluster = Cluster::start(spec("")).await;
    let mut tool = Tool::join(cluster.lead_url(), tensors()).await.unwrap();
    tool.initialize(0, &[1.0, 2.0, 3.0]).await.unwrap();
    let first = hello(&tool.hello, None);
    let mut stream = Stream::open(&mut tool, first).await.unwrap();
    let step_response::Message::Welcome(welcome) = stream.next().await else { panic!("expected a welcome") };
    assert_eq!(welcome.step, None);
    tool.initialize(1, &[4.0]).await.unwrap();
    let mut weights = Vec::new();
    while weights.len() < 4 {
        if let step_response::Message::Weights(block) = stream.next().await {
            weights.extend(floats(&block.data));
        }
    }
    assert_eq!(weights, [1.0, 2.0, 3.0, 4.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_and_buffer_tensors_keep_to_their_role() {
    let cluster = Cluster::start(spec("servers = 2")).await;
    let frozen = ToolTensor { role: v1::TensorRole::Frozen, ..ToolTensor::trainable("frozen", &[3]) };
    let buffer = ToolTensor { role: v1::TensorRole::Buffer, ..ToolTensor::trainable("buffer", &[3]) };
    let tensors = vec![ToolTensor::trainable("w", &[3]), frozen, buffer];
    let mut tool = Tool::join(cluster.lead_url(), tensors).await.unwrap();
    for tensor in 0..3 {
        tool.initialize(tensor, &[1.0, 2.0, 3.0]).await.unwrap();
    }
    tool.wait_for(0).await;
    for (slots, value) in [((0, 2), 2.0), ((2, 4), 6.0)] {
        tool.push(1, slots, 0, Some(&[value; 3]), 2.0).await.unwrap();
        tool.push(1, slots, 2, Some(&[value; 3]), 2.0).await.unwrap();
    }
    tool.wait_for(1).await;
    assert_eq!(tool.pull(0, "", 1).await.unwrap(), [-1.0, 0.0, 1.0]);
    assert_eq!(tool.pull(1, "", 1).await.unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(tool.pull(2, "", 1).await.unwrap(), [2.0, 2.0, 2.0], "the mean over slots");
    let refused = tool.push(2, (0, 4), 1, Some(&[1.0; 3]), 4.0).await.unwrap_err();
    assert!(refusal(&refused).to_string().contains("frozen"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_calls_to_another_server_name_the_lead() {
    let (cluster, tool) = started("servers = 2").await;
    let mut control = tool::control(&tool.placement.servers[1]).await.unwrap();
    let refusal = refusal(&control.describe(v1::DescribeRequest {}).await.unwrap_err());
    assert_eq!(refusal.cause, RefusalCause::NotLead);
    assert_eq!(refusal.lead_url(), Some(cluster.lead_url()), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_makes_no_sense_costs_a_server_its_place_and_the_lead_says_why() {
    let job = root().join("deploy/examples/digits.toml");
    let job = job.to_str().expect("a path");
    let (mut lead, url) = Process::server(&["--config", job, "--set", "job.servers=2"]);
    let hello = v1::Hello { protocol_version: PROTOCOL_VERSION, incarnation: 7, ..v1::Hello::default() };
    let registration =
        v1::Registration { hello: Some(hello), url: "http://127.0.0.1:1".to_owned(), ..v1::Registration::default() };
    let registration = v1::ServerReport { report: Some(v1::server_report::Report::Registration(registration)) };
    let nonsense = v1::ServerReport { report: None };
    let (reports, outgoing) = mpsc::channel(2);
    reports.send(registration).await.expect("room");
    reports.send(nonsense).await.expect("room");
    let mut control = tool::control(&url).await.expect("the lead listens");
    let mut orders = control.register(ReceiverStream::new(outgoing)).await.expect("it is taken in").into_inner();
    assert!(orders.message().await.expect("an admission").is_some());
    let line = lead.wait_for_line("a report of a server makes no sense");
    assert!(line.contains("ERROR") && line.contains("index") && line.contains("report"), "{line}");
    lead.wait_for_line("is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};

    let cluster = Cluster::start(spec("")).await;
    let url = cluster.lead_url().to_owned();
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: "halflife.v1.Data".into() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);

    let mut reflection = ServerReflectionClient::new(channel);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"halflife.v1.Data") && names.contains(&"halflife.v1.Control"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_where_the_job_stands() {
    let cluster = Cluster::start(spec("servers = 2")).await;
    let mut control = tool::control(cluster.lead_url()).await.unwrap();
    let status = control.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.phase(), v1::Phase::WaitingForWorkers);
    let (_cluster, mut tool) = started("servers = 2").await;
    push_all(&mut tool, 1, (0, 4), &[0.0; 3], &[0.0]).await;
    tool.wait_for(1).await;
    let status = tool.control.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.phase(), status.step, status.lr), (v1::Phase::Training, 1, 1.0));
    assert_eq!(status.note, "no workers: the job waits");
    let placed: Vec<_> = status.servers.iter().map(|server| (server.blocks, server.bytes, server.step)).collect();
    assert_eq!(placed, [(1, 8, 1), (2, 8, 1)]);
}
