//! What the manifests start is understood by the programs themselves.

use std::process::Command;

use halflife_tests::process::{binary, root};

use crate::render;

/// What a program says to `--help` behind these arguments: it reads them first, and refuses what it does not know.
pub fn help(program: &str, arguments: &[String]) -> String {
    let output = Command::new(binary(program)).args(arguments).arg("--help").current_dir(root()).output();
    let output = output.expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("help is text")
}

/// A variable is one of the program's, and its value right: as the option that it stands for.
pub fn check_variable(program: &str, arguments: &[String], name: &str, value: &str) {
    // As one line: help is wrapped.
    let known = help(program, arguments).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(known.contains(&format!("[env: {name}=")), "{program} reads no {name}:\n{known}");
    let option = name.trim_start_matches("HALFLIFE_").to_ascii_lowercase().replace('_', "-");
    help(program, &[arguments, &[format!("--{option}={value}")]].concat());
}

#[test]
fn the_programs_know_every_argument_and_variable_of_the_manifests() {
    for (overlay, objects) in render::all() {
        for pods in objects.pods() {
            let program = if pods.is_server() { "halflife-server" } else { "halflife-worker" };
            let container = pods.container();
            // The image starts the program; only arguments are told.
            assert_eq!(container.command, None, "{overlay}, {}", pods.name());
            let arguments = container.args.clone().unwrap_or_default();
            help(program, &arguments);
            for variable in container.env.iter().flatten() {
                check_variable(program, &arguments, &variable.name, variable.value.as_deref().unwrap());
            }
            let hook = container.lifecycle.as_ref().and_then(|cycle| cycle.pre_stop.as_ref()?.exec.as_ref());
            if let Some(command) = hook.and_then(|hook| hook.command.as_ref()) {
                let (file, arguments) = command.split_first().unwrap();
                // Where the image has it.
                assert_eq!(*file, format!("/{program}"), "{overlay}");
                help(program, arguments);
            }
        }
    }
}

#[test]
#[should_panic(expected = "unexpected argument '--metrix")]
fn an_argument_that_no_program_knows_is_found() {
    help("halflife-server", &["--config=/job/job.toml".to_owned(), "--metrix=0.0.0.0:1".to_owned()]);
}
