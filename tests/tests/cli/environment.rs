//! The environment variables of both programs: what `--help` says of them and what docs/startup.md lists are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use halflife_tests::process::{Process, root};

/// Variables that have no flag.
const WITHOUT_FLAG: [&str; 2] = ["RAYON_NUM_THREADS", "RUST_LOG"];

/// A flag, and the words of the table for whoever has it.
type Readers = BTreeSet<(String, &'static str)>;

fn help(program: &str, command: &[&str]) -> String {
    Process::start(program, &[command, &["--help"]].concat()).finish().stdout
}

/// Every `[env: NAME=` of a command's help and of its commands', with the flag that it stands under.
fn look(program: &str, command: &[&str], found: &mut BTreeMap<String, Readers>) {
    let text = help(program, command);
    assert!(text.contains("Usage: "), "{program} {command:?}: {text}");
    let (mut flag, mut before, mut in_commands) = ("", "", false);
    for line in text.lines() {
        // What is further in explains, and may begin with another's flag.
        if line.trim_start().starts_with('-') && line.find('-') <= Some(6) {
            flag = line.split_whitespace().find(|word| word.starts_with("--")).unwrap_or_default();
        }
        // Lines are broken between any two words.
        for word in line.split_whitespace() {
            if std::mem::replace(&mut before, word) == "[env:" {
                let variable = word.split('=').next().unwrap_or_default().to_owned();
                found.entry(variable).or_default().insert((flag.to_owned(), reader(program, command)));
            }
        }
        in_commands = line == "Commands:" || (in_commands && line.starts_with("  "));
        let name = line.strip_prefix("  ").filter(|rest| in_commands && !rest.starts_with(' '));
        match name.and_then(|rest| rest.split(' ').next()) {
            Some("help") | None => {}
            Some(name) => look(program, &[command, &[name]].concat(), found),
        }
    }
}

fn reader(program: &str, command: &[&str]) -> &'static str {
    match (program, command) {
        ("halflife-worker", _) => "worker",
        (_, []) => "server",
        (_, ["healthcheck"]) => "`healthcheck`",
        _ => "commands",
    }
}

/// By variable, the flag and who reads it, as docs/startup.md says.
fn listed() -> BTreeMap<String, Readers> {
    let text = fs::read_to_string(root().join("docs/startup.md")).expect("the document");
    let (_, section) = text.split_once("## Environment variables").expect("its section");
    let mut listed = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [variable, flag, readers, meaning] = cells[..] else { panic!("{line}") };
        assert!(!meaning.is_empty(), "{line}");
        let known = ["server", "worker", "`healthcheck`", "commands"];
        let one = |reader: &str| *known.iter().find(|known| **known == reader).unwrap_or_else(|| panic!("{line}"));
        let readers = readers.split(", ").map(|reader| (flag.trim_matches('`').to_owned(), one(reader))).collect();
        assert!(listed.insert(variable.trim_matches('`').to_owned(), readers).is_none(), "twice: {line}");
    }
    listed
}

#[test]
fn every_variable_that_help_names_is_in_the_table_and_every_one_of_the_table_is_real() {
    let mut found = BTreeMap::new();
    look("halflife-server", &[], &mut found);
    look("halflife-worker", &[], &mut found);
    let mut listed = listed();
    for variable in WITHOUT_FLAG {
        let readers = listed.remove(variable).unwrap_or_else(|| panic!("{variable} is not listed"));
        assert!(readers.iter().all(|(flag, _)| flag == "none"), "{variable}");
    }
    assert!(found.contains_key("HALFLIFE_LISTEN") && found.contains_key("HALFLIFE_JOB"), "{found:?}");
    assert_eq!(found, listed);
}
