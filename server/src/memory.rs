//! In how many pools the C library's allocator keeps the memory of this process.
//!
//! Guarantees: in no more than there are cores. Never: a limit on memory itself.
//!
//! By default glibc gives threads up to eight pools for each core, and what was freed in one serves
//! no thread of another. The index is read by some tens of threads, which leave blocks of 4 KiB in
//! its cache, out of all pools in turn; each pool keeps whole pages for the few of them that are
//! still wanted. No more threads than there are cores are at work in the allocator at once, so that
//! as many pools are enough.

#![allow(unsafe_code)]

/// How whoever starts the server says it, which counts.
const SAID_FROM_OUTSIDE: &str = "MALLOC_ARENA_MAX";

/// Bounds the pools. Call it before there are threads: they keep those that they have.
pub fn bound_pools() {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    if std::env::var_os(SAID_FROM_OUTSIDE).is_none() && !set(cores) {
        eprintln!("snowcached: the allocator does not take a number of pools; it goes on without");
    }
}

#[cfg(target_env = "gnu")]
fn set(pools: usize) -> bool {
    // SAFETY: mallopt is given two numbers, and changes a setting of the allocator under its lock.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, pools as libc::c_int) == 1 }
}

/// Other C libraries have one pool.
#[cfg(not(target_env = "gnu"))]
fn set(_: usize) -> bool {
    true
}
