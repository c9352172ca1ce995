//! A real etcd, alone on ports of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::needed::program;
use crate::port::free_port;

/// Longest that it may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// An etcd that ends with the test.
#[derive(Debug)]
pub struct EtcdProcess {
    child: Child,
    data: TempDir,
    client_port: u16,
    peer_port: u16,
}

impl EtcdProcess {
    /// Starts one and waits until it listens; `None` where there is none to start.
    #[must_use]
    pub fn start() -> Option<EtcdProcess> {
        program("etcd", "election, by a real etcd 3.4 or newer (Debian: etcd-server)")?;
        let data = TempDir::new().expect("a directory");
        let (client_port, peer_port) = (free_port(), free_port());
        let child = launch(data.path(), client_port, peer_port);
        let etcd = EtcdProcess { child, data, client_port, peer_port };
        etcd.await_listening();
        Some(etcd)
    }

    /// Its URL, which stays the same.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.client_port).into()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Starts it again after a kill, with the data that it had, or with none.
    pub fn start_again(&mut self, keeps_data: bool) {
        if !keeps_data {
            self.data = TempDir::new().expect("a directory");
        }
        self.child = launch(self.data.path(), self.client_port, self.peer_port);
        self.await_listening();
    }

    /// Sends it a signal by name, such as STOP.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().expect("kill runs").success());
    }

    fn await_listening(&self) {
        let begun = Instant::now();
        while std::net::TcpStream::connect(self.address()).is_err() {
            assert!(begun.elapsed() < START_DEADLINE, "etcd does not listen at {}", self.url());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        // The test may have ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(data: &Path, client_port: u16, peer_port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(data);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
    // An etcd of this machine may have settings of its own in the environment.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("etcd starts")
}
