//! How close the update loops come to the memory they must touch.
//!
//! Each rule is measured against a loop with the same traffic and trivial arithmetic, in
//! alternating pairs within one process, because this class of machine drifts by tens of percent
//! within minutes. Prints the median ratio of at least 200 pairs with a 95 % bootstrap interval.
//!
//! `cargo bench -p halflife-optim --bench ratio [-- FILTER]`; sizes: `HALFLIFE_BENCH_SIZES`
//! (default `1000000,124000000`), pairs: `HALFLIFE_BENCH_PAIRS` (default 200).
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use halflife_optim::{KernelPath, Optimizer, OptimizerConfig, StepFactors};
use std::time::Instant;

const ADAMW: &str = "algorithm = \"adam\"\nlr = 0.001\n[weight_decay]\nmode = \"decoupled\"\nvalue = 0.1";

/// What is measured: a name, a configuration, a build of the loops.
fn cases() -> Vec<(&'static str, String, KernelPath)> {
    let adam = "algorithm = \"adam\"\nlr = 0.001";
    let coupled = format!("{adam}\n[weight_decay]\nmode = \"l2\"\nvalue = 0.1");
    let clip = format!("{adam}\ngradient = [{{ op = \"clip_value\", at = 1.0 }}]");
    let of = |algorithm: &str| {
        format!("algorithm = \"{algorithm}\"\nlr = 0.001\n[weight_decay]\nmode = \"decoupled\"\nvalue = 0.1")
    };
    let momentum = "algorithm = \"sgd\"\nlr = 0.001\nmomentum = 0.9".to_string();
    vec![
        ("adamw", ADAMW.into(), KernelPath::Best),
        ("adamw avx2", ADAMW.into(), KernelPath::Avx2),
        ("adamw portable", ADAMW.into(), KernelPath::Portable),
        ("adam, no decay", adam.into(), KernelPath::Best),
        ("adam, l2", coupled, KernelPath::Best),
        ("adam, clip_value", clip, KernelPath::Best),
        ("nadam_torch", of("nadam_torch"), KernelPath::Best),
        ("radam", of("radam"), KernelPath::Best),
        ("lion", of("lion"), KernelPath::Best),
        ("sgd", of("sgd"), KernelPath::Best),
        ("sgd, momentum", momentum, KernelPath::Best),
    ]
}

struct Arrays {
    weights: Vec<f32>,
    next: Vec<f32>,
    gradient: Vec<f32>,
    planes: Vec<Vec<f32>>,
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn bound2(w: &[f32], next: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let n = next.len();
    let (w, g, m, v) = (&w[..n], &g[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        m[i] = 0.5 * (m[i] + g[i]);
        v[i] = 0.5 * (v[i] + w[i]);
        next[i] = w[i] + m[i];
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn bound1(w: &[f32], next: &mut [f32], g: &[f32], m: &mut [f32]) {
    let n = next.len();
    let (w, g, m) = (&w[..n], &g[..n], &mut m[..n]);
    for i in 0..n {
        m[i] = 0.5 * (m[i] + g[i]);
        next[i] = w[i] + m[i];
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn bound0(w: &[f32], next: &mut [f32], g: &[f32]) {
    for ((next, w), g) in next.iter_mut().zip(w).zip(g) {
        *next = w + g;
    }
}

/// One part of the arrays: what a thread works on.
struct Part<'a> {
    weights: &'a [f32],
    next: &'a mut [f32],
    gradient: &'a [f32],
    planes: Vec<&'a mut [f32]>,
}

impl Part<'_> {
    fn bound(&mut self) {
        match self.planes.as_mut_slice() {
            [m, v] => bound2(self.weights, self.next, self.gradient, m, v),
            [m] => bound1(self.weights, self.next, self.gradient, m),
            _ => bound0(self.weights, self.next, self.gradient),
        }
    }

    fn update(&mut self, optimizer: &Optimizer, factors: &StepFactors) {
        optimizer.update(factors, self.weights, self.next, &mut self.planes, self.gradient);
    }
}

fn parts(arrays: &mut Arrays, threads: usize) -> Vec<Part<'_>> {
    let size = arrays.weights.len().div_ceil(threads);
    let mut planes: Vec<_> = arrays.planes.iter_mut().map(|plane| plane.chunks_mut(size)).collect();
    let weights = arrays.weights.chunks(size).zip(arrays.next.chunks_mut(size));
    weights
        .zip(arrays.gradient.chunks(size))
        .map(|((weights, next), gradient)| Part {
            weights,
            next,
            gradient,
            planes: planes.iter_mut().map(|plane| plane.next().unwrap()).collect(),
        })
        .collect()
}

/// Seconds that `work` takes on all parts, each on its own thread.
fn seconds(parts: &mut [Part<'_>], work: impl Fn(&mut Part<'_>) + Sync) -> f64 {
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

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let pairs: usize = setting("HALFLIFE_BENCH_PAIRS", "200").parse().unwrap();
    let sizes = setting("HALFLIFE_BENCH_SIZES", "1000000,124000000");
    let best = KernelPath::Best.instructions();
    println!("best path: {best}; speed is bound time / update time (1 = as fast as the memory allows)\n");
    println!("| rule | parameters | threads | GB/s | speed / bound | 95 % interval |\n|---|---|---|---|---|---|");
    for size in sizes.split(',').map(|size| size.trim().parse::<usize>().unwrap()) {
        for (name, text, path) in cases() {
            if !name.contains(&filter) {
                continue;
            }
            let config: OptimizerConfig = toml::from_str(&text).unwrap();
            let optimizer = Optimizer::new(&config, 1000).unwrap().with_kernel_path(path);
            let factors = optimizer.factors(&optimizer.tensor("w", &[size]), 500, 500);
            let mut arrays = Arrays {
                weights: vec![0.5; size],
                next: vec![0.5; size],
                gradient: (0..size).map(|i| ((i % 17) as f32 - 8.0) * 1e-3).collect(),
                planes: optimizer.planes().iter().map(|_| vec![1e-3; size]).collect(),
            };
            let bytes = (12 + 8 * arrays.planes.len()) * size;
            for threads in [1, 2] {
                let mut parts = parts(&mut arrays, threads);
                let mut rates = Vec::new();
                let mut ratios = Vec::new();
                for _ in 0..pairs {
                    let bound = seconds(&mut parts, |part: &mut Part<'_>| part.bound());
                    let update = seconds(&mut parts, |part| part.update(&optimizer, &factors));
                    ratios.push(bound / update);
                    rates.push(bytes as f64 / update / 1e9);
                }
                let [ratio, low, high] = median_interval(ratios);
                let [rate, ..] = median_interval(rates);
                println!("| {name} | {size} | {threads} | {rate:.1} | {ratio:.2} | {low:.2}-{high:.2} |");
            }
        }
    }
}
