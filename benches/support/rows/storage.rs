//! P12: what the two generations take on disk, everything counted, against the sum of their NARs at
//! zstd -3. `make bench-storage` shows it path by path.

use super::super::corpus::read_item;
use super::super::peers::OURS;
use super::super::report::{Limit, Row};
use super::{Findings, Stage};

const WHOLE: &str = "zstd -3";
const FIRST_AT_MOST: f64 = 1.08;
/// Of the first generation's whole NARs.
const SECOND_AT_MOST_PERCENT: f64 = 0.8;

pub fn measure(stage: &mut Stage) -> Findings {
    let folder = stage.corpus.zst();
    let size = |hash: &String| read_item(&folder, hash).file_size.unwrap_or(0);
    let whole = |generation: usize| -> f64 {
        stage.corpus.added(generation).iter().map(size).sum::<u64>() as f64 / 1e6
    };
    let [empty, one, two] = stage.disk_bytes.map(|bytes| bytes as f64 / 1e6);
    let mut first = Row::new(
        "P12",
        "first generation",
        "MB",
        Limit::RatioAtMost(FIRST_AT_MOST),
    )
    .against(WHOLE);
    first.add(OURS, one - empty);
    first.add(WHOLE, whole(0));
    let mut second = Row::new("P12", "second generation", "MB", Limit::Told).against(WHOLE);
    second.add(OURS, two - one);
    second.add(WHOLE, whole(1));
    let mut share = Row::new(
        "P12",
        "second, of the first's whole NARs",
        "%",
        Limit::AtMost(SECOND_AT_MOST_PERCENT),
    );
    share.add(OURS, (two - one) / whole(0) * 100.0);
    Findings::rows([first, second, share])
}
