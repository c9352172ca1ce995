//! The real binaries as real processes.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::output::Output;

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

/// A process of ours that ends with the test. When that has failed it tells what the process said.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stdout: Output,
    stderr: Output,
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
        let stdout = Output::of(child.stdout.take().expect("piped"));
        let stderr = Output::of(child.stderr.take().expect("piped"));
        Process { child, name: name.to_owned(), stdout, stderr }
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
        let found = self.stderr.wait_for_line(text, Instant::now() + DEADLINE);
        found.unwrap_or_else(|| panic!("{} never said {text:?}", self.name))
    }

    /// The same of standard output.
    pub fn wait_for_output(&mut self, text: &str) -> String {
        let found = self.stdout.wait_for_line(text, Instant::now() + DEADLINE);
        found.unwrap_or_else(|| panic!("{} never printed {text:?}", self.name))
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

    /// Whether it holds SIGTERM back or has a handler for it.
    pub fn minds_sigterm(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let masks = status.lines().filter_map(|line| {
            let mask = line.strip_prefix("SigBlk:").or_else(|| line.strip_prefix("SigCgt:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        });
        const SIGTERM: u32 = 15;
        masks.into_iter().any(|mask| mask >> (SIGTERM - 1) & 1 == 1)
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                break status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        };
        Finished { status, stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Process {
    #[allow(clippy::print_stdout, reason = "the test harness shows it with the failure")]
    fn drop(&mut self) {
        // Ends a process that the test did not; it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{} ({}) said:\n{}{}", self.name, self.child.id(), self.stdout.text(), self.stderr.text());
        }
    }
}
