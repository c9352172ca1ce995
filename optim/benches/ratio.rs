//! How close the update loops come to the memory they must touch.
//!
//! Each rule is measured against a loop with the same traffic and trivial arithmetic, in
//! alternating pairs within one process, because this class of machine drifts by tens of percent
//! within minutes. Prints the median ratio of the pairs with a 95 % bootstrap interval, and last
//! what decay adds to `AdamW`'s time.
//!
//! `cargo bench -p halflife-optim --bench ratio -- [--pairs N] [--sizes N,N] [--threads N,N] [--exact] [NAME]`
//! (default 200 pairs, sizes 1000000,124000000, threads 1,2, every case whose name contains NAME, with
//! `--exact` the one whose name is NAME).
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

mod traffic;

use halflife_optim::KernelPath;
use std::time::Instant;
use traffic::{Case, Part, adam, cases};

/// Seconds that `work` takes on all parts, each on its own thread.
fn seconds(parts: &mut [Part], work: impl Fn(&mut Part) + Sync) -> f64 {
    let start = Instant::now();
    match parts {
        [only] => work(only),
        parts => std::thread::scope(|scope| {
            for part in parts {
                scope.spawn(|| work(part));
            }
        }),
    }
    start.elapsed().as_secs_f64()
}

/// Median and 95 % bootstrap interval of the median.
fn median_interval(mut values: Vec<f64>) -> [f64; 3] {
    let median = |sorted: &[f64]| sorted[sorted.len() / 2];
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    let mut medians: Vec<f64> = (0..1000)
        .map(|_| {
            let mut sample: Vec<f64> = values.iter().map(|_| values[next() % values.len()]).collect();
            sample.sort_by(f64::total_cmp);
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    values.sort_by(f64::total_cmp);
    [median(&values), medians[25], medians[974]]
}

/// What the command line asks for.
struct Settings {
    pairs: usize,
    sizes: Vec<usize>,
    threads: Vec<usize>,
    name: String,
    exact: bool,
}

impl Settings {
    fn read() -> Self {
        let mut settings = Self {
            pairs: 200,
            sizes: vec![1_000_000, 124_000_000],
            threads: vec![1, 2],
            name: String::new(),
            exact: false,
        };
        let list = |text: &str| text.split(',').map(|one| one.trim().parse().unwrap()).collect();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} takes a value"));
            match argument.as_str() {
                "--bench" => {} // cargo's
                "--pairs" => settings.pairs = value().parse().unwrap(),
                "--sizes" => settings.sizes = list(&value()),
                "--threads" => settings.threads = list(&value()),
                "--exact" => settings.exact = true,
                option if option.starts_with("--") => panic!("unknown option {option}"),
                name => settings.name = name.into(),
            }
        }
        assert!(settings.pairs > 0, "--pairs takes a number above zero");
        settings
    }

    fn asks_for(&self, case: &Case) -> bool {
        if self.exact { case.name == self.name } else { case.name.contains(&self.name) }
    }
}

fn parts(case: &Case, size: usize, threads: usize) -> Vec<Part> {
    (0..threads).map(|_| Part::new(case, size / threads)).collect()
}

/// One row: the case against its bound.
fn against_bound(case: &Case, size: usize, threads: usize, pairs: usize) {
    let mut parts = parts(case, size, threads);
    let bytes: usize = parts.iter().map(|part| part.bytes(case)).sum();
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        let bound = seconds(&mut parts, |part| part.bound(case));
        let update = seconds(&mut parts, |part| part.update(case));
        ratios.push(bound / update);
        rates.push(bytes as f64 / update / 1e9);
    }
    let [ratio, low, high] = median_interval(ratios);
    let [rate, ..] = median_interval(rates);
    println!("| {} | {size} | {threads} | {rate:.1} | {ratio:.2} | {low:.2}-{high:.2} |", case.name);
}

/// One row: `AdamW`'s time over that of the same rule without decay, on the same arrays: where they
/// lie would make a difference of its own.
fn decay_on_off(size: usize, threads: usize, pairs: usize) {
    let [on, off] = [adam(true), adam(false)];
    let mut parts = parts(&on, size, threads);
    let mut timed = |case: &Case| {
        parts.iter_mut().for_each(|part| part.switch_to(case));
        seconds(&mut parts, |part| part.update(case))
    };
    let ratios = (0..pairs).map(|_| timed(&on) / timed(&off));
    let [ratio, low, high] = median_interval(ratios.collect());
    println!("| adamw, time with decay / without | {size} | {threads} | | {ratio:.3} | {low:.3}-{high:.3} |");
}

fn main() {
    let settings = Settings::read();
    let best = KernelPath::Best.instructions();
    println!(
        "best path: {best}; {} pairs; speed is bound time / update time (1: all the memory allows)\n",
        settings.pairs
    );
    println!("| rule | parameters | threads | GB/s | speed / bound | 95 % interval |\n|---|---|---|---|---|---|");
    let others = [KernelPath::Avx2, KernelPath::Portable].map(|path| adam(true).on(path));
    let cases: Vec<Case> = cases().into_iter().chain(others).collect();
    for &size in &settings.sizes {
        for &threads in &settings.threads {
            for case in cases.iter().filter(|case| settings.asks_for(case)) {
                against_bound(case, size, threads, settings.pairs);
            }
            if "adamw".contains(&settings.name) {
                decay_on_off(size, threads, settings.pairs);
            }
        }
    }
}
