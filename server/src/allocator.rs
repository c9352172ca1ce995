//! How the C library treats memory that is freed.
//!
//! HTTP/2 allocates a buffer of a MiB for each frame that comes in and frees it when the block's update
//! is done. glibc gives such memory back to the system and asks for it again a moment later, and each
//! time the kernel clears every page of it: a quarter of a step's CPU time (25.6M parameters, 217 ms
//! against 161 ms). Kept instead, it is what was in flight at the worst moment, which the windows bound.

/// Largest allocation taken from memory that is kept; the most that glibc lets one set.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_MAX: i32 = 32 << 20;
/// Free memory at the end of the heap that is kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_BYTES_MIN: i32 = 128 << 20;

/// Threads hand buffers to each other; with a heap for each they would keep free memory each. Measured: 468
/// MB against 502 MB for a server of 25.6M parameters, at the same CPU time: a step allocates little.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: i32 = 1;

/// Keeps freed memory for what is allocated next. To be called first in `main`. Does nothing where the C
/// library is another.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator, which has locks of its own. A refusal changes nothing.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES_MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BYTES_MIN);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
