//! What can make two workers' bits differ: build, CPU, threads, device.
//!
//! The matrix kernels choose instructions by what the CPU offers, and with them the rounding.

use halflife_proto::hello::Fingerprint;

use crate::threads;

/// Of this process.
#[must_use]
pub fn fingerprint() -> Fingerprint {
    Fingerprint {
        build: format!("halflife-worker {}", env!("CARGO_PKG_VERSION")),
        cpu_features: cpu_features().join("+"),
        threads: threads::per_gradient(),
        device: "cpu".to_owned(),
    }
}

/// Those that matrix kernels and math libraries look for.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let seen = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    names(&seen)
}

/// Those that matrix kernels and math libraries look for.
#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    names(&[("neon", is_aarch64_feature_detected!("neon")), ("fp16", is_aarch64_feature_detected!("fp16"))])
}

/// None known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn names(seen: &[(&'static str, bool)]) -> Vec<&'static str> {
    seen.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_always_gives_the_same_fingerprint() {
        let found = fingerprint();
        assert_eq!(found, fingerprint());
        assert!(found.build.starts_with("halflife-worker ") && found.threads > 0 && found.device == "cpu");
    }
}
