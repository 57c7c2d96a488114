//! How much a depot holds of some generations of a system, for several ways of cutting.
//!
//! ```text
//! cargo bench --bench cut_sweep -- [--ways FILE | --way WAY]... ROOT[,ROOT...] [ROOT[,ROOT...]]...
//! ```
//!
//! Each argument is one generation: store paths (or links to them), whose closures are dumped with
//! `nix-store --dump`. Counted is everything a depot keeps for a NAR: every new frame at zstd -3
//! with its header and its place in the index, and the recipe with the same. The measure is the sum
//! of whole NARs at zstd -3, without any overhead at all.
//!
//! A way is `NAME literal span_min file_min span_min/avg/max dense_min/avg/max [header index]`,
//! sizes in bytes.

use std::collections::{BTreeMap, HashMap};

use snowcache_core::cut::{Cutter, Params};
use snowcache_core::recipe::FrameId;
use snowcache_core::token;

#[path = "cut_sweep/dense.rs"]
mod dense;
#[path = "cut_sweep/depot.rs"]
mod depot;
#[path = "cut_sweep/nars.rs"]
mod nars;
#[path = "cut_sweep/ways.rs"]
mod ways;

use depot::Depot;
use nars::{Nar, generation, made};
use ways::{WAYS, Way};

const ZSTD_LEVEL: i32 = 3;

fn zstd_len(bytes: &[u8]) -> usize {
    zstd::bulk::compress(bytes, ZSTD_LEVEL)
        .expect("memory compresses")
        .len()
}

/// GB per CPU second of one core, the best of three runs.
fn speed(nars: &[Nar]) {
    let raw: usize = nars.iter().map(|nar| nar.bytes.len()).sum();
    let best = |work: &dyn Fn(&Nar)| {
        let seconds = (0..3).map(|_| {
            let start = cpu_seconds();
            nars.iter().for_each(work);
            cpu_seconds() - start
        });
        raw as f64 / 1e9 / seconds.fold(f64::MAX, f64::min)
    };
    let scan = best(&|nar| {
        std::hint::black_box(token::scan(&nar.bytes));
    });
    let cut = best(&|nar| {
        let mut cutter = Cutter::new(Params::V1);
        nar.files
            .iter()
            .for_each(|&(offset, size)| cutter.file(offset, size));
        cutter.push(&nar.bytes, &mut |piece| {
            std::hint::black_box(piece);
        });
        cutter.finish(&mut |_| {});
    });
    println!("token scan {scan:.1} GB per CPU second, cutting {cut:.1}");
}

/// What this thread has had of a CPU, in seconds (the first number of schedstat, in nanoseconds).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}

fn megabytes(bytes: usize) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

fn whole(nars: &[Nar]) -> usize {
    nars.iter().map(|nar| nar.whole).sum()
}

/// One line: what the first generation takes, what each further one adds, and the worst kind.
fn measure(way: &Way, generations: &[Vec<Nar>], compressed: &mut HashMap<FrameId, usize>) {
    let mut depot = Depot::new(way, compressed);
    let mut line = format!("| {} |", way.name);
    for (number, nars) in generations.iter().enumerate() {
        let before = (depot.total(), depot.recipes);
        let mut known = std::collections::BTreeSet::new();
        for nar in nars {
            if generations[..number]
                .iter()
                .flatten()
                .all(|old| old.bytes != nar.bytes)
                && known.insert(&nar.bytes)
            {
                depot.put(nar);
            }
        }
        let (added, recipes) = (depot.total() - before.0, depot.recipes - before.1);
        let share = added as f64 / whole(nars) as f64;
        line += &match number {
            0 => format!(" {} | {share:.4}x |", megabytes(added)),
            _ => format!(" {} | {:.2} % |", megabytes(added), share * 100.0),
        };
        line += &format!(" {} |", megabytes(recipes));
    }
    line += &format!(
        " {} / {} / {} | {} / {} |",
        depot.spans,
        depot.dense,
        depot.literals,
        depot.composed / 1000,
        depot.apart / 1000
    );
    println!("{line}");
}

/// Each kind of path alone, in a depot of its own.
fn kinds(way: &Way, nars: &[Nar], compressed: &mut HashMap<FrameId, usize>) {
    let mut of_kind: BTreeMap<&str, Vec<&Nar>> = BTreeMap::new();
    for nar in nars {
        of_kind.entry(nar.kind).or_default().push(nar);
    }
    println!(
        "\n{}:\n\n| kind | paths | raw MB | whole MB | depot MB | ratio | worst path | ratio |",
        way.name
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (kind, nars) in of_kind {
        let mut depot = Depot::new(way, compressed);
        nars.iter().for_each(|nar| depot.put(nar));
        let total = depot.total();
        let whole: usize = nars.iter().map(|nar| nar.whole).sum();
        let raw: usize = nars.iter().map(|nar| nar.bytes.len()).sum();
        let alone = nars.iter().map(|nar| {
            let mut depot = Depot::new(way, compressed);
            depot.put(nar);
            (depot.total() as f64 / nar.whole as f64, nar)
        });
        let worst = alone
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .expect("a kind has paths");
        println!(
            "| {kind} | {} | {} | {} | {} | {:.2}x | {} ({} B whole) | {:.2}x |",
            nars.len(),
            megabytes(raw),
            megabytes(whole),
            megabytes(total),
            total as f64 / whole as f64,
            worst.1.name.get(33..).unwrap_or(&worst.1.name),
            worst.1.whole,
            worst.0,
        );
    }
}

/// The ways to try and the generations to try them on.
fn arguments() -> (Vec<Way>, Vec<String>) {
    let mut ways: Vec<Way> = Vec::new();
    let mut roots = Vec::new();
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let text = match argument.as_str() {
            "--way" => arguments.next().expect("--way WAY"),
            "--ways" => {
                std::fs::read_to_string(arguments.next().expect("--ways FILE")).expect("a file")
            }
            _ => {
                roots.push(argument);
                continue;
            }
        };
        ways.extend(
            text.lines()
                .map(|line| Way::parse(line).expect("a way: see the documentation")),
        );
    }
    if ways.is_empty() {
        ways.extend(WAYS.lines().filter_map(Way::parse));
    }
    (ways, roots)
}

fn main() {
    let (ways, roots) = arguments();
    let generations: Vec<Vec<Nar>> = roots.iter().map(|roots| generation(roots)).collect();
    let mut names: Vec<String> = generations
        .iter()
        .take(1)
        .flatten()
        .filter_map(|nar| Some(nar.name.get(33..)?.to_owned()))
        .collect();
    names.sort();
    if names.is_empty() {
        names = (0..300).map(|i| format!("package-{i}.{}", i % 7)).collect();
    }
    let dense: Vec<Vec<Nar>> = (0..2).map(|generation| made(&names, generation)).collect();
    for (number, nars) in generations.iter().enumerate() {
        let raw: usize = nars.iter().map(|nar| nar.bytes.len()).sum();
        println!(
            "generation {}: {} paths, {} MB raw, {} MB whole",
            number + 1,
            nars.len(),
            megabytes(raw),
            megabytes(whole(nars))
        );
    }
    println!(
        "made: {} paths, {} MB whole",
        dense[0].len(),
        megabytes(whole(&dense[0]))
    );
    speed(generations.first().unwrap_or(&dense[0]));
    let mut compressed = HashMap::new();
    for (title, generations) in [("corpus", &generations), ("made", &dense)] {
        println!(
            "\n{title}\n\n| way | first MB | of whole | recipes MB | next MB | of whole \
             | recipes MB | .. | spans / dense / literals | dense kB: composed / apart |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for way in &ways {
            measure(way, generations, &mut compressed);
        }
    }
    let mut first = dense;
    first.truncate(1);
    first.extend(generations.into_iter().take(1));
    let all: Vec<Nar> = first.into_iter().flatten().collect();
    for way in &ways {
        kinds(way, &all, &mut compressed);
    }
}
