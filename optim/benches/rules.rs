//! Every rule on every build of the loops, beside the bound of its traffic, 1M parameters, one
//! thread. `cargo bench -p halflife-optim --bench rules [-- NAME]`; about five minutes.
//!
//! For absolute times and changes between two versions; `ratio` says how close a rule comes to the
//! bound, pair by pair.
#![allow(missing_docs, clippy::unwrap_used)]

mod traffic;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use halflife_optim::{KernelPath, StateDtype};
use std::collections::BTreeMap;
use std::time::Duration;
use traffic::{Case, Part, cases};

const PARAMETERS: usize = 1_000_000;
const PATHS: [KernelPath; 3] = [KernelPath::Best, KernelPath::Avx2, KernelPath::Portable];

/// What traffic a case has: cases of the same share a bound.
fn traffic(case: &Case) -> String {
    let planes = case.optimizer.planes().iter();
    let dtype = |dtype| if dtype == StateDtype::Bf16 { "bf16" } else { "f32" };
    let planes: Vec<_> = planes.map(|plane| format!("{} {}", plane.name, dtype(plane.dtype))).collect();
    let norms: String = case.optimizer.reductions().iter().map(|reduction| format!(", {reduction:?}")).collect();
    format!("w g {}{norms}", planes.join(" "))
}

fn rules(criterion: &mut Criterion) {
    let mut by_traffic: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in cases() {
        by_traffic.entry(traffic(&case)).or_default().push(case);
    }
    for (traffic, cases) in by_traffic {
        let mut group = criterion.benchmark_group(traffic);
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
        let mut part = Part::new(&cases[0], PARAMETERS);
        group.throughput(Throughput::Bytes(part.bytes(&cases[0]) as u64));
        group.bench_function("bound", |bencher| bencher.iter(|| part.bound(&cases[0])));
        for case in cases.iter().flat_map(|case| PATHS.map(|path| case.on(path))) {
            let mut part = Part::new(&case, PARAMETERS);
            group.bench_function(&case.name, |bencher| bencher.iter(|| part.update(&case)));
        }
        group.finish();
    }
}

criterion_group!(benches, rules);
criterion_main!(benches);
