//! HTTP bodies made of framed messages: the two directions of a gRPC stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use prost::Message;
use tokio_stream::Stream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, header};

use super::{Framed, MessageReader, TensorData};

/// Whether headers announce gRPC with protobuf.
#[must_use]
pub fn content_type_is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    matches!(value, Some(b"application/grpc" | b"application/grpc+proto"))
}

/// The messages of a body, one after the other.
#[derive(Debug)]
pub struct IncomingMessages {
    body: Body,
    reader: MessageReader,
    ended: bool,
    /// Bytes that came and were not asked about yet.
    bytes: u64,
}

impl IncomingMessages {
    /// Reads `body`.
    #[must_use]
    pub fn new(body: Body) -> IncomingMessages {
        IncomingMessages { body, reader: MessageReader::default(), ended: false, bytes: 0 }
    }

    /// Bytes that came since this was last asked: of messages, without HTTP/2's own.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// The next message and its tensor data; `None` when the peer has sent all and says it is well.
    ///
    /// # Errors
    /// The peer's [`Status`], that of a broken connection, or that of a
    /// [`FramingError`](super::FramingError).
    pub async fn message<M: Message + Default>(&mut self) -> Result<Option<(M, TensorData)>, Status> {
        poll_fn(|context| self.poll_message(context)).await
    }

    /// The same for who polls.
    ///
    /// # Errors
    /// As [`IncomingMessages::message`].
    pub fn poll_message<M: Message + Default>(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<(M, TensorData)>, Status>> {
        loop {
            if let Some(message) = self.reader.next_message()? {
                return Poll::Ready(Ok(Some(message)));
            }
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => {
                    self.ended = true;
                    self.reader.check_end()?;
                }
                Some(frame) => self.take_in(frame?)?,
            }
        }
    }

    fn take_in(&mut self, frame: Frame<Bytes>) -> Result<(), Status> {
        match frame.into_data() {
            Ok(data) => {
                self.bytes += data.len() as u64;
                self.reader.push(data);
            }
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                if let Some(status) = trailers.as_ref().and_then(Status::from_header_map)
                    && status.code() != tonic::Code::Ok
                {
                    return Err(status);
                }
            }
        }
        Ok(())
    }
}

/// A body of framed messages.
#[derive(Debug)]
pub struct OutgoingMessages<S> {
    messages: Pin<Box<S>>,
    /// Data of the message whose head is out.
    data: Bytes,
    /// A server ends its stream with a status.
    with_status: bool,
    ended: bool,
}

impl<S: Stream<Item = Result<Framed, Status>> + Send + 'static> OutgoingMessages<S> {
    /// A client's: ends with its last message. An error ends it, too.
    #[must_use]
    pub fn request(messages: S) -> Body {
        Body::new(OutgoingMessages {
            messages: Box::pin(messages),
            data: Bytes::new(),
            with_status: false,
            ended: false,
        })
    }

    /// A server's: ends with the error of the stream, or with OK.
    #[must_use]
    pub fn response(messages: S) -> Body {
        Body::new(OutgoingMessages {
            messages: Box::pin(messages),
            data: Bytes::new(),
            with_status: true,
            ended: false,
        })
    }

    fn end(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.ended = true;
        if !self.with_status {
            return None;
        }
        let mut trailers = HeaderMap::new();
        Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
    }
}

impl<S: Stream<Item = Result<Framed, Status>> + Send + 'static> http_body::Body for OutgoingMessages<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.messages.as_mut().poll_next(context)) {
            Some(Ok(Framed { head, data })) => {
                self.data = data;
                Some(Ok(Frame::data(head)))
            }
            Some(Err(status)) => self.end(&status),
            None => self.end(&Status::ok("")),
        })
    }
}
