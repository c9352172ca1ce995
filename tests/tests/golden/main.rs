//! The golden vectors through running servers: 1 and 3 of them, with whole tensors in a block and
//! with blocks so small that every tensor of several elements splits.
//!
//! The same files, neutral fields and comparison as optim's own golden test, whose modules stand
//! here too. `HALFLIFE_GOLDEN_DIR` points at another set.
#![allow(clippy::print_stdout, reason = "says what it runs and skips")]

#[path = "../../../optim/tests/golden/case.rs"]
#[allow(dead_code, reason = "optim's golden test uses all of it")]
mod case;
#[path = "../../../optim/tests/golden/compare.rs"]
mod compare;
#[path = "../../../optim/tests/golden/configure.rs"]
mod configure;
mod factors;
mod run;
#[path = "../../../optim/tests/golden/schedules.rs"]
#[allow(dead_code, reason = "its tests run with optim's golden test")]
mod schedules;

use case::{Case, files};
use run::{Layout, run};

const LAYOUTS: [Layout; 3] = [
    Layout { servers: 1, block_elements: 1 << 18 },
    Layout { servers: 3, block_elements: 1 << 18 },
    Layout { servers: 3, block_elements: 1 },
];

/// Runs one file in every layout: the same bits, and within the file's tolerance.
async fn check(case: &Case) -> Result<(), String> {
    let config = configure::configure(case)?;
    let mut first = None;
    for layout in LAYOUTS {
        let history = run(case, &config, layout).await?;
        compare::compare(case, &history).map_err(|reason| format!("{layout:?}: {reason}"))?;
        let shown = format!("{history:?}"); // round-trips every f32, tells -0 from 0
        let reference = first.get_or_insert_with(|| shown.clone());
        assert!(*reference == shown, "{}: {layout:?} changes bits", case.path.display());
    }
    Ok(())
}

async fn check_all(subdirectory: &str) -> Vec<String> {
    let (mut passed, mut failures) = (Vec::new(), Vec::new());
    for path in files(subdirectory) {
        let case = Case::read(&path);
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if case.is_sparse() {
            println!("skipped, sparse rows: {name}");
            continue;
        }
        match check(&case).await {
            Ok(()) => passed.push(name),
            Err(reason) => failures.push(format!("{name}: {reason}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{subdirectory}: {} passed", passed.len());
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn optimizer_files_pass_through_servers() {
    assert!(!check_all("optimizers").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed_files_pass_through_servers() {
    assert!(!check_all("distributed").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_files_pass_through_servers() {
    assert!(!check_all("edge").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_report_the_lr_of_every_schedule_file() {
    for path in files("schedules") {
        factors::check_schedule(&path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_spare_the_names_of_every_name_file() {
    for path in files("names") {
        factors::check_names(&path).await;
    }
}
