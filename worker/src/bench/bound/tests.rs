//! The bound against the prediction, without processes.

use super::worker::BoundWorker;
use super::*;

const ADAMW: &str = "algorithm = \"adam\"\nlr = 0.01\nweight_decay = { mode = \"decoupled\", value = 0.1 }";

fn plan(elements: usize, servers: usize, workers: u32) -> BoundPlan {
    let (optimizer_toml, combine) = (ADAMW.to_owned(), Combine::Mean);
    BoundPlan { elements, chunk_elements: 6000, servers, workers, combine, optimizer_toml, steps: 100 }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_servers_and_workers_gives_the_predicted_weights() {
    // The first is inline on both sides; in the others chunks end inside shares and tiles inside chunks.
    for (elements, servers, workers) in [(1024, 1, 1), (1024, 1, 3), (100_003, 1, 1), (100_003, 3, 5), (70_000, 2, 2)] {
        let plan = plan(elements, servers, workers);
        let addresses: Vec<_> = (0..servers).map(|server| server::listen(&plan, server).unwrap()).collect();
        let run = |worker| {
            let (plan, addresses) = (plan.clone(), addresses.clone());
            tokio::spawn(async move {
                let worker = BoundWorker::connect(plan, &addresses, worker).unwrap();
                let (worker, ran) = worker.run(3).await.unwrap();
                assert_eq!(ran.complete_ns.len(), 3);
                worker.run(2).await.unwrap().0.verify().unwrap()
            })
        };
        let tasks: Vec<_> = (0..workers).map(run).collect();
        for task in tasks {
            let found = task.await.unwrap();
            assert!(found.passed() && found.step == 5, "{elements} {servers} {workers}: {found}");
        }
    }
}

#[test]
fn shares_tile_the_model() {
    let plan = plan(100, 3, 1);
    assert_eq!([0, 1, 2].map(|server| plan.share(server)), [0..33, 33..66, 66..100]);
}

#[tokio::test]
async fn a_rule_with_norms_has_no_such_bound() {
    let lamb = BoundPlan { optimizer_toml: "algorithm = \"lamb\"\nlr = 0.1".to_owned(), ..plan(100, 1, 1) };
    assert!(matches!(server::listen(&lamb, 0), Err(BoundError::Norms)));
}
