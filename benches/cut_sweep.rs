//! How much a depot holds of some generations of a system, for several ways of cutting.
//!
//! ```text
//! cargo bench --bench cut_sweep -- [--ways FILE | --way WAY]... ROOT[,ROOT...] [ROOT[,ROOT...]]...
//! ```
//!
//! Each argument is one generation: store paths (or links to them), whose closures are dumped with `nix-store --dump`.
//! Counted is everything a depot keeps for a NAR: every new frame at zstd -3 with its header and its place in the index,
//! and the recipe with the same. The measure is the sum of whole NARs at zstd -3, without any overhead at all.
//!
//! A way is `NAME literal span_min file_min span_min/avg/max dense_min/avg/max [header index]`, sizes in bytes.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use snowcache_core::cut::{Cutter, Params, Piece, Sizes};
use snowcache_core::recipe::{FrameId, Op, Recipe};
use snowcache_core::token;
use snowcache_nix::nar::{Event, Parser};

const ZSTD_LEVEL: i32 = 3;

struct Nar {
    name: String,
    kind: &'static str,
    bytes: Vec<u8>,
    files: Vec<(u64, u64)>,
    whole: usize,
}

#[derive(Clone)]
struct Way {
    name: String,
    params: Params,
    header: usize,
    index: usize,
}

impl Way {
    fn parse(line: &str) -> Option<Way> {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let mut number = || words.next().map(|word| word.parse().ok());
        let (literal, span_min, file_min) = (number()??, number()??, number()??);
        let mut sizes = || {
            let mut sizes = words.next()?.split('/').map(|word| word.parse().ok());
            Some(Sizes {
                min: sizes.next()??,
                avg: sizes.next()??,
                max: sizes.next()??,
            })
        };
        let (span, dense) = (sizes()?, sizes()?);
        let mut overhead = words.map(|word| word.parse().ok());
        Some(Way {
            name,
            params: Params {
                literal_max_bytes: literal,
                span_min_bytes: span_min,
                file_min_bytes: file_min as u64,
                span,
                dense,
            },
            header: overhead.next().unwrap_or(Some(64))?,
            index: overhead.next().unwrap_or(Some(60))?,
        })
    }
}

/// What a depot holds, as far as its size goes.
struct Depot<'a> {
    way: &'a Way,
    compressed: &'a mut HashMap<FrameId, usize>,
    held: HashMap<FrameId, ()>,
    frames: usize,
    recipes: usize,
    spans: usize,
    dense: usize,
    literals: usize,
}

impl<'a> Depot<'a> {
    fn new(way: &'a Way, compressed: &'a mut HashMap<FrameId, usize>) -> Depot<'a> {
        let held = HashMap::new();
        Depot {
            way,
            compressed,
            held,
            frames: 0,
            recipes: 0,
            spans: 0,
            dense: 0,
            literals: 0,
        }
    }

    fn frame(&mut self, raw: &[u8]) -> FrameId {
        let id = FrameId::of(raw);
        if self.held.insert(id, ()).is_none() {
            let len = *self.compressed.entry(id).or_insert_with(|| zstd_len(raw));
            self.frames += len + self.way.header + self.way.index;
        }
        id
    }

    fn put(&mut self, nar: &Nar) {
        let mut ops = Vec::new();
        let mut cutter = Cutter::new(self.way.params);
        for &(offset, size) in &nar.files {
            cutter.file(offset, size);
        }
        let mut on = |piece: Piece<'_>| {
            let raw_len = piece.raw().len() as u32;
            ops.push(match piece {
                Piece::Span(raw) => {
                    self.spans += 1;
                    Op::Frame {
                        id: self.frame(raw),
                        raw_len,
                    }
                }
                Piece::Literal(raw) => {
                    self.literals += 1;
                    Op::Literal(raw.to_vec().into())
                }
                Piece::Dense { raw, tokens } => {
                    self.dense += 1;
                    let skeleton = FrameId::of_skeleton(raw, tokens);
                    Op::Dense {
                        id: self.frame(raw),
                        skeleton,
                        raw_len,
                    }
                }
            });
        };
        cutter.push(&nar.bytes, &mut on);
        cutter.finish(&mut on);
        let recipe = Recipe::new(ops).expect("pieces are good ops").encode();
        self.recipes += zstd_len(&recipe).min(recipe.len()) + self.way.header + self.way.index;
    }

    fn total(&self) -> usize {
        self.frames + self.recipes
    }
}

fn zstd_len(bytes: &[u8]) -> usize {
    zstd::bulk::compress(bytes, ZSTD_LEVEL)
        .expect("memory compresses")
        .len()
}

fn kind(name: &str, bytes: &[u8]) -> &'static str {
    let name = name.get(33..).unwrap_or(name);
    match name {
        _ if name.ends_with(".drv") => "drv",
        _ if name.starts_with("nixos-system") => "toplevel",
        _ if name.starts_with("unit-") => "unit",
        "etc" => "etc",
        "system-path" | "user-environment" => "symlink farm",
        // A regular file that begins "#!".
        _ if bytes
            .get(72..)
            .is_some_and(|rest| rest[..rest.len().min(64)].windows(2).any(|w| w == b"#!"))
            && bytes.get(56..63) == Some(b"regular") =>
        {
            "script"
        }
        _ if bytes.len() < 64 * 1024 => "small package",
        _ => "package",
    }
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{program} {arguments:?} fails");
    output.stdout
}

fn load(path: &str) -> Nar {
    let bytes = run("nix-store", &["--dump", path]);
    let mut files = Vec::new();
    let mut parser = Parser::new();
    let mut on = |event: Event<'_>| {
        if let Event::File { offset, size, .. } = event {
            files.push((offset, size));
        }
    };
    parser
        .feed(&bytes, &mut on)
        .expect("nix-store --dump makes good NARs");
    let name = path.rsplit('/').next().unwrap_or(path).to_owned();
    Nar {
        kind: kind(&name, &bytes),
        whole: zstd_len(&bytes),
        name,
        files,
        bytes,
    }
}

/// The closure of some roots, or what is in some folders.
fn generation(roots: &str) -> Vec<Nar> {
    let mut paths: Vec<String> = Vec::new();
    for root in roots.split(',') {
        let root = std::fs::canonicalize(root).expect("the root exists");
        let root = root.to_str().expect("paths are UTF-8");
        let list = match root.starts_with("/nix/store/") {
            true => run("nix-store", &["-qR", root]),
            false => run("find", &[root, "-mindepth", "1", "-maxdepth", "1"]),
        };
        paths.extend(String::from_utf8_lossy(&list).lines().map(str::to_owned));
    }
    paths.sort();
    paths.dedup();
    paths.iter().map(|path| load(path)).collect()
}

#[path = "cut_sweep/dense.rs"]
mod dense;

fn made(names: &[String], generation: u64) -> Vec<Nar> {
    let made = dense::Made { names, generation }.all().into_iter();
    made.map(|(kind, name, bytes)| Nar {
        name,
        kind,
        files: Vec::new(),
        whole: zstd_len(&bytes),
        bytes,
    })
    .collect()
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
    line += &format!(" {} / {} / {} |", depot.spans, depot.dense, depot.literals);
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

/// What the decisions compare: version 1, and it with one thing changed.
const WAYS: &str = "\
V1 2048 1024 65536 65536/262144/1048576 262144/524288/1048576
span-min-256 2048 256 65536 65536/262144/1048576 262144/524288/1048576
span-min-512 2048 512 65536 65536/262144/1048576 262144/524288/1048576
span-min-2048 2048 2048 65536 65536/262144/1048576 262144/524288/1048576
span-min-4096 2048 4096 65536 65536/262144/1048576 262144/524288/1048576
literal-64 64 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-256 256 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-512 512 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-1024 1024 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-4096 4096 1024 65536 65536/262144/1048576 262144/524288/1048576
files-16384 2048 1024 16384 65536/262144/1048576 262144/524288/1048576
files-32768 2048 1024 32768 65536/262144/1048576 262144/524288/1048576
files-131072 2048 1024 131072 65536/262144/1048576 262144/524288/1048576
files-never 2048 1024 1000000000000000 65536/262144/1048576 262144/524288/1048576
sizes-16/64/256K 2048 1024 65536 16384/65536/262144 262144/524288/1048576
sizes-32/128/512K 2048 1024 65536 32768/131072/524288 262144/524288/1048576
sizes-128/512/1024K 2048 1024 65536 131072/524288/1048576 262144/524288/1048576
sizes-128/512/2048K 2048 1024 65536 131072/524288/2097152 262144/524288/1048576
dense-64/256/1024K 2048 1024 65536 65536/262144/1048576 65536/262144/1048576
dense-512/1024/1024K 2048 1024 65536 65536/262144/1048576 524288/1048576/1048576
dense-1/2/4M 2048 1024 65536 65536/262144/1048576 1048576/2097152/4194304
overhead-96+60 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 96 60
overhead-48+60 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 48 60
overhead-40+40 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 40 40
overhead-0 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 0 0
";

fn main() {
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
            "\n{title}\n\n| way | first MB | of whole | recipes MB | next MB | of whole | recipes MB | .. | spans / dense / literals |"
        );
        println!("|---|---|---|---|---|---|---|---|");
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
