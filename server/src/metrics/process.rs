//! What the kernel says of this process, by the names that all of Prometheus' clients use.

use snowcache_core::exposition::Exposition;
use std::fs;

/// What can be read of it; the rest is left out.
pub fn tell(to: &mut Exposition) {
    if let Some([user, system, started]) = stat() {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        to.counter(
            "process_cpu_seconds_total",
            "Time on processors, user and system.",
        );
        to.sample(&[], (user + system) as f64 / ticks);
        if let Some(boot_unix_s) = boot_unix_s() {
            to.gauge(
                "process_start_time_seconds",
                "When it was started, since 1970.",
            );
            to.sample(&[], boot_unix_s as f64 + started as f64 / ticks);
        }
    }
    if let Some([size, resident]) = memory() {
        let page = rustix::param::page_size() as u64;
        to.gauge("process_resident_memory_bytes", "Memory in use.");
        to.sample(&[], resident * page);
        to.gauge("process_virtual_memory_bytes", "Address space in use.");
        to.sample(&[], size * page);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        to.gauge("process_open_fds", "Files and sockets that are open.");
        to.sample(&[], open.count());
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(limit) = limit.current {
        to.gauge("process_max_fds", "How many may be open.");
        to.sample(&[], limit);
    }
}

/// utime, stime and starttime of proc(5), in clock ticks.
fn stat() -> Option<[u64; 3]> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The process' name may hold anything, but it ends at the last parenthesis.
    let (_, behind) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = behind.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some([field(14)?, field(15)?, field(22)?])
}

fn boot_unix_s() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "));
    boot?.trim().parse().ok()
}

/// size and resident of proc(5), in pages.
fn memory() -> Option<[u64; 2]> {
    let memory = fs::read_to_string("/proc/self/statm").ok()?;
    let mut fields = memory.split(' ').map(str::parse);
    Some([fields.next()?.ok()?, fields.next()?.ok()?])
}
