//! The step stream's way in and out: HTTP bodies of framed messages, so that tensor data is not
//! copied. Every other call of the data service goes through tonic's generated code.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use halflife_proto::framing::content_type_is_grpc;
use halflife_proto::trace::{TRACEPARENT, TraceContext};
use halflife_proto::v1::data_server::DataServer;
use halflife_proto::{MESSAGE_BYTES_MAX, STEP_PATH};
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderValue, header};
use tonic::server::NamedService;
use tower_service::Service;

use crate::data_service::DataService;

/// The data service as it is served.
#[derive(Clone, Debug)]
pub struct StepEdge {
    service: DataService,
    generated: DataServer<DataService>,
}

impl StepEdge {
    /// Serves `service`.
    #[must_use]
    pub fn new(service: DataService) -> StepEdge {
        let generated = DataServer::new(service.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        StepEdge { service, generated }
    }
}

impl NamedService for StepEdge {
    const NAME: &'static str = <DataServer<DataService> as NamedService>::NAME;
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for StepEdge {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        if request.uri().path() != STEP_PATH || !content_type_is_grpc(request.headers()) {
            return self.generated.call(request);
        }
        let service = self.service.clone();
        let parent = request.headers().get(TRACEPARENT).and_then(|text| TraceContext::parse(text.to_str().ok()?));
        Box::pin(async move {
            Ok(match service.open_step_stream(request.into_body(), parent).await {
                Ok(body) => {
                    let mut response = http::Response::new(body);
                    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                    response
                }
                Err(status) => status.into_http(),
            })
        })
    }
}
