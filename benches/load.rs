//! A load generator for any binary cache: what it answers, how fast, at what cost.
//!
//! ```text
//! cargo bench --bench load -- --url http://127.0.0.1:8420 --path /nix/store/… --closure \
//!     --mix narinfo-hit=70,narinfo-miss=20,nar-small=10 --connections 16 --seconds 5 --pid 1234
//! cargo bench --bench load -- --url … --path … --rate 5000 --connections 64      open loop
//! cargo bench --bench load -- --url … --path … --walk --clients 8               closures
//! cargo bench --bench load -- --url … --path … --slow 2000                       slow readers
//! cargo bench --bench load -- --url … --replay access.log                        a recorded log
//! ```
//!
//! Exit code 1: something was answered wrong, or not at all.

#[path = "support/mod.rs"]
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::load::main(std::env::args().filter(|argument| argument != "--bench"))
}
