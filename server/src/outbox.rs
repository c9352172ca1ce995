//! What waits to be sent to one worker: weights by reference, and a few replies.
//!
//! Bounded by construction (DESIGN.md rule 9): of each block at most the version a joiner starts
//! from and one newer version are queued; a newer one takes the place of the one before. Replies and
//! marks are bounded in number; a peer that asks for more than it reads is cut off.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use halflife_proto::blocks::BlockId;
use halflife_proto::contribution::BlockWeights;
use halflife_proto::framing::{self, Framed, Heads};
use halflife_proto::ids::{Generation, Step};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1::{self, step_response::Message};
use tokio_stream::Stream;
use tonic::Status;

use crate::block::Version;
use crate::telemetry::{Meter, SendSpans};

/// Replies that may wait for a peer to read them.
const REPLIES_MAX: usize = 4096;

/// The queue of one session. Shared by whoever has something to send; read by one [`Outgoing`].
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Message>,
    /// Versions a joiner starts from; sent before anything newer.
    baseline: VecDeque<(BlockId, Version)>,
    /// What is sent after the baseline, in this order.
    order: VecDeque<Queued>,
    newest: HashMap<BlockId, Version>,
    /// How many of the queued are marks.
    marks: usize,
    end: Option<Option<Status>>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum Queued {
    /// The newest version of a block.
    Weights(BlockId),
    /// A mark on its way back.
    Mark(u64),
}

impl Outbox {
    /// Queues the version a joiner starts from.
    pub fn send_baseline(&self, block: BlockId, version: Version) {
        let mut state = self.lock();
        state.baseline.push_back((block, version));
        state.wake();
    }

    /// Queues new weights of a block in the place of older ones that are still waiting.
    pub fn send_weights(&self, block: BlockId, version: &Version) {
        let mut state = self.lock();
        match state.newest.get_mut(&block) {
            Some(waiting) if waiting.step >= version.step => {}
            Some(waiting) => waiting.clone_from(version),
            None => {
                state.newest.insert(block, version.clone());
                state.order.push_back(Queued::Weights(block));
            }
        }
        state.wake();
    }

    /// Sends a mark back behind the weights that wait now; ends the session when too many wait.
    pub fn mark(&self, number: u64) {
        let mut state = self.lock();
        if state.marks >= REPLIES_MAX {
            let message = format!("{REPLIES_MAX} marks wait to be read");
            state.end.get_or_insert(Some(Refusal::new(RefusalCause::OutOfMemory, message).into()));
        } else {
            state.marks += 1;
            state.order.push_back(Queued::Mark(number));
        }
        state.wake();
    }

    /// Queues a reply; ends the session when too many wait.
    pub fn reply(&self, message: Message) {
        let mut state = self.lock();
        if state.replies.len() >= REPLIES_MAX {
            let message = format!("{REPLIES_MAX} replies wait to be read");
            state.end.get_or_insert(Some(Refusal::new(RefusalCause::OutOfMemory, message).into()));
        } else {
            state.replies.push_back(message);
        }
        state.wake();
    }

    /// Ends the session after what is queued: with a status, or cleanly.
    pub fn close(&self, status: Option<Status>) {
        let mut state = self.lock();
        state.end.get_or_insert(status);
        state.wake();
    }

    /// Whether the session is at its end, so that nothing more should be read from the peer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().end.is_some()
    }

    /// What waits: messages, and the bytes of weights among them.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        let messages = state.replies.len() + state.baseline.len() + state.order.len();
        let weights = state.baseline.iter().map(|(_, version)| version).chain(state.newest.values());
        (messages, weights.map(|version| version.to_send().1.len()).sum())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Queue operations do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What goes out next; of weights, with their step.
    fn next(&mut self, generation: Generation, heads: &mut Heads) -> Option<(Framed, Option<Step>)> {
        if let Some(reply) = self.replies.pop_front() {
            return Some((framing::message(&v1::StepResponse { message: Some(reply) }), None));
        }
        let (block, version) = match self.baseline.pop_front() {
            Some(first) => first,
            None => match self.order.pop_front()? {
                Queued::Weights(block) => (block, self.newest.remove(&block)?),
                Queued::Mark(number) => {
                    self.marks -= 1;
                    let message = Some(Message::Mark(v1::Mark { number }));
                    return Some((framing::message(&v1::StepResponse { message }), None));
                }
            },
        };
        let (step, lr, decay) = (version.step, version.lr, version.decay);
        let (dtype, data) = version.to_send();
        let weights = BlockWeights { block, generation, step, dtype, data: data.into(), lr, decay };
        Some((framing::weights(weights, heads), Some(step)))
    }
}

/// The stream that empties an [`Outbox`] into the connection.
pub struct Outgoing {
    outbox: Arc<Outbox>,
    generation: Generation,
    heads: Heads,
    meter: Option<Arc<Meter>>,
    spans: Option<SendSpans>,
    /// Runs when the connection lets go of the stream.
    _on_drop: Box<dyn Send>,
}

impl Outgoing {
    /// Empties `outbox`; `on_drop` is dropped together with the stream.
    pub fn new(outbox: Arc<Outbox>, generation: Generation, on_drop: impl Send + 'static) -> Outgoing {
        Outgoing { outbox, generation, heads: Heads::default(), meter: None, spans: None, _on_drop: Box::new(on_drop) }
    }

    /// Counts what goes out in `meter`.
    #[must_use]
    pub fn counted_in(self, meter: Arc<Meter>) -> Outgoing {
        Outgoing { meter: Some(meter), ..self }
    }

    /// Records in `spans` when weights go out.
    #[must_use]
    pub(crate) fn traced_by(self, spans: Option<SendSpans>) -> Outgoing {
        Outgoing { spans, ..self }
    }
}

impl Stream for Outgoing {
    type Item = Result<Framed, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Outgoing { outbox, generation, heads, meter, spans, .. } = self.get_mut();
        let mut state = outbox.lock();
        if let Some((message, step)) = state.next(*generation, heads) {
            if let (Some(spans), Some(step)) = (spans, step) {
                spans.sent(step, message.byte_count() as u64);
            }
            if let Some(meter) = meter {
                meter.sent(message.byte_count() as u64);
            }
            return Poll::Ready(Some(Ok(message)));
        }
        match &mut state.end {
            Some(status) => Poll::Ready(status.take().map(Err)),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::WeightsBuffer;
    use halflife_proto::framing::MessageReader;
    use halflife_proto::ids::TensorIndex;
    use halflife_proto::tensor_codec::Dtype;

    fn block(index: u32) -> BlockId {
        BlockId { tensor: TensorIndex(0), index }
    }

    fn version(step: u64) -> Version {
        let mut values = WeightsBuffer::new(1, Dtype::F32);
        values.write(0..1, |values| values[0] = step as f32);
        Version::new(Step(step), 0.0, 0.0, values)
    }

    fn read(framed: Framed) -> Option<Message> {
        let mut reader = MessageReader::default();
        reader.push(framed.head);
        reader.push(framed.data);
        reader.next_message::<v1::StepResponse>().unwrap().unwrap().0.message
    }

    fn drain(outbox: &Outbox) -> Vec<(u32, u64)> {
        let mut state = outbox.lock();
        let mut heads = Heads::default();
        std::iter::from_fn(|| state.next(Generation(1), &mut heads))
            .map(|(framed, _)| match read(framed) {
                Some(Message::Weights(weights)) => {
                    let id = halflife_proto::wire::read_block_id(weights.block).unwrap();
                    (id.index, weights.step)
                }
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_slow_reader_gets_the_newest_version_once() {
        let outbox = Outbox::default();
        for (index, step) in [(0, 1), (1, 1), (0, 2), (0, 3), (1, 2)] {
            outbox.send_weights(block(index), &version(step));
        }
        outbox.send_weights(block(0), &version(2));
        assert_eq!(drain(&outbox), [(0, 3), (1, 2)]);
    }

    #[test]
    fn a_joiner_gets_its_baseline_before_anything_newer() {
        let outbox = Outbox::default();
        outbox.send_weights(block(0), &version(2));
        outbox.send_baseline(block(0), version(1));
        outbox.send_baseline(block(1), version(1));
        assert_eq!(drain(&outbox), [(0, 1), (1, 1), (0, 2)]);
    }

    #[test]
    fn a_mark_comes_back_behind_what_waited_when_it_came() {
        let outbox = Outbox::default();
        outbox.send_weights(block(1), &version(1));
        outbox.send_baseline(block(0), version(0));
        outbox.mark(7);
        outbox.send_weights(block(0), &version(2));
        outbox.send_weights(block(1), &version(3));
        let (mut state, mut heads) = (outbox.lock(), Heads::default());
        let told: Vec<_> = std::iter::from_fn(|| state.next(Generation(1), &mut heads))
            .map(|(framed, _)| match read(framed) {
                Some(Message::Weights(weights)) => format!("step {}", weights.step),
                Some(Message::Mark(mark)) => format!("mark {}", mark.number),
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        assert_eq!(told, ["step 0", "step 3", "mark 7", "step 2"]);
    }

    #[test]
    fn what_waits_is_told() {
        let outbox = Outbox::default();
        outbox.send_baseline(block(0), version(1));
        (2..9).for_each(|step| outbox.send_weights(block(0), &version(step)));
        outbox.mark(1);
        assert_eq!(outbox.waiting(), (3, 8));
        let meter = Arc::<Meter>::default();
        let outbox = Arc::new(outbox);
        let mut outgoing = Outgoing::new(outbox.clone(), Generation(1), ()).counted_in(meter.clone());
        let mut sent = 0;
        while let Poll::Ready(Some(Ok(message))) =
            Pin::new(&mut outgoing).poll_next(&mut Context::from_waker(Waker::noop()))
        {
            sent += message.byte_count() as u64;
        }
        assert_eq!((outbox.waiting(), meter.sent_bytes()), ((0, 0), sent));
    }

    #[test]
    fn marks_that_nobody_reads_are_bounded() {
        let outbox = Outbox::default();
        (0..=REPLIES_MAX as u64).for_each(|number| outbox.mark(number));
        assert!(outbox.is_closed());
    }

    #[test]
    fn a_peer_that_never_reads_its_replies_is_cut_off() {
        let outbox = Outbox::default();
        for _ in 0..=REPLIES_MAX {
            outbox.reply(Message::Refusal(v1::Refusal::default()));
        }
        assert!(outbox.is_closed());
    }
}
