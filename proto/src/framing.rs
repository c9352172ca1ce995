//! gRPC messages with tensor data, written and read without copying the data. No I/O.
//!
//! A message on a gRPC stream is five bytes (whether it is compressed, its length) and its
//! protobuf encoding. Tensor data is by far most of it, so it is written as it lies in memory
//! behind a head of a few dozen bytes ([`contribution`], [`weights`]), and read as the pieces in
//! which the connection brought it ([`MessageReader`]). Everything else of a message is prost's
//! business: any client that knows the `.proto` reads and writes the same messages, in any order
//! of fields.

mod body;
mod heads;
mod tensor_data;

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use thiserror::Error;
use tonic::Status;

pub use body::{IncomingMessages, OutgoingMessages, content_type_is_grpc};
pub use heads::Heads;
pub use tensor_data::TensorData;

use crate::contribution::{BlockWeights, Contribution};
use crate::refusal::{Refusal, RefusalCause};
use crate::{MESSAGE_BYTES_MAX, v1};

/// Bytes before every message.
const PREFIX_BYTES: usize = 5;
/// Data up to this size is copied behind its head: one small write beats two.
const COPIED_BYTES_MAX: usize = 4096;

/// Field numbers in `data.proto` and `model.proto`; a test holds them against the generated code.
mod field {
    pub(super) const REQUEST_CONTRIBUTION: u32 = 2;
    pub(super) const RESPONSE_WEIGHTS: u32 = 2;
    pub(super) const CONTRIBUTION_DATA: u32 = 8;
    pub(super) const WEIGHTS_DATA: u32 = 5;
}

/// A message as it goes out: a head, and tensor data behind it that was not copied (or none).
#[derive(Clone, Debug, PartialEq)]
pub struct Framed {
    /// Goes out first. Never empty.
    pub head: Bytes,
    /// Goes out next.
    pub data: Bytes,
}

impl Framed {
    /// Its bytes.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.head.len() + self.data.len()
    }
}

/// A message without tensor data worth the care.
#[must_use]
pub fn message(message: &impl Message) -> Framed {
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    put_prefix(&mut head, message.encoded_len());
    message.encode_raw(&mut head);
    Framed { head: head.freeze(), data: Bytes::new() }
}

/// A `StepRequest` that holds `contribution`.
#[must_use]
pub fn contribution(contribution: Contribution, heads: &mut Heads) -> Framed {
    let mut wire = v1::Contribution::from(contribution);
    let data = std::mem::take(&mut wire.data);
    with_data(field::REQUEST_CONTRIBUTION, &wire, field::CONTRIBUTION_DATA, data, heads)
}

/// A `StepResponse` that holds `weights`.
#[must_use]
pub fn weights(weights: BlockWeights, heads: &mut Heads) -> Framed {
    let mut wire = v1::WeightBlock::from(weights);
    let data = std::mem::take(&mut wire.data);
    with_data(field::RESPONSE_WEIGHTS, &wire, field::WEIGHTS_DATA, data, heads)
}

/// A message whose only field `outer` is `inner`, with `data` as its last field.
fn with_data(outer: u32, inner: &impl Message, data_field: u32, data: Bytes, heads: &mut Heads) -> Framed {
    let data_head = match data.len() {
        0 => 0, // protobuf's empty: left out
        len => key_len(data_field) + encoded_len_varint(len as u64),
    };
    let inner_len = inner.encoded_len() + data_head + data.len();
    let len = key_len(outer) + encoded_len_varint(inner_len as u64) + inner_len;
    let copied = data.len() <= COPIED_BYTES_MAX;
    let head = heads.write(PREFIX_BYTES + if copied { len } else { len - data.len() }, |head| {
        put_prefix(head, len);
        encode_key(outer, WireType::LengthDelimited, head);
        encode_varint(inner_len as u64, head);
        inner.encode_raw(head);
        if data_head > 0 {
            encode_key(data_field, WireType::LengthDelimited, head);
            encode_varint(data.len() as u64, head);
        }
        if copied {
            head.put_slice(&data);
        }
    });
    Framed { head, data: if copied { Bytes::new() } else { data } }
}

fn put_prefix(head: &mut BytesMut, len: usize) {
    head.put_u8(0);
    // Blocks are at most 4 MiB and control messages far smaller.
    head.put_u32(u32::try_from(len).expect("a message is below 4 GiB"));
}

/// What is wrong with what a peer sent.
#[derive(Debug, Error)]
pub enum FramingError {
    /// The message is compressed, which nobody negotiated.
    #[error("expected an uncompressed message, got compression flag {0}")]
    Compressed(u8),
    /// The message is larger than any that the contract knows.
    #[error("expected a message of at most {MESSAGE_BYTES_MAX} bytes, got {0}")]
    TooLarge(usize),
    /// The message is not the protobuf it should be.
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The stream ended inside a message.
    #[error("the stream ended {0} bytes into a message")]
    Truncated(usize),
}

impl From<FramingError> for Status {
    fn from(error: FramingError) -> Status {
        let cause = match error {
            FramingError::TooLarge(_) => RefusalCause::TooLarge,
            FramingError::Compressed(_) | FramingError::Malformed(_) | FramingError::Truncated(_) => {
                RefusalCause::Malformed
            }
        };
        Refusal::new(cause, error.to_string()).into()
    }
}

/// Cuts what a connection brings into messages.
#[derive(Debug, Default)]
pub struct MessageReader {
    pieces: VecDeque<Bytes>,
    buffered: usize,
    /// Length of the message whose prefix was read.
    expected: Option<usize>,
}

impl MessageReader {
    /// Takes in what came next.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.buffered += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The next message and its tensor data, which is empty in the message itself; `None` until
    /// all of it was pushed.
    ///
    /// # Errors
    /// [`FramingError`]; the stream is of no use afterwards.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<(M, TensorData)>, FramingError> {
        let len = match self.expected {
            Some(len) => len,
            None => {
                let Some(len) = self.read_prefix()? else { return Ok(None) };
                *self.expected.insert(len)
            }
        };
        if self.buffered < len {
            return Ok(None);
        }
        self.expected = None;
        let mut data = TensorData::default();
        let decoded = M::decode(&mut Taken { reader: self, remaining: len, data: &mut data })?;
        Ok(Some((decoded, data)))
    }

    /// That the stream may end here.
    ///
    /// # Errors
    /// [`FramingError::Truncated`] inside a message.
    pub fn check_end(&self) -> Result<(), FramingError> {
        match (self.expected, self.buffered) {
            (None, 0) => Ok(()),
            (None, bytes) => Err(FramingError::Truncated(bytes)),
            (Some(_), bytes) => Err(FramingError::Truncated(PREFIX_BYTES + bytes)),
        }
    }

    fn read_prefix(&mut self) -> Result<Option<usize>, FramingError> {
        if self.buffered < PREFIX_BYTES {
            return Ok(None);
        }
        let mut no_data = TensorData::default();
        let mut prefix = Taken { reader: self, remaining: PREFIX_BYTES, data: &mut no_data };
        let (flag, len) = (prefix.get_u8(), prefix.get_u32() as usize);
        match flag {
            0 if len <= MESSAGE_BYTES_MAX => Ok(Some(len)),
            0 => Err(FramingError::TooLarge(len)),
            flag => Err(FramingError::Compressed(flag)),
        }
    }
}

/// The next `remaining` bytes of a reader, as prost reads them. A `bytes` field, which prost takes
/// by [`Buf::copy_to_bytes`] and nothing else by it, is put aside in its pieces: only tensor data
/// is of that type, and as for every field, the last one counts.
struct Taken<'a> {
    reader: &'a mut MessageReader,
    remaining: usize,
    data: &'a mut TensorData,
}

impl Taken<'_> {
    /// Takes up to `len` bytes that lie together.
    fn take_piece(&mut self, len: usize) -> Bytes {
        let Some(front) = self.reader.pieces.front_mut() else { return Bytes::new() };
        let piece = front.split_to(len.min(front.len()));
        if front.is_empty() {
            self.reader.pieces.pop_front();
        }
        self.reader.buffered -= piece.len();
        self.remaining -= piece.len();
        piece
    }
}

impl Buf for Taken<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        let front = self.reader.pieces.front().map_or(&[][..], |piece| piece);
        &front[..front.len().min(self.remaining)]
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "advanced by {count} of {} bytes", self.remaining);
        while count > 0 {
            count -= self.take_piece(count).len();
        }
    }

    fn copy_to_bytes(&mut self, mut len: usize) -> Bytes {
        assert!(len <= self.remaining, "took {len} of {} bytes", self.remaining);
        self.data.clear();
        while len > 0 {
            let piece = self.take_piece(len);
            len -= piece.len();
            self.data.push(piece);
        }
        Bytes::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::BlockId;
    use crate::contribution::{Payload, Push};
    use crate::ids::{Generation, Step, TensorIndex, Ticket};
    use crate::slots::SlotRange;
    use crate::tensor_codec::{Dtype, Encoded};
    use crate::v1::{step_request, step_response};
    use proptest::prelude::*;

    fn block() -> BlockId {
        BlockId { tensor: TensorIndex(7), index: 300 }
    }

    fn some_contribution(data: Vec<u8>) -> Contribution {
        Contribution {
            block: block(),
            generation: Generation(3),
            step: Step(1 << 40),
            slots: SlotRange { begin: 2, end: 4 },
            weight: 2.0,
            payload: Payload::Dense(Encoded::f32(data)),
            push: Some(Push { ticket: Ticket(1 << 41), sequence: 300 }),
        }
    }

    fn some_weights(data: Vec<u8>) -> BlockWeights {
        let data = TensorData::from(Bytes::from(data));
        let (block, generation, dtype) = (block(), Generation(3), Dtype::Bf16);
        BlockWeights { block, generation, step: Step(9), dtype, data, lr: 0.1, decay: 1e-4 }
    }

    fn bytes(framed: &Framed) -> Vec<u8> {
        [&framed.head[..], &framed.data].concat()
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_prost_reads(data in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let sent = some_contribution(data.clone());
            let framed = bytes(&contribution(sent.clone(), &mut Heads::default()));
            prop_assert_eq!(&framed[..5], &[&[0][..], &(framed.len() as u32 - 5).to_be_bytes()].concat());
            let read = v1::StepRequest::decode(&framed[5..]).unwrap();
            let message = Some(step_request::Message::Contribution(sent.into()));
            prop_assert_eq!(read, v1::StepRequest { message, from_step: None });

            let sent = some_weights(data);
            let read = v1::StepResponse::decode(&bytes(&weights(sent.clone(), &mut Heads::default()))[5..]).unwrap();
            let message = Some(step_response::Message::Weights(sent.into()));
            prop_assert_eq!(read, v1::StepResponse { message });
        }

        /// Any cut of the stream into pieces gives the same messages.
        #[test]
        fn what_prost_writes_is_read_from_any_pieces(
            sizes in proptest::collection::vec(0usize..9000, 1..5),
            cuts in proptest::collection::vec(1usize..5000, 1..40),
        ) {
            let messages: Vec<v1::StepRequest> = sizes
                .iter()
                .map(|size| {
                    let data = (0..*size).map(|i| i as u8).collect();
                    let message = Some(step_request::Message::Contribution(some_contribution(data).into()));
                    v1::StepRequest { message, from_step: Some(5) }
                })
                .collect();
            let stream: Vec<u8> = messages.iter().flat_map(|one| bytes(&message(one))).collect();
            let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
            let (mut reader, mut read) = (MessageReader::default(), Vec::new());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = after;
                reader.push(Bytes::copy_from_slice(piece));
                while let Some((mut one, data)) = reader.next_message::<v1::StepRequest>().unwrap() {
                    if let Some(step_request::Message::Contribution(contribution)) = &mut one.message {
                        prop_assert!(contribution.data.is_empty());
                        contribution.data = data.into_contiguous();
                    }
                    read.push(one);
                }
            }
            reader.check_end().unwrap();
            prop_assert_eq!(read, messages);
        }

        /// No bytes from the network panic or are held without bound.
        #[test]
        fn nonsense_is_an_error_and_never_a_panic(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        ) {
            let mut reader = MessageReader::default();
            for piece in pieces {
                // A plausible prefix now and then, so that the rest is reached.
                reader.push(Bytes::from([&[0, 0, 0, 0, piece.len() as u8][..], &piece].concat()));
                if reader.next_message::<v1::StepRequest>().is_err() {
                    break;
                }
            }
        }

        /// A valid message with bytes changed: an error or another message, never a panic.
        #[test]
        fn damage_is_never_a_panic(at in 5usize..60, value in any::<u8>(), cut in 1usize..60) {
            let mut damaged = bytes(&contribution(some_contribution(vec![1; 5000]), &mut Heads::default()));
            damaged[at] = value;
            let mut reader = MessageReader::default();
            let damaged = Bytes::from(damaged);
            reader.push(damaged.slice(..cut));
            reader.push(damaged.slice(cut..));
            let _ = reader.next_message::<v1::StepRequest>();
        }
    }

    #[test]
    fn a_mark_stands_between_messages_with_data() {
        let mark = |number| v1::StepRequest {
            message: Some(step_request::Message::Mark(v1::Mark { number })),
            from_step: None,
        };
        let mut reader = MessageReader::default();
        for framed in [
            message(&mark(7)),
            contribution(some_contribution(vec![1; 5000]), &mut Heads::default()),
            message(&mark(8)),
        ] {
            reader.push(framed.head);
            reader.push(framed.data);
        }
        let mut next = || reader.next_message::<v1::StepRequest>().unwrap().unwrap();
        assert_eq!(next(), (mark(7), TensorData::default()));
        assert_eq!(next().1.len(), 5000);
        assert_eq!(next(), (mark(8), TensorData::default()));
    }

    #[test]
    fn large_data_is_not_copied_either_way() {
        let data = Bytes::from(vec![5_u8; 1 << 20]);
        let sent =
            Contribution { payload: Payload::Dense(Encoded::f32(data.clone())), ..some_contribution(Vec::new()) };
        let framed = contribution(sent, &mut Heads::default());
        assert_eq!(framed.data.as_ptr(), data.as_ptr());
        let mut reader = MessageReader::default();
        reader.push(framed.head);
        reader.push(framed.data);
        let (_, read) = reader.next_message::<v1::StepRequest>().unwrap().unwrap();
        assert_eq!(read.into_contiguous().as_ptr(), data.as_ptr());
    }

    #[test]
    fn what_is_not_a_message_is_refused_by_what_is_wrong() {
        let error = |stream: &[u8]| {
            let mut reader = MessageReader::default();
            reader.push(Bytes::copy_from_slice(stream));
            reader.next_message::<v1::StepRequest>().unwrap_err().to_string()
        };
        assert!(error(&[1, 0, 0, 0, 0]).contains("compression flag 1"));
        assert!(error(&[0, 255, 0, 0, 0]).contains("got 4278190080"));
        assert!(error(&[0, 0, 0, 0, 1, 0x0a]).contains("malformed"));
        let mut reader = MessageReader::default();
        reader.push(Bytes::from_static(&[0, 0, 0, 0, 9, 1]));
        assert!(reader.next_message::<v1::StepRequest>().unwrap().is_none());
        assert!(matches!(reader.check_end(), Err(FramingError::Truncated(6))));
        let status = Status::from(FramingError::TooLarge(9));
        assert_eq!(Refusal::from_status(&status).unwrap().cause, RefusalCause::TooLarge);
    }
}
