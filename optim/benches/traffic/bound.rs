//! The loops that the rules are measured against.

use halflife_optim::Plane;
use std::hint::black_box;

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn update0(w: &[f32], next: &mut [f32], g: &[f32]) {
    for ((next, w), g) in next.iter_mut().zip(w).zip(g) {
        *next = w + g;
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn update1(w: &[f32], next: &mut [f32], g: &[f32], m: &mut [f32]) {
    let n = next.len();
    let (w, g, m) = (&w[..n], &g[..n], &mut m[..n]);
    for i in 0..n {
        m[i] = 0.5 * (m[i] + g[i]);
        next[i] = w[i] + m[i];
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn update2(w: &[f32], next: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let n = next.len();
    let (w, g, m, v) = (&w[..n], &g[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        m[i] = 0.5 * (m[i] + g[i]);
        v[i] = 0.5 * (v[i] + w[i]);
        next[i] = w[i] + m[i];
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn update3(w: &[f32], next: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], x: &mut [f32]) {
    let n = next.len();
    let (w, g, m, v, x) = (&w[..n], &g[..n], &mut m[..n], &mut v[..n], &mut x[..n]);
    for i in 0..n {
        m[i] = 0.5 * (m[i] + g[i]);
        v[i] = 0.5 * (v[i] + w[i]);
        x[i] = 0.5 * (x[i] + w[i]);
        next[i] = w[i] + m[i];
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn halves1(w: &[f32], next: &mut [f32], g: &[f32], m: &mut [u16]) {
    let n = next.len();
    let (w, g, m) = (&w[..n], &g[..n], &mut m[..n]);
    for i in 0..n {
        m[i] = m[i].min(0x7f00);
        next[i] = w[i] + g[i];
    }
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn halves2(w: &[f32], next: &mut [f32], g: &[f32], m: &mut [u16], v: &mut [u16]) {
    let n = next.len();
    let (w, g, m, v) = (&w[..n], &g[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        m[i] = m[i].min(0x7f00);
        v[i] = v[i].min(0x7f00);
        next[i] = w[i] + g[i];
    }
}

/// Reads weights and gradient, reads and writes the planes, writes the next weights.
pub fn update(w: &[f32], next: &mut [f32], g: &[f32], planes: &mut [Plane]) {
    match planes {
        [] => update0(w, next, g),
        [Plane::F32(m)] => update1(w, next, g, m),
        [Plane::F32(m), Plane::F32(v)] => update2(w, next, g, m, v),
        [Plane::F32(m), Plane::F32(v), Plane::F32(x)] => update3(w, next, g, m, v, x),
        [Plane::Bf16(m)] => halves1(w, next, g, m),
        [Plane::Bf16(m), Plane::Bf16(v)] => halves2(w, next, g, m, v),
        _ => panic!("no bound for these planes"),
    }
}

/// Lanes of a sum that the compiler may keep in vectors.
const LANES: usize = 32;

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn sum(values: &[f32]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
    sums
}

/// Reads what a norm reads: the gradient, for a trust ratio also weights and f32 planes.
pub fn read(w: &[f32], g: &[f32], planes: &[Plane]) {
    black_box(sum(g));
    for plane in planes {
        let Plane::F32(values) = plane else { panic!("no bound for these planes") };
        black_box(sum(values));
    }
    if !planes.is_empty() {
        black_box(sum(w));
    }
}
