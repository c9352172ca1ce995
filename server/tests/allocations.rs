//! A step allocates nothing on the server's way of it, once the first steps have been made: from the
//! bytes of a contribution to the bytes of the new weights, inline and on compute threads.
//!
//! A program of its own, since it counts every allocation of the process.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use halflife_proto::blocks::{BlockId, all_blocks};
use halflife_proto::contribution::{Contribution, Payload};
use halflife_proto::framing::{self, Framed, Heads, MessageReader};
use halflife_proto::hello::Fingerprint;
use halflife_proto::ids::{Generation, Incarnation, JobId, ServerIndex, Step};
use halflife_proto::manifest::{Manifest, Tensor};
use halflife_proto::slots::SlotRange;
use halflife_proto::tensor_codec::{Dtype, Encoded, encode};
use halflife_proto::v1::{self, step_request};
use halflife_proto::wire;
use halflife_server::JobSpec;
use halflife_server::outbox::{Outbox, Outgoing};
use halflife_server::placement::balance;
use halflife_server::shard::{Identity, Shard, ShardCompute};
use halflife_server::telemetry::Meter;
use tokio_stream::Stream as _;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const GENERATION: Generation = Generation(1);
const SLOTS: u32 = 2;
/// The large tensor is cut into blocks for compute threads and a tail that runs inline.
const BLOCK_ELEMENTS: u64 = 65_536;
const WARM_UP_STEPS: u64 = 40;
const STEPS: u64 = 400;

struct Bench {
    shard: Arc<Shard>,
    /// With initial weights, and gradients as the wire carries them.
    blocks: Vec<(BlockId, Bytes, Encoded)>,
    outgoing: Outgoing,
    heads: Heads,
}

impl Bench {
    fn new(optimizer: &str, dtype: Dtype) -> Bench {
        let job = format!(
            "[job]\nname = \"allocations\"\nsteps = {STEPS}\nslots = {SLOTS}\nblock_elements = {BLOCK_ELEMENTS}\n\
             [wire]\ngradients = \"{dtype}\"\nweights = \"{dtype}\"\n{optimizer}"
        );
        let spec = JobSpec::parse("the test", &job, &[]).expect("a valid job");
        let manifest =
            Manifest::new(vec![Tensor::trainable("large", &[300, 1000]), Tensor::trainable("small", &[100])]);
        let manifest = manifest.expect("a valid manifest");
        let placement = balance(&manifest, 1, BLOCK_ELEMENTS, false, vec!["http://s".into()]).expect("a placement");
        let blocks = all_blocks(&manifest, BLOCK_ELEMENTS).map(|(id, range)| {
            let values: Vec<f32> = range.map(|i| (i % 7) as f32 - 3.0).collect();
            let mut gradient = vec![0; dtype.encoded_bytes(values.len())];
            encode(dtype, &values, &mut gradient);
            let weights = Bytes::from(bytemuck::cast_slice::<f32, u8>(&values).to_vec());
            (id, weights, Encoded { dtype, bytes: gradient.into() })
        });
        let blocks = blocks.collect();
        let identity = Identity {
            job: JobId("allocations".to_owned()),
            generation: GENERATION,
            incarnation: Incarnation(1),
            fingerprint: Fingerprint::default(),
            index: ServerIndex(0),
        };
        // One drops a version before it takes the next job. Of two, one that is not run for a while still holds the version
        // that the next update of the block wants to write to.
        let compute = Arc::new(ShardCompute::new(1).expect("a thread"));
        let meter = Arc::<Meter>::default();
        let shard = Shard::new(identity, &spec, manifest, placement, compute, meter.clone()).expect("a valid job");
        let outbox = Arc::new(Outbox::default());
        shard.open_session(Incarnation(2), None, &outbox).expect("a session");
        let outgoing = Outgoing::new(outbox, GENERATION, ()).counted_in(meter);
        Bench { shard, blocks, outgoing, heads: Heads::default() }
    }

    /// What workers send for a step, as it goes over the wire.
    fn messages(&mut self, step: u64) -> Vec<Framed> {
        let slots = if step == 0 { 1 } else { SLOTS };
        let mut messages = Vec::new();
        for slot in 0..slots {
            for (block, weights, gradient) in &self.blocks {
                let data = if step == 0 { Encoded::f32(weights.clone()) } else { gradient.clone() };
                let contribution = Contribution {
                    block: *block,
                    generation: GENERATION,
                    step: Step(step),
                    slots: SlotRange { begin: slot, end: slot + 1 },
                    weight: 1.0,
                    payload: Payload::Dense(data),
                    push: None,
                };
                messages.push(framing::contribution(contribution, &mut self.heads));
            }
        }
        messages
    }

    /// All that the server does with them; gives the bytes it sends back.
    fn step(&mut self, reader: &mut MessageReader, messages: Vec<Framed>, step: u64) -> usize {
        for Framed { head, data } in messages {
            reader.push(head);
            reader.push(data);
            let (request, data) = reader.next_message::<v1::StepRequest>().expect("valid").expect("whole");
            let Some(step_request::Message::Contribution(contribution)) = request.message else {
                panic!("not a contribution")
            };
            let contribution = v1::Contribution { data: data.into_contiguous(), ..contribution };
            self.shard.contribute(wire::read_contribution(contribution).expect("valid")).expect("accepted");
        }
        while self.shard.complete() != Some(Step(step)) {
            std::thread::yield_now();
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut sent = 0;
        // The last block is counted before it is queued.
        while sent < self.blocks.len() {
            while let Poll::Ready(message) = Pin::new(&mut self.outgoing).poll_next(&mut context) {
                message.expect("the session is open").expect("well");
                sent += 1;
            }
        }
        sent
    }

    /// Allocations in each step after the warm-up.
    fn run(mut self) -> Vec<usize> {
        let mut reader = MessageReader::default();
        let mut counts = Vec::with_capacity(STEPS as usize);
        for step in 0..=STEPS {
            let messages = self.messages(step);
            let before = ALLOCATIONS.load(SeqCst);
            let sent = self.step(&mut reader, messages, step);
            let counted = ALLOCATIONS.load(SeqCst) - before;
            assert_eq!(sent, self.blocks.len());
            if step > WARM_UP_STEPS {
                counts.push(counted);
            }
        }
        counts
    }
}

#[test]
fn a_step_allocates_nothing() {
    let before = ALLOCATIONS.load(SeqCst);
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert!(ALLOCATIONS.load(SeqCst) > before, "the count counts");
    let adamw =
        "[optimizer]\nalgorithm = \"adam\"\nlr = 0.001\n[optimizer.weight_decay]\nmode = \"decoupled\"\nvalue = 0.1";
    let clipped = "[optimizer]\nalgorithm = \"adam\"\nlr = { kind = \"cosine\", base = 0.1 }\ngradient = [{ op = \"rescale\", by = 0.5 }, { op = \"clip_value\", at = 1.0 }]";
    let momentum = "[optimizer]\nalgorithm = \"sgd\"\nmomentum = 0.9\nlr = 0.001";
    for (optimizer, dtype) in [(adamw, Dtype::F32), (clipped, Dtype::F32), (momentum, Dtype::F32), (adamw, Dtype::Bf16)]
    {
        let counts = Bench::new(optimizer, dtype).run();
        let some: Vec<_> = counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert!(some.is_empty(), "{} of {} steps allocate: {some:?}\n{optimizer}", some.len(), counts.len());
    }
}
