//! A moto server as a child process: an S3 to test against. Ended, by its handle, with the test.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use halflife_checkpoint::store::S3Store;

use super::free_port;

/// Starting Python on a busy machine takes its time.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Installed once for all tests of this process.
static SERVER: LazyLock<String> = LazyLock::new(|| {
    // Also a part of the whole system's tests.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checkpoint/tests/moto");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto");
    let output = Command::new(script).arg(cache).stderr(Stdio::inherit()).output().expect("tests/moto runs");
    assert!(output.status.success(), "tests/moto failed: Python 3 with venv and pip is needed, and a package index");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
});

/// A running server with one bucket, `bucket`.
pub struct Moto {
    process: Child,
    port: u16,
}

impl Moto {
    pub fn start() -> Moto {
        // Free when asked; should another process take it meanwhile, the server ends and the test fails.
        let port = free_port();
        let mut process = Command::new(&*SERVER)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto starts");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(process.try_wait().unwrap().is_none(), "moto ended before it listened");
            assert!(begun.elapsed() < START_TIMEOUT, "moto did not listen within {START_TIMEOUT:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let moto = Moto { process, port };
        let answer = moto.request("PUT", "/bucket");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        moto
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The variables that lead to it, through `port`.
    pub fn variables(port: u16) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}").as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("PATH", "not of AWS"),
            ("AWS_PAGER", "of AWS and not of ours"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    pub fn store(&self, prefix: &str) -> S3Store {
        S3Store::open("bucket", prefix, Moto::variables(self.port)).unwrap()
    }

    /// Sends a request of its own, unsigned, and returns the whole answer.
    pub fn request(&self, method: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=key/20200101/us-east-1/s3/aws4_request\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
