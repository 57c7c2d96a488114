//! What a run of the table may be told, all by environment: `make bench` needs none of it.

use std::path::PathBuf;

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Half a minute of everything instead of the figures that count.
    pub quick: bool,
    /// How often each thing is measured, every server in turn.
    pub rounds: usize,
    /// How long one measurement takes.
    pub seconds: f64,
    /// `real`, `synthetic`, or a folder that tests/corpus/make-corpus.sh made.
    pub corpus: Option<String>,
    pub seed: u64,
    /// Packages of the synthetic corpus.
    pub packages: usize,
    /// The NAR that is taken in while memory is watched.
    pub big_nar_bytes: u64,
    /// Paths of the scale run, and of the small cache that it is compared with.
    pub scale: u64,
    pub scale_small: u64,
    /// Generations of the restore run.
    pub generations: usize,
    pub slow_readers: usize,
    /// Rows to run; empty: all.
    pub only: Vec<String>,
    pub harmonia: Option<PathBuf>,
    /// `atticd`, with `atticadm` beside it.
    pub attic: Option<PathBuf>,
    /// `NAME=URL[@PID]`: caches that run already and hold the corpus.
    pub others: Vec<String>,
    pub output: Option<PathBuf>,
}

impl Settings {
    /// From the environment's `SNOWCACHE_BENCH_…`.
    pub fn from_environment() -> Settings {
        let quick = variable("QUICK").is_some_and(|value| value != "0");
        let pick = |quickly: u64, usually: u64| if quick { quickly } else { usually };
        let scale_small = pick(1_000, 10_000);
        Settings {
            quick,
            rounds: number("ROUNDS", pick(2, 5)) as usize,
            seconds: number("MILLISECONDS", pick(300, 1_500)) as f64 / 1e3,
            corpus: variable("CORPUS"),
            seed: number("SEED", 1),
            packages: number("PACKAGES", pick(40, 150)) as usize,
            big_nar_bytes: number("BIG_NAR_BYTES", pick(64 << 20, 1 << 30)),
            scale: number("SCALE", pick(5_000, 100_000)),
            scale_small,
            generations: number("GENERATIONS", pick(5, 50)) as usize,
            slow_readers: number("SLOW_READERS", pick(200, 1_000)) as usize,
            only: list("ONLY"),
            harmonia: variable("HARMONIA").map(PathBuf::from),
            attic: variable("ATTIC").map(PathBuf::from),
            others: list("OTHERS"),
            output: variable("OUTPUT").map(PathBuf::from),
        }
    }

    pub fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only.eq_ignore_ascii_case(row))
    }
}

fn variable(name: &str) -> Option<String> {
    let value = std::env::var(format!("SNOWCACHE_BENCH_{name}")).ok();
    value.filter(|value| !value.is_empty())
}

fn number(name: &str, default: u64) -> u64 {
    let Some(value) = variable(name) else {
        return default;
    };
    let parsed = value.parse();
    parsed.unwrap_or_else(|_| panic!("SNOWCACHE_BENCH_{name}={value}: not a whole number"))
}

fn list(name: &str) -> Vec<String> {
    let value = variable(name).unwrap_or_default();
    let items = value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items.map(str::to_owned).collect()
}
