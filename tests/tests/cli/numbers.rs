//! Numbers on the command lines of both programs: none of them panics, or starts what no machine has.

use halflife_tests::process::{Finished, Process};

use super::{example, server};

const HUGE: &str = "18446744073709551615";

fn worker(arguments: &[&str]) -> Finished {
    Process::start("halflife-worker", arguments).finish()
}

#[test]
fn a_number_out_of_its_range_is_refused_with_the_range() {
    let digits = example("digits.toml");
    let lead = ["--config", &digits, "--listen", "127.0.0.1:0"];
    let train = ["train", "--server", "http://127.0.0.1:1"];
    let plan = ["plan", "--params", "1G"];
    let refused = |run: fn(&[&str]) -> Finished, before: &[&str], flag: &str, found: &str, expected: &str| {
        let finished = run(&[before, &[flag, found]].concat());
        let said = format!("'{flag} <");
        assert!(finished.stderr.contains(&said), "{flag} {found}: {}", finished.stderr);
        assert!(
            finished.stderr.contains(&format!("expected {expected}, found {found}")),
            "{flag}: {}",
            finished.stderr
        );
        assert_eq!(finished.status.code(), Some(2), "{flag} {found}");
    };
    for (before, flag, expected) in [
        (&lead[..], "--patience", "0 to 31536000"),
        (&lead, "--compute-threads", "0 to 1024"),
        (&lead, "--io-threads", "0 to 1024"),
        (&lead, "--etcd-lease", "2 to 3600"),
        (&["checkpoint", "now"], "--timeout", "0 to 31536000"),
        (&["healthcheck"], "--timeout", "1 to 3600"),
        (&plan, "--workers", "1 to 65536"),
        (&["plan", "--params", "1G", "--workers", "8"], "--servers", "1 to 4096"),
        (&["plan", "--params", "1G", "--workers", "8"], "--cores", "1 to 65536"),
    ] {
        refused(server, before, flag, HUGE, expected);
    }
    refused(server, &plan, "--workers", "0", "1 to 65536");
    refused(server, &["--config", &digits, "--otlp", "http://c:1"], "--trace-sample", "0", "at least 1");
    for (before, flag, expected) in [
        (&train[..], "--patience", "0 to 31536000"),
        (&train, "--io-threads", "0 to 1024"),
        (&["local"], "--workers", "1 to 1024"),
        (&["bench"], "--patience", "0 to 31536000"),
        (&["bench"], "--io-threads", "0 to 1024"),
    ] {
        refused(worker, before, flag, HUGE, expected);
    }
    refused(worker, &["local"], "--workers", "0", "1 to 1024");
}

#[test]
fn the_largest_numbers_that_are_taken_panic_nowhere() {
    let nobody = "http://127.0.0.1:1";
    let asked = server(&["checkpoint", "now", "--lead", nobody, "--timeout", "31536000"]);
    assert!(asked.stderr.contains("no lead answers"), "{}", asked.stderr);
    let digits = example("reference.toml");
    for arguments in [
        &["plan", "--params", HUGE, "--workers", "8"][..],
        &["plan", "--params", "1G", "--workers", "65536", "--cores", "65536", "--config", &digits],
        &["plan", "--params", "1000", "--workers", "8", "--memory-max", HUGE],
        &["explain", "--preset", "bert", "--steps", HUGE],
        &["explain", "--preset", "bert", "--steps-per-epoch", HUGE],
    ] {
        let finished = server(arguments);
        assert!(matches!(finished.status.code(), Some(0 | 1)), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{arguments:?}: {}", finished.stderr);
    }
    for (arguments, said) in [
        (["bench", "--params", HUGE], "--params: "),
        (["bench", "--steps", HUGE], "--steps: expected 1 to 1000000000"),
        (["bench", "--workers", HUGE], "--workers"),
        (["bench", "--servers", "4294967295"], "job.servers: expected 1 to 4096"),
        (["bench", "--block-elements", HUGE], "job.block_elements"),
        (["local", "--servers", "4294967295"], "job.servers: expected 1 to 4096"),
        (["local", "--steps", HUGE], "job.steps"),
        (["local", "--seed", HUGE], "job.seed"),
    ] {
        let finished = worker(&arguments);
        assert!(!finished.status.success() && finished.stderr.contains(said), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{arguments:?}: {}", finished.stderr);
    }
}
