//! The units for plain machines: systemd reads them without a complaint, they may do little, and what they start
//! understands its arguments and variables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use halflife_tests::needed;
use halflife_tests::process::{binary, root};

use crate::command_line::{check_variable, help};

/// Where units expect the programs.
const INSTALLED: &str = "/usr/local/bin/";
/// systemd's own measure, from 0 (may do nothing) to 100 (anything): below 20 it says "OK".
const EXPOSURE_MAX: u32 = 20;

fn units() -> [(&'static str, &'static str); 2] {
    [("halflife-server@.service", "halflife-server"), ("halflife-worker@.service", "halflife-worker")]
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join("deploy/systemd").join(file)).expect("a file of deploy/systemd")
}

/// The unit with the programs where these tests have them, for systemd to find.
fn installed(directory: &Path, file: &str, program: &str) -> PathBuf {
    let text = text(file).replace(&format!("{INSTALLED}{program}"), binary(program).to_str().expect("a path in UTF-8"));
    let path = directory.join(file);
    fs::write(&path, text).expect("a unit is written");
    path
}

fn setting(unit: &str, key: &str) -> Option<String> {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
}

#[test]
fn systemd_reads_the_units_and_finds_little_that_they_may_do() {
    let directory = tempfile::tempdir().expect("a directory");
    for (file, program) in units() {
        let Some(mut verify) =
            needed::program("systemd-analyze", "the units of deploy/systemd, with systemd 250 or newer")
        else {
            return;
        };
        let path = installed(directory.path(), file, program);
        let verified = verify.arg("verify").arg("--man=no").arg(&path).output().expect("systemd-analyze runs");
        let said = String::from_utf8_lossy(&verified.stderr);
        // It reads the machine's own units, too, and may have something to say about those.
        let own: Vec<&str> = said.lines().filter(|line| line.contains("halflife")).collect();
        assert!(verified.status.success() && own.is_empty(), "{file}: {said}");
        let mut security = needed::program("systemd-analyze", "their security").expect("it is here");
        security.arg("security").arg("--offline=true").arg(format!("--threshold={EXPOSURE_MAX}")).arg(&path);
        let judged = security.output().expect("systemd-analyze runs");
        assert!(judged.status.success(), "{file}: {}", String::from_utf8_lossy(&judged.stdout));
    }
}

#[test]
fn units_end_in_good_order_and_come_back_only_after_a_failure() {
    for (file, _) in units() {
        let unit = text(file);
        for (key, value) in [("Restart", "on-failure"), ("KillSignal", "SIGTERM"), ("User", "halflife")] {
            assert_eq!(setting(&unit, key).as_deref(), Some(value), "{file}: {key}");
        }
        let stop_s: u32 = setting(&unit, "TimeoutStopSec").and_then(|value| value.parse().ok()).expect("seconds");
        assert!(stop_s >= 4, "{file}: programs take up to 2 s");
    }
    // What a worker ends with after a signal: no failure.
    assert_eq!(setting(&text(units()[1].0), "SuccessExitStatus").as_deref(), Some("130 143"));
}

#[test]
fn the_programs_know_what_units_and_example_files_tell_them() {
    for ((file, program), example) in units().into_iter().zip(["server.env.example", "worker.env.example"]) {
        let line = setting(&text(file), "ExecStart").expect("a command");
        let mut words = line.split_whitespace().map(str::to_owned);
        assert_eq!(words.next(), Some(format!("{INSTALLED}{program}")), "{file}");
        let arguments: Vec<String> = words.collect();
        help(program, &arguments);
        for (name, value) in variables(&text(example)) {
            if name.starts_with("HALFLIFE_") {
                check_variable(program, &arguments, &name, &value);
            }
        }
    }
}

#[test]
fn the_example_job_fits_the_example_settings_and_the_unit() {
    let job = halflife_server::JobSpec::parse("digits.toml", &text("digits.toml"), &[]).unwrap();
    let servers = variables(&text("server.env.example"))["HALFLIFE_SERVERS"].split(',').count();
    assert_eq!(job.job.servers as usize, servers);
    let kept = job.checkpoint.expect("a killed server goes on from a checkpoint").location;
    let unit = text(units()[0].0);
    let state = setting(&unit, "StateDirectory").expect("somewhere to write").replace("%i", "digits");
    assert_eq!(kept, format!("/var/lib/{state}"));
    // The thread that writes checkpoints makes itself nice; a later line gives back what an earlier one takes.
    let filters: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")).collect();
    assert_eq!(filters.last(), Some(&"setpriority"), "{filters:?}");
}

/// The variables of an example, also those that are commented out.
fn variables(text: &str) -> BTreeMap<String, String> {
    let assignments = text.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let is_name = |name: &str| name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
    assignments.filter(|(name, _)| is_name(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
