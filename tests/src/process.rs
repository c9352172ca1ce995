//! The real binaries as real processes.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

/// Longest any process of a test may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The path of one of our binaries, built like this test. `cargo test --workspace` has built them;
/// when a single target is tested and they are missing or older than the sources, they are built
/// here, so that no test ever runs yesterday's program.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("the test has a path");
        let directory = test.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned();
        let oldest = ["halflife-server", "halflife-worker"].iter().map(|name| modified(&directory.join(name))).min();
        if oldest.flatten() < newest_source() {
            build(&directory);
        }
        directory
    });
    directory.join(name)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn newest_source() -> Option<SystemTime> {
    let mut newest = None;
    let mut directories: Vec<PathBuf> = ["proto", "optim", "checkpoint", "discovery", "server", "client", "worker"]
        .iter()
        .map(|name| root().join(name).join("src"))
        .collect();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("sources").flatten() {
            match entry.path() {
                path if path.is_dir() => directories.push(path),
                path => newest = newest.max(modified(&path)),
            }
        }
    }
    newest
}

fn build(directory: &Path) {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["build", "--quiet", "--workspace", "--bins"]);
    // As `cargo test --workspace` builds them.
    command.args(["--features", "halflife-client/fault-points"]);
    if directory.file_name() == Some(OsStr::new("release")) {
        command.arg("--release");
    }
    assert!(command.status().expect("cargo runs").success(), "the binaries do not build");
}

/// A process of ours that ends with the test.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stderr: mpsc::Receiver<String>,
    stderr_seen: String,
}

/// How a process ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Process {
    /// Starts a binary of ours.
    #[must_use]
    pub fn start(name: &str, arguments: &[&str]) -> Process {
        Process::start_with(name, arguments, &[])
    }

    /// Starts a binary of ours with variables in its environment.
    #[must_use]
    pub fn start_with(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut child = Command::new(binary(name))
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("NO_COLOR", "1")
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (sender, stderr) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Process { child, name: name.to_owned(), stderr, stderr_seen: String::new() }
    }

    /// Starts a server on a free port and waits until it listens. Gives its URL.
    #[must_use]
    pub fn server(arguments: &[&str]) -> (Process, String) {
        let mut all = vec!["--listen", "127.0.0.1:0"];
        all.extend(arguments);
        let mut server = Process::start("halflife-server", &all);
        let line = server.wait_for_line("listening");
        let url = line.split("url=").nth(1).expect("the line names the URL");
        let url = url.split_whitespace().next().expect("a URL").trim_matches('"').to_owned();
        (server, url)
    }

    /// Waits for a line of standard error that contains `text`.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stderr.recv_timeout(left) {
                Ok(line) => {
                    self.stderr_seen.push_str(&line);
                    self.stderr_seen.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("{} never said {text:?}; it said:\n{}", self.name, self.stderr_seen),
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name, such as TERM.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(sent.success(), "no signal {name} to {}", self.name);
    }

    /// Where a server started with [`Process::start`] listens, which the URL that it advertises does not tell.
    pub fn listening_at(&mut self) -> SocketAddr {
        let line = self.wait_for_line("listening");
        let at = line.split("at=").nth(1).and_then(|rest| rest.split_whitespace().next());
        at.expect("the line names the address").trim_matches('"').parse().expect("an address")
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_some()
    }

    /// Whether it is suspended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let mut stdout = self.child.stdout.take().expect("piped");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("standard output is text");
            text
        });
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                break status;
            }
            if Instant::now() >= deadline {
                let said = self.drain();
                panic!("{} does not end; it said:\n{said}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = reader.join().expect("the reader does not panic");
        // The pipe is closed by now; its reader thread hands over the rest.
        let mut stderr = std::mem::take(&mut self.stderr_seen);
        while let Ok(line) = self.stderr.recv_timeout(Duration::from_millis(200)) {
            stderr.push_str(&line);
            stderr.push('\n');
        }
        Finished { status, stdout, stderr }
    }

    fn drain(&mut self) -> String {
        while let Ok(line) = self.stderr.try_recv() {
            self.stderr_seen.push_str(&line);
            self.stderr_seen.push('\n');
        }
        self.stderr_seen.clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ends a process that the test did not; it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
