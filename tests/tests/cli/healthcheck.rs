//! `halflife-server healthcheck`: exit code and one line, whatever answers or does not.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use halflife_tests::port::free_port;
use halflife_tests::process::Process;
use tempfile::TempDir;

use super::{example, fails, server};

/// Where nobody listens.
fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

#[test]
fn a_server_that_serves_is_healthy_over_tcp_and_over_its_unix_socket() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("socket");
    let socket = socket.to_str().expect("a path");
    let (_lead, url) = Process::server(&["--config", &example("digits.toml"), "--unix-socket", socket]);
    let listen = url.strip_prefix("http://").expect("a URL").to_owned();
    let at_socket = format!("unix://{socket}");
    for asked in [["--server", &url], ["--server", &at_socket], ["--listen", &listen]] {
        let finished = server(&[&["healthcheck"], &asked[..]].concat());
        assert!(finished.status.success(), "{asked:?}: {}", finished.stderr);
        assert_eq!(finished.stdout.lines().count(), 1, "{}", finished.stdout);
        assert!(finished.stdout.ends_with(" serves\n"), "{}", finished.stdout);
    }
}

#[test]
fn the_address_of_the_environment_is_asked_by_default() {
    let address = free_address();
    let variables = [("HALFLIFE_LISTEN", format!("0.0.0.0:{}", address.port()))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let finished = Process::start_with("halflife-server", &["healthcheck"], &variables).finish();
    fails(&finished, &[&format!("no server answers at http://{address}: ")]);
    assert_eq!((finished.status.code(), finished.stderr.lines().count()), (Some(1), 1));
}

#[test]
fn a_server_that_still_looks_for_its_lead_is_not_healthy() {
    let address = free_address();
    let listen = address.to_string();
    let _follower = Process::start("halflife-server", &["--listen", &listen, "--lead", "http://127.0.0.1:1"]);
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it never listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    let finished = server(&["healthcheck", "--listen", &listen, "--timeout", "30"]);
    fails(&finished, &[&format!("http://{address} answers, but does not serve: expected SERVING, found NOT_SERVING")]);
}

#[test]
fn silence_ends_with_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        // Reads what is asked and never answers.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let begin = Instant::now();
    let finished = server(&["healthcheck", "--server", &url, "--timeout", "1"]);
    assert!((1..30).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    fails(&finished, &[&format!("expected an answer from {url} within 1 s, got none")]);
}

#[test]
fn what_is_no_url_and_no_time_is_said_so() {
    fails(&server(&["healthcheck", "--server", "nonsense"]), &["--server nonsense", "expected a URL such as"]);
    let finished = server(&["healthcheck", "--timeout", "0"]);
    assert!(finished.stderr.contains("expected 1 to 3600, found 0"), "{}", finished.stderr);
    assert_eq!(finished.status.code(), Some(2));
}
