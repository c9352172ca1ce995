//! What waits to be sent to one worker: weights by reference, and a few replies.
//!
//! Bounded by construction (DESIGN.md rule 9): of each block at most the version a joiner starts
//! from and one newer version are queued; a newer one takes the place of the one before. Replies and
//! marks are bounded in number; a peer that asks for more than it reads is cut off. So is one that reads nothing at all, since
//! what a joiner starts from is kept for it alone. An outbox that is closed holds no weights.

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
use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::Status;

use crate::block::Version;
use crate::telemetry::{Meter, SendSpans};

/// Replies that may wait for a peer to read them.
const REPLIES_MAX: usize = 4096;

/// [`Outbox::look_after`] in a row, one a second, that may find a peer reading nothing of what waits. Who does not know leases has
/// to be patient: it is about hung peers, and one that is only slow takes a message now and then.
const LOOKS_MAX: u32 = 60;

/// The queue of one session. Shared by whoever has something to send; read by one [`Outgoing`].
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    closing: Notify,
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
    /// Looks since something was taken out while something waits.
    looks: u32,
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
        let Some(mut state) = self.open() else { return };
        state.baseline.push_back((block, version));
        state.wake();
    }

    /// Queues new weights of a block in the place of older ones that are still waiting.
    pub fn send_weights(&self, block: BlockId, version: &Version) {
        let Some(mut state) = self.open() else { return };
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
        let Some(mut state) = self.open() else { return };
        if state.marks >= REPLIES_MAX {
            drop(state);
            return self.close(Some(unread("marks")));
        }
        state.marks += 1;
        state.order.push_back(Queued::Mark(number));
        state.wake();
    }

    /// Queues a reply; ends the session when too many wait.
    pub fn reply(&self, message: Message) {
        let Some(mut state) = self.open() else { return };
        if state.replies.len() >= REPLIES_MAX {
            drop(state);
            return self.close(Some(unread("replies")));
        }
        state.replies.push_back(message);
        state.wake();
    }

    /// Ends the session: cleanly behind all that waits, or with a status behind the replies that wait. Then weights are let go
    /// of at once: a peer that does not read would keep them, however long the job goes on.
    pub fn close(&self, status: Option<Status>) {
        let Some(mut state) = self.open() else { return };
        if status.is_some() {
            // With what they had room for.
            (state.baseline, state.order, state.newest) = Default::default();
            state.marks = 0;
        }
        state.end = Some(status);
        state.wake();
        drop(state);
        self.closing.notify_waiters();
    }

    /// Whether the session is at its end, so that nothing more should be read from the peer.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Waits until the session is at its end.
    pub async fn closed(&self) {
        let closing = self.closing.notified();
        // It may have been before; what comes after the listening is heard.
        if !self.is_closed() {
            closing.await;
        }
    }

    /// Ends the session when its peer has not read anything for 60 looks. It is looked at once a second, and counted
    /// rather than timed: a server that stood still itself blames nobody.
    pub fn look_after(&self) {
        let Some(mut state) = self.open() else { return };
        if state.replies.is_empty() && state.baseline.is_empty() && state.order.is_empty() {
            return;
        }
        state.looks += 1;
        if state.looks > LOOKS_MAX {
            drop(state);
            // Without a refusal: a peer that stood still may open another.
            self.close(Some(Status::unavailable(format!("nothing was read for {LOOKS_MAX} s"))));
        }
    }

    /// What waits: messages, and the bytes of weights among them.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        let messages = state.replies.len() + state.baseline.len() + state.order.len();
        let weights = state.baseline.iter().map(|(_, version)| version).chain(state.newest.values());
        (messages, weights.map(|version| version.to_send().1.len()).sum())
    }

    /// The state of a session that is not at its end.
    fn open(&self) -> Option<MutexGuard<'_, State>> {
        Some(self.lock()).filter(|state| state.end.is_none())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Queue operations do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unread(what: &str) -> Status {
    Refusal::new(RefusalCause::OutOfMemory, format!("{REPLIES_MAX} {what} wait to be read")).into()
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What goes out next; of weights, with their step.
    fn next(&mut self, generation: Generation, heads: &mut Heads) -> Option<(Framed, Option<Step>)> {
        self.looks = 0;
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
    fn a_closed_outbox_lets_go_of_all_weights_and_takes_no_more() {
        let outbox = Arc::new(Outbox::default());
        outbox.send_baseline(block(0), version(1));
        outbox.send_weights(block(0), &version(2));
        outbox.mark(1);
        outbox.reply(Message::Refusal(v1::Refusal::default()));
        let mut closed = std::pin::pin!(outbox.closed());
        let mut context = Context::from_waker(Waker::noop());
        assert!(closed.as_mut().poll(&mut context).is_pending());
        outbox.close(Some(Status::unavailable("the test")));
        outbox.send_baseline(block(1), version(2));
        outbox.send_weights(block(1), &version(3));
        outbox.mark(2);
        assert_eq!(outbox.waiting(), (1, 0), "why is still told");
        assert!(closed.poll(&mut context).is_ready() && std::pin::pin!(outbox.closed()).poll(&mut context).is_ready());
        let mut outgoing = Outgoing::new(outbox.clone(), Generation(1), ());
        let mut next = || Pin::new(&mut outgoing).poll_next(&mut context);
        assert!(matches!(next(), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(next(), Poll::Ready(Some(Err(status))) if status.message() == "the test"));
        assert!(matches!(next(), Poll::Ready(None)));
    }

    #[test]
    fn what_waits_at_a_clean_end_is_still_sent() {
        let outbox = Arc::new(Outbox::default());
        outbox.send_weights(block(0), &version(2));
        outbox.close(None);
        outbox.send_weights(block(1), &version(2));
        let mut outgoing = Outgoing::new(outbox.clone(), Generation(1), ());
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(Pin::new(&mut outgoing).poll_next(&mut context), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(Pin::new(&mut outgoing).poll_next(&mut context), Poll::Ready(None)));
    }

    #[test]
    fn a_peer_that_reads_nothing_is_cut_off_and_one_that_is_slow_is_not() {
        let outbox = Outbox::default();
        let look = |times| (0..times).for_each(|_| outbox.look_after());
        look(1000);
        assert!(!outbox.is_closed(), "nothing waits");
        (0..3).for_each(|index| outbox.send_baseline(block(index), version(1)));
        for _ in 0..2 {
            look(LOOKS_MAX);
            outbox.send_weights(block(0), &version(2));
            assert!(outbox.lock().next(Generation(1), &mut Heads::default()).is_some());
        }
        look(LOOKS_MAX);
        assert!(!outbox.is_closed());
        look(1);
        assert!(outbox.is_closed());
        assert_eq!(outbox.waiting(), (0, 0));
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
