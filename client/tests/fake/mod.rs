//! A job that lives in the test: two real gRPC servers on loopback over one plain state, with none
//! of the server crate's code. It applies `w -= mean gradient` (buffers: `w = mean`), which is exact
//! for the small integers the tests use, and misbehaves on demand.

mod control;
mod data;
mod state;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use halflife_client::{ClientOptions, Lead, Member};
use halflife_proto::manifest::{Manifest, Role, Tensor};
use halflife_proto::refusal::{Refusal, RefusalCause};
use halflife_proto::v1;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

pub use state::{Fault, GENERATION, State};

pub const SERVERS: u32 = 2;
pub const SLOTS: u32 = 4;

/// Frozen `f`, trainable `w` and `c`, `t` tied to `w`, buffer `b`: arenas of 11 elements.
pub fn manifest() -> Manifest {
    let with_role = |name: &str, dim, role| Tensor { role, ..Tensor::trainable(name, &[dim]) };
    Manifest::new(vec![
        with_role("f", 2, Role::Frozen),
        Tensor::trainable("w", &[5]),
        with_role("t", 5, Role::Tied("w".to_owned())),
        with_role("b", 1, Role::Buffer),
        Tensor::trainable("c", &[3]),
    ])
    .unwrap()
}

/// A running fake job. Its servers end with it.
pub struct FakeJob {
    state: Arc<Mutex<State>>,
    urls: Vec<String>,
    servers: Vec<JoinHandle<()>>,
}

impl FakeJob {
    /// Starts a job of this many steps whose first assignment is `nodes`, from step 1 on.
    pub async fn start(steps: u64, nodes: &[(u32, u32)]) -> FakeJob {
        let mut listeners = Vec::new();
        let mut urls = Vec::new();
        for _ in 0..SERVERS {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            urls.push(format!("http://{}", listener.local_addr().unwrap()));
            listeners.push(listener);
        }
        let state = Arc::new(Mutex::new(State::new(manifest(), urls.clone(), steps, assignment(1, 1, nodes))));
        let serve = |(index, listener)| tokio::spawn(serve(index as u32, listener, Arc::clone(&state)));
        let servers = listeners.into_iter().enumerate().map(serve).collect();
        FakeJob { state, urls, servers }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn url(&self, server: usize) -> &str {
        &self.urls[server]
    }

    pub async fn connect(&self) -> Lead {
        Lead::connect(self.url(0), options()).await.unwrap()
    }

    pub async fn join(&self) -> Member {
        self.connect().await.join(manifest()).await.unwrap()
    }

    /// Cuts every connection of every server.
    pub fn kill(&mut self) {
        self.servers.drain(..).for_each(|server| server.abort());
        self.state().end_streams();
    }
}

impl Drop for FakeJob {
    fn drop(&mut self) {
        self.servers.drain(..).for_each(|server| server.abort());
    }
}

async fn serve(index: u32, listener: TcpListener, state: Arc<Mutex<State>>) {
    let control = v1::control_server::ControlServer::new(control::FakeControl { state: Arc::clone(&state) });
    let data = v1::data_server::DataServer::new(data::FakeData { index, state });
    let router = tonic::transport::Server::builder().add_service(control).add_service(data);
    router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
}

pub fn options() -> ClientOptions {
    ClientOptions { give_up_after: Duration::from_secs(5), ..ClientOptions::default() }
}

pub fn assignment(epoch: u64, from_step: u64, nodes: &[(u32, u32)]) -> v1::Assignment {
    let nodes = nodes.iter().map(|(begin, end)| v1::SlotRange { begin: *begin, end: *end }).collect();
    v1::Assignment { epoch, from_step, nodes, initialize: true }
}

pub fn refusal(cause: RefusalCause) -> Refusal {
    Refusal::mismatch(cause, "the test says so", "this", "that")
}
