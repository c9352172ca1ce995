//! Quorum and asynchronous modes as any client sees them: over real gRPC, spoken without our SDK.

use std::time::Duration;

use halflife_proto::refusal::RefusalCause;
use halflife_proto::v1::{self, step_request, step_response, ticket_response};
use halflife_server::JobSpec;
use halflife_tests::cluster::Cluster;
use halflife_tests::small_job::{refusal, started, tensors};
use halflife_tests::tool::{self, Tool, ToolTensor};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const ASYNC: &str = "mode = \"async\"\nservers = 2\n[membership]\nlease_ms = 600000";
/// Gradients whose mean over 4 slots is 1: SGD with lr 1 takes 1 off every weight.
const ONE: f32 = 4.0;

/// A worker that joins by hand: its lease lasts for the test.
async fn join(tool: &mut Tool, incarnation: u64) -> v1::Hello {
    let hello = v1::Hello { incarnation, ..tool.hello.clone() };
    let request = v1::JoinRequest {
        hello: Some(hello.clone()),
        manifest: Some(tool::manifest(&tensors())),
        join_as: v1::JoinAs::Worker.into(),
    };
    let joined = tool.control.join(request).await.expect("the worker joins").into_inner();
    assert!(joined.assignment.expect("an assignment").nodes.is_empty(), "nobody owns slots");
    hello
}

/// The ticket of a sequence number: 0 for one that has to be waited for.
async fn ticket(tool: &mut Tool, hello: &v1::Hello, sequence: u64) -> Result<u64, Status> {
    let request = v1::TicketRequest { hello: Some(hello.clone()), sequence };
    match tool.control.ticket(request).await?.into_inner().answer.expect("an answer") {
        ticket_response::Answer::Granted(ticket) => Ok(ticket),
        ticket_response::Answer::Wait(_) => Ok(0),
        ticket_response::Answer::Finished(finished) => panic!("finished at {}", finished.step),
    }
}

/// The ticket of a sequence number that need not be waited for, but that the lead may hear late of the push before it.
async fn granted(tool: &mut Tool, hello: &v1::Hello, sequence: u64) -> u64 {
    for _ in 0..60 {
        let ticket = ticket(tool, hello, sequence).await.expect("a ticket or a wait");
        if ticket != 0 {
            return ticket;
        }
    }
    panic!("no ticket of sequence number {sequence}")
}

/// Every block of the model: its id, elements and server.
fn blocks(tool: &Tool) -> Vec<(v1::BlockId, usize, usize)> {
    let of_tensor = |tensor| tool.blocks(tensor).into_iter().map(|(id, range, server)| (id, range.len(), server));
    (0..2).flat_map(of_tensor).collect()
}

/// A push of 1 to one block, computed at its version `read`.
fn push_of(tool: &Tool, block: usize, ticket: u64, read: u64) -> (usize, v1::Contribution) {
    let (id, elements, server) = blocks(tool)[block];
    let part = tool.contribution(id, read, (0, 4), Some(&vec![ONE; elements]));
    (server, v1::Contribution { ticket, sequence: 1, ..part })
}

async fn push(tool: &mut Tool, block: usize, ticket: u64, read: u64) -> Result<v1::Outcome, Status> {
    let (server, part) = push_of(tool, block, ticket, read);
    let acknowledgement = tool.push_raw(server, part).await?;
    assert_eq!(acknowledgement.ticket, ticket);
    Ok(acknowledgement.outcome())
}

async fn push_all(tool: &mut Tool, ticket: u64, read: u64) {
    for block in 0..3 {
        assert_eq!(push(tool, block, ticket, read).await.expect("it is taken"), v1::Outcome::Added);
    }
}

/// The version and first weight of each block.
async fn newest(tool: &mut Tool) -> Vec<(u64, f32)> {
    let mut found = Vec::new();
    for (block, _, server) in blocks(tool) {
        let hello = Some(tool.hello.clone());
        let request = v1::PullRequest { hello, blocks: vec![block], step: None, plane: String::new() };
        let response = tool.servers[server].pull(request).await.expect("weights").into_inner();
        assert_eq!(response.step, response.blocks[0].step);
        found.push((response.step, tool::floats(&response.blocks[0].data)[0]));
    }
    found
}

async fn status_when(tool: &mut Tool, wanted: impl Fn(&v1::JobStatus) -> bool) -> v1::JobStatus {
    for _ in 0..2000 {
        let status = tool.control.status(v1::StatusRequest {}).await.expect("a status").into_inner();
        if wanted(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the status never came")
}

fn tickets(status: &v1::JobStatus) -> v1::TicketStatus {
    status.tickets.expect("a job with tickets")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_push_is_applied_at_once_and_the_next_ticket_acknowledges_it() {
    let (_cluster, mut tool) = started(ASYNC).await;
    let (first, second) = (join(&mut tool, 1).await, join(&mut tool, 2).await);
    assert_eq!(ticket(&mut tool, &first, 1).await.unwrap(), 1);
    assert_eq!(ticket(&mut tool, &first, 1).await.unwrap(), 1, "asked again");
    assert_eq!(ticket(&mut tool, &second, 1).await.unwrap(), 2);
    assert_eq!(ticket(&mut tool, &first, 2).await.unwrap(), 0, "its push is not in");
    push_all(&mut tool, 2, 0).await;
    push_all(&mut tool, 1, 0).await;
    assert_eq!(granted(&mut tool, &first, 2).await, 3);
    assert_eq!(newest(&mut tool).await, [(2, -1.0), (2, 1.0), (2, 2.0)]);
    let status = status_when(&mut tool, |status| status.step == 2).await;
    let tickets = tickets(&status);
    assert_eq!((tickets.granted, tickets.done, tickets.voided), (3, 2, 0));
    let updates = tickets.update_staleness.unwrap();
    assert_eq!((updates.count, updates.max, updates.mean), (6, 1, 0.5), "ticket 1 had not seen ticket 2");
    let promise = &status.promises[0];
    assert!(!promise.holds && promise.why.contains("in the order in which they come"), "{promise:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_sent_again_counts_once_in_any_order() {
    let (_cluster, mut tool) = started(ASYNC).await;
    let workers = [join(&mut tool, 1).await, join(&mut tool, 2).await, join(&mut tool, 3).await];
    for (number, worker) in workers.iter().enumerate() {
        assert_eq!(ticket(&mut tool, worker, 1).await.unwrap(), number as u64 + 1);
    }
    let mut added = 0;
    for round in 0..4 {
        for ticket in [3, 1, 2, 1] {
            for block in [(round + 1) % 3, round % 3] {
                match push(&mut tool, block, ticket, 0).await.unwrap() {
                    v1::Outcome::Added => added += 1,
                    v1::Outcome::Duplicate | v1::Outcome::AlreadyApplied => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
    }
    assert_eq!(added, 9);
    assert_eq!(newest(&mut tool).await, [(3, -2.0), (3, 0.0), (3, 1.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_a_ticket_that_nobody_was_given_yet_lets_nobody_wait_for_ever() {
    let (_cluster, mut tool) = started(ASYNC).await;
    let (first, second) = (join(&mut tool, 1).await, join(&mut tool, 2).await);
    assert_eq!(ticket(&mut tool, &first, 1).await.unwrap(), 1);
    push_all(&mut tool, 2, 0).await; // a stranger's
    push_all(&mut tool, 1, 0).await;
    assert_eq!(ticket(&mut tool, &second, 1).await.unwrap(), 2);
    for block in 0..3 {
        assert_eq!(push(&mut tool, block, 2, 1).await.unwrap(), v1::Outcome::AlreadyApplied);
    }
    assert_eq!(ticket(&mut tool, &second, 2).await.unwrap(), 3, "its push counts as done, though it was another's");
    assert_eq!(ticket(&mut tool, &first, 2).await.unwrap(), 4);
    assert_eq!(newest(&mut tool).await, [(2, -1.0), (2, 1.0), (2, 2.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_beyond_all_that_can_be_out_is_refused() {
    let job = "[job]\nname = \"far\"\nsteps = 1000000\nslots = 4\nmode = \"async\"\n[optimizer]\nalgorithm = \"sgd\"\nlr = 1.0";
    let cluster = Cluster::start(JobSpec::parse("far", job, &[]).expect("a valid job")).await;
    let mut tool =
        Tool::join(cluster.lead_url(), vec![ToolTensor::trainable("w", &[1])]).await.expect("the tool joins");
    tool.initialize(0, &[1.0]).await.expect("w is set");
    let (id, ..) = tool.blocks(0)[0];
    let part = v1::Contribution { sequence: 1, ..tool.contribution(id, 0, (0, 4), Some(&[ONE])) };
    let status = tool.push_raw(0, v1::Contribution { ticket: 4097, ..part.clone() }).await.expect_err("too far");
    let refused = refusal(&status);
    assert_eq!(
        (refused.cause, refused.expected.as_str()),
        (RefusalCause::StepAhead, "at most ticket 4096"),
        "{refused}"
    );
    // Even ones leave one out each: of those no more are taken than can be out, however many are sent.
    let mut taken = 0;
    for ticket in (2..20_000).step_by(2) {
        match tool.push_raw(0, v1::Contribution { ticket, ..part.clone() }).await {
            Ok(_) => taken += 1,
            Err(status) => assert_eq!(refusal(&status).cause, RefusalCause::StepAhead),
        }
    }
    assert_eq!(taken, 4095);
    tool.push_raw(0, v1::Contribution { ticket: 1, ..part.clone() }).await.expect("one that was left out");
    tool.push_raw(0, v1::Contribution { ticket: 8192, ..part }).await.expect("and so one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_voids_its_ticket_and_a_torn_push_is_counted() {
    let (_cluster, mut tool) = started(ASYNC).await;
    let (first, second) = (join(&mut tool, 1).await, join(&mut tool, 2).await);
    assert_eq!(ticket(&mut tool, &first, 1).await.unwrap(), 1);
    assert_eq!(ticket(&mut tool, &second, 1).await.unwrap(), 2);
    assert_eq!(push(&mut tool, 0, 1, 0).await.unwrap(), v1::Outcome::Added);
    tool.control.leave(v1::LeaveRequest { hello: Some(first.clone()) }).await.expect("it leaves");
    let status = status_when(&mut tool, |status| tickets(status).voided == 1).await;
    assert_eq!((tickets(&status).torn, status.step), (1, 1));
    for block in 0..3 {
        let status = push(&mut tool, block, 1, 0).await.expect_err("void");
        assert_eq!(refusal(&status).cause, RefusalCause::Fenced, "{status}");
    }
    let status = ticket(&mut tool, &first, 1).await.expect_err("it is no member");
    assert_eq!(refusal(&status).cause, RefusalCause::Fenced);
    assert_eq!(newest(&mut tool).await, [(1, 0.0), (0, 3.0), (0, 4.0)], "what was applied stays");
    push_all(&mut tool, 2, 0).await;
    assert_eq!(granted(&mut tool, &second, 2).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_lease_ends_voids_its_ticket_and_lets_go_of_those_that_waited() {
    let bounded = "mode = \"bounded\"\nstaleness = 0\n[membership]\nheartbeat_ms = 100\nlease_ms = 1500";
    let (_cluster, mut tool) = started(bounded).await;
    let (silent, living) = (join(&mut tool, 1).await, join(&mut tool, 2).await);
    let (beats, outgoing) = mpsc::channel(4);
    let beat = v1::HeartbeatRequest { hello: Some(living.clone()), step: 0, unreachable: Vec::new(), ready: false };
    let beating = tokio::spawn(async move {
        while beats.send(beat.clone()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let _notices = tool.control.heartbeat(ReceiverStream::new(outgoing)).await.expect("the stream is open");
    assert_eq!(ticket(&mut tool, &silent, 1).await.unwrap(), 1);
    assert_eq!(ticket(&mut tool, &living, 1).await.unwrap(), 2);
    push_all(&mut tool, 2, 0).await;
    assert_eq!(granted(&mut tool, &living, 2).await, 3, "the slowest is gone");
    let status = status_when(&mut tool, |status| tickets(status).voided == 1).await;
    assert_eq!((tickets(&status).torn, tickets(&status).clock_staleness.unwrap().max), (0, 0));
    beating.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_worker_waits_until_the_slowest_has_pushed() {
    let (_cluster, mut tool) = started("mode = \"bounded\"\nstaleness = 1\n[membership]\nlease_ms = 600000").await;
    let (fast, slow) = (join(&mut tool, 1).await, join(&mut tool, 2).await);
    for sequence in 1..=2 {
        assert_eq!(granted(&mut tool, &fast, sequence).await, sequence);
        push_all(&mut tool, sequence, sequence - 1).await;
    }
    assert_eq!(ticket(&mut tool, &fast, 3).await.unwrap(), 0, "two ahead of a slow one");
    assert_eq!(ticket(&mut tool, &slow, 1).await.unwrap(), 3);
    push_all(&mut tool, 3, 2).await;
    assert_eq!(granted(&mut tool, &fast, 3).await, 4);
    let status = status_when(&mut tool, |status| status.step == 3).await;
    assert_eq!(tickets(&status).clock_staleness.unwrap().max, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_tickets_out_of_place_are_refused_by_cause_and_change_nothing() {
    let (_cluster, mut tool) = started(ASYNC).await;
    let worker = join(&mut tool, 1).await;
    let (server, good) = push_of(&tool, 0, 1, 0);
    let slots = Some(v1::SlotRange { begin: 0, end: 2 });
    for (what, bad, cause) in [
        ("no ticket", v1::Contribution { ticket: 0, sequence: 0, step: 1, ..good.clone() }, RefusalCause::Malformed),
        ("no sequence", v1::Contribution { sequence: 0, ..good.clone() }, RefusalCause::Malformed),
        ("a ticket beyond the job", v1::Contribution { ticket: 11, ..good.clone() }, RefusalCause::StepAhead),
        ("a version to come", v1::Contribution { step: 1, ..good.clone() }, RefusalCause::StepAhead),
        ("half the slots", v1::Contribution { slots, weight: 2.0, ..good.clone() }, RefusalCause::MisalignedSlots),
        ("another generation", v1::Contribution { generation: 9, ..good.clone() }, RefusalCause::WrongGeneration),
    ] {
        let status = tool.push_raw(server, bad).await.expect_err(what);
        assert_eq!(refusal(&status).cause, cause, "{what}: {status}");
    }
    assert_eq!(newest(&mut tool).await, [(0, 1.0), (0, 3.0), (0, 4.0)]);
    for sequence in [0, 2] {
        let status = ticket(&mut tool, &worker, sequence).await.expect_err("out of turn");
        assert_eq!(refusal(&status).cause, RefusalCause::Malformed, "{status}");
    }
    let stranger = v1::Hello { incarnation: 99, ..worker };
    assert_eq!(refusal(&ticket(&mut tool, &stranger, 1).await.unwrap_err()).cause, RefusalCause::Fenced);

    let (_cluster, mut tool) = started("").await;
    let (server, ticketed) = push_of(&tool, 0, 1, 1);
    let status = tool.push_raw(server, ticketed).await.expect_err("a ticket in a sync job");
    assert!(refusal(&status).to_string().contains("expected no ticket, found ticket 1"), "{status}");
    let hello = tool.hello.clone();
    assert_eq!(refusal(&ticket(&mut tool, &hello, 1).await.unwrap_err()).cause, RefusalCause::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_comes_back_behind_the_weights_that_were_applied_before() {
    let (_cluster, mut tool) = started("mode = \"async\"").await;
    let (up, outgoing) = mpsc::channel(16);
    let send = async |message| {
        up.send(v1::StepRequest { message: Some(message), from_step: Some(7) }).await.expect("the stream is open");
    };
    send(step_request::Message::Hello(tool.hello.clone())).await;
    let mut down = tool.servers[0].step(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
    let mut next = async || down.message().await.expect("no status").expect("no end").message.expect("a message");
    assert!(matches!(next().await, step_response::Message::Welcome(welcome) if welcome.step == Some(0)));
    for version in 0..3 {
        if version > 0 {
            push_all(&mut tool, version, version - 1).await;
        }
        send(step_request::Message::Mark(v1::Mark { number: version + 5 })).await;
        let mut seen = Vec::new();
        loop {
            match next().await {
                step_response::Message::Weights(block) => seen.push(block.step),
                step_response::Message::Mark(mark) => {
                    assert_eq!(mark.number, version + 5);
                    break;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(seen, vec![version; 3], "each block's version {version} came before the mark");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_makes_a_step_of_the_same_slots_on_every_block_and_the_late_ones_are_told() {
    let (_cluster, mut tool) = started("quorum = 2\nservers = 2").await;
    let describe = tool.control.describe(v1::DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!(describe.quorum, Some(2));
    let mut push = async |step, slot: u32, blocks_of: &[usize], value: f32| {
        let mut outcomes = Vec::new();
        for block in blocks_of {
            let (id, elements, server) = blocks(&tool)[*block];
            let part = tool.contribution(id, step, (slot, slot + 1), Some(&vec![value; elements]));
            outcomes.push(tool.push_raw(server, part).await.map(|acknowledgement| acknowledgement.outcome()));
        }
        outcomes
    };
    // Slot 0 comes first, but never to block 2: it cannot be among those that count.
    push(1, 0, &[0, 1], 100.0).await;
    push(1, 3, &[0, 1, 2], 2.0).await;
    push(1, 1, &[2, 0, 1], 4.0).await;
    tool.wait_for(1).await;
    assert_eq!(newest(&mut tool).await, [(1, -2.0), (1, 0.0), (1, 1.0)], "the mean over slots 1 and 3");
    let (id, _, server) = blocks(&tool)[2];
    let late = tool.contribution(id, 1, (0, 1), Some(&[100.0]));
    assert_eq!(tool.push_raw(server, late).await.unwrap().outcome(), v1::Outcome::AlreadyApplied);
    let node = tool.contribution(id, 2, (0, 2), Some(&[1.0]));
    assert_eq!(refusal(&tool.push_raw(server, node).await.unwrap_err()).cause, RefusalCause::MisalignedSlots);
    let status = tool.control.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.quorum, Some(v1::QuorumStatus { quorum: 2, closed: 1, dropped: 2 }));
    let promise = &status.promises[0];
    assert!(!promise.holds && promise.why.contains("who is fast"), "{promise:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_of_all_slots_is_a_step_of_all_slots() {
    let (_cluster, mut tool) = started("quorum = 4").await;
    tool.push(1, (0, 4), 0, Some(&[ONE; 3]), 4.0).await.expect("a node of all slots");
    tool.push(1, (0, 4), 1, Some(&[ONE]), 4.0).await.expect("a node of all slots");
    tool.wait_for(1).await;
    let status = tool.control.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.promises[0].holds && status.quorum.is_none(), "{status:?}");
}
