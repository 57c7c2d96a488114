//! The table: how Snowcache stands to nginx, and to what else is given, goal by goal.
//!
//! ```text
//! make bench            everything; writes target/bench/<date>/report.md, report.json, *.svg
//! make bench-quick      the same shape in under two minutes; its figures are only a first look
//! SNOWCACHE_BENCH_ONLY=P1,P3 make bench
//! ```
//!
//! benches/support/settings.rs has all of `SNOWCACHE_BENCH_…`.

#[path = "support/mod.rs"]
mod support;

fn main() {
    support::peers::least::serve_if_told();
    let settings = support::settings::Settings::from_environment();
    let (folder, report) = support::table::run(settings);
    println!("{report}\n{}", folder.display());
}
