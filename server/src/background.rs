//! Work that stands back: its threads run only where no other wants to, and when it is due follows
//! from the time alone, so that restarts delay it by one turn at most.

pub mod job;

use preempt_rt::sched::{Pid, Scheduler, SchedulerParams, set_scheduler};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the kernel refuses its idle class, a thread at least takes the lowest priority.
const NICE: i32 = 19;

/// Lets every other thread go first: in the kernel's idle class (`SCHED_IDLE`, man 7 sched) whoever
/// wakes up takes the core at once, where a merely niced thread would keep it until the end of its
/// slice. Threads that the caller starts inherit it.
pub fn stand_back() {
    let (thread, params) = (Pid::current_thread(), SchedulerParams { priority: 0 });
    let Err(error) = set_scheduler(thread, Scheduler::SCHED_IDLE, params) else {
        return;
    };
    tracing::debug!(%error, "a thread is niced only: the kernel refuses the idle class");
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a thread that is to stand back runs at the usual priority");
    }
}

/// Which turn of so long comes next, counted from 1970, and how long until it is due.
pub fn next_turn(now: Duration, turn: Duration) -> (u128, Duration) {
    let next = now.as_nanos() / turn.as_nanos() + 1;
    let wait = next * turn.as_nanos() - now.as_nanos();
    (next, Duration::from_nanos(wait as u64))
}

/// The time since 1970.
pub fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
