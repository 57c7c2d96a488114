//! What two generations of a system cost on disk, everything counted.
//!
//! ```text
//! cargo bench --bench storage                      the quick corpus that `make test-setup` makes
//! cargo bench --bench storage -- CORPUS-FOLDER     one that tests/corpus/make-corpus.sh made
//! ```
//!
//! The first generation is pushed into an empty snowcached by stock nix, the server stopped and its
//! data folder measured; then the second. The yardstick is each whole NAR at zstd -3, summed, and
//! nothing else: no narinfos, no file system. Then each path for itself: the frames that its NAR
//! uses, whether shared or not, and its recipe, against its own whole NAR; by kind, and the worst.
//! Last the first generation in servers of its own, recompressed at several levels, as it is when
//! the grace of the former encodings is over; with the CPU time that it took.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::corpus::closure;
use support::nix::{Nix, Node, User, inputs};
use support::server::Snowcached;

/// Goals: the first generation against whole NARs, as it comes and when it was recompressed; what
/// the second adds; any kind against its own.
const FIRST_AT_MOST: f64 = 1.08;
const RECOMPRESSED_AT_MOST: f64 = 1.0;
const SECOND_AT_MOST: f64 = 0.008;
const KIND_AT_MOST: f64 = 2.2;

/// Levels of recompression: what the default is is told by the shipped configuration.
const LEVELS: [u8; 3] = [9, 12, 19];

struct Measured {
    name: String,
    kind: &'static str,
    whole: u64,
    cost: Value,
}

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let folder = folder.map_or(inputs().join("corpus-120"), PathBuf::from);
    let generations = ["top1", "top2"].map(|top| closure(&resolve(&folder.join(top))));
    let drvs = closure(&resolve(&folder.join("top1.drv")));
    let all: BTreeSet<&String> = generations.iter().chain([&drvs]).flatten().collect();
    eprintln!(
        "compressing {} NARs with zstd -3, each as a whole",
        all.len()
    );
    let whole: BTreeMap<&String, u64> = all.iter().map(|path| (*path, whole_zstd(path))).collect();
    let sum = |paths: &[String]| -> u64 { paths.iter().map(|path| whole[path]).sum() };

    let mut server = Snowcached::start();
    let mut used = vec![disk_bytes(&mut server)];
    for (number, paths) in generations.iter().enumerate() {
        eprintln!("pushing generation {}: {} paths", number + 1, paths.len());
        push(&server, "", paths);
        used.push(disk_bytes(&mut server));
    }
    push(&server, "--derivation", &drvs);
    let first = used[1] - used[0];
    let second = used[2] - used[1];
    let baseline = sum(&generations[0]);
    println!("| | paths | whole NARs, zstd -3 | on disk | ratio | goal |");
    println!("|---|---|---|---|---|---|");
    let row = |name: &str, paths: &[String], disk: u64, ratio: String, goal: String| {
        let (count, whole) = (paths.len(), sum(paths));
        println!(
            "| {name} | {count} | {:.1} MB | {:.2} MB | {ratio} | {goal} |",
            mb(whole),
            mb(disk)
        );
    };
    let ratio = first as f64 / baseline as f64;
    let added = second as f64 / baseline as f64;
    row(
        "first generation",
        &generations[0],
        first,
        format!("{ratio:.3}x"),
        format!("{FIRST_AT_MOST}x"),
    );
    let (share, goal) = (
        format!("{:.2} %", added * 100.0),
        format!("{:.1} %", SECOND_AT_MOST * 100.0),
    );
    row("second adds", &generations[1], second, share, goal);

    let measured: Vec<Measured> = all
        .iter()
        .map(|path| measure(&server, path, whole[*path]))
        .collect();
    let worst_kind = by_kind(&measured);
    worst(measured);
    drop(server);
    let recompressed = recompressed(&generations[0], baseline);
    let met = ratio <= FIRST_AT_MOST
        && added <= SECOND_AT_MOST
        && worst_kind <= KIND_AT_MOST
        && recompressed <= RECOMPRESSED_AT_MOST;
    let verdict = ["a goal was MISSED", "all goals met"];
    println!("\n{}", verdict[usize::from(met)]);
}

/// The first generation, recompressed, against `baseline`: the ratio at the default level.
fn recompressed(paths: &[String], baseline: u64) -> f64 {
    println!("\n| first, recompressed at level | on disk | ratio | CPU | of frames | goal |");
    println!("|---|---|---|---|---|---|");
    let mut of_default = f64::INFINITY;
    for level in LEVELS {
        eprintln!("recompressing the first generation at level {level}");
        let mut server = patient_server(level);
        let empty = disk_bytes(&mut server);
        push(&server, "", paths);
        let before = server.cpu_seconds();
        let done = ask(&server, "recompress");
        let seconds = server.cpu_seconds() - before;
        ask(&server, "gc");
        let disk = disk_bytes(&mut server) - empty;
        let ratio = disk as f64 / baseline as f64;
        let is_default = level == default_level();
        if is_default {
            of_default = ratio;
        }
        let mb_of = |key: &str| mb(done[key].as_u64().expect("a number of bytes"));
        println!(
            "| {level}{} | {:.2} MB | {ratio:.3}x | {seconds:.1} s, {:.1} MB/s of stored frames | \
             {:.1} to {:.1} MB | {RECOMPRESSED_AT_MOST}x |",
            if is_default { ", the default" } else { "" },
            mb(disk),
            mb_of("before_bytes") / seconds,
            mb_of("before_bytes"),
            mb_of("after_bytes"),
        );
    }
    of_default
}

/// A server to which everything is due, and whose clients forget URLs at once.
fn patient_server(level: u8) -> Snowcached {
    let folder = support::folder_on_disk();
    let config = folder.path().join("snowcached.toml");
    let text = format!(
        "[recompression]\nlevel = {level}\nmin_idle_s = 0\n[retention]\ngrace_s = 0\n\
         sweep_grace_s = 0\n"
    );
    std::fs::write(&config, text).expect("a configuration");
    let config = config.to_string_lossy().into_owned();
    Snowcached::start_with(folder, "info", &["--config", &config])
}

fn default_level() -> u8 {
    let shipped = std::fs::read_to_string(support::root().join("config/snowcached.toml"));
    let shipped: toml::Table = shipped.expect("it is there").parse().expect("TOML");
    let level = shipped["recompression"]["level"].as_integer();
    u8::try_from(level.expect("a level")).expect("1 to 19")
}

/// Has the server do something to its end; what it came to.
fn ask(server: &Snowcached, what: &str) -> Value {
    let url = format!("/api/v1/{what}");
    let http = server.http();
    let answer = http.request("POST", &url).bearer(&server.admin_token());
    let answer = answer.bytes(b"{}").send().is(200);
    let text = answer.text();
    let last = text.lines().last().expect("a line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert!(last["summary"].is_object(), "{what}: {last}");
    last["summary"].clone()
}

fn by_kind(measured: &[Measured]) -> f64 {
    println!("\n| kind | paths | whole NARs, zstd -3 | frames and recipes | ratio |");
    println!("|---|---|---|---|---|");
    let mut kinds: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for path in measured {
        let sums = kinds.entry(path.kind).or_default();
        *sums = (sums.0 + 1, sums.1 + path.whole, sums.2 + path.stored());
    }
    let mut worst: f64 = 0.0;
    for (kind, (paths, whole, stored)) in kinds {
        let ratio = stored as f64 / whole as f64;
        worst = worst.max(ratio);
        println!(
            "| {kind} | {paths} | {:.3} MB | {:.3} MB | {ratio:.2}x |",
            mb(whole),
            mb(stored)
        );
    }
    worst
}

fn worst(mut measured: Vec<Measured>) {
    measured.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
    println!("\n| worst paths | whole | stored | ratio | why |");
    println!("|---|---|---|---|---|");
    for path in measured.iter().take(10) {
        let (name, whole, stored, ratio) = (&path.name, path.whole, path.stored(), path.ratio());
        println!(
            "| {name} | {whole} B | {stored} B | {ratio:.2}x | {} |",
            path.why()
        );
    }
}

impl Measured {
    fn part(&self, what: &str) -> u64 {
        self.cost[what]
            .as_u64()
            .unwrap_or_else(|| panic!("no {what} in {}", self.cost))
    }

    fn stored(&self) -> u64 {
        self.part("frame_bytes") + self.part("recipe_bytes")
    }

    fn ratio(&self) -> f64 {
        self.stored() as f64 / self.whole as f64
    }

    fn why(&self) -> String {
        let frames = self.part("spans") + self.part("dense");
        let headers = 64 * frames + 73;
        let over = self.stored().saturating_sub(self.whole).max(1);
        if headers * 2 > over {
            return format!("{headers} B of headers: {frames} frames and a recipe");
        }
        let raw = self.part("span_bytes") + self.part("dense_bytes");
        let (literals, bytes) = (self.part("literals"), self.part("literal_bytes"));
        format!(
            "{frames} frames of {:.0} KiB each compressed alone, {literals} literals of {bytes} B",
            raw as f64 / 1024.0 / frames.max(1) as f64
        )
    }
}

fn measure(server: &Snowcached, path: &str, whole: u64) -> Measured {
    let base = path.trim_start_matches("/nix/store/");
    let (hash, name) = base.split_once('-').expect("a store path");
    let cost = server
        .http()
        .get(&format!("/api/v1/cost/{hash}"))
        .is(200)
        .json();
    Measured {
        name: name.to_owned(),
        kind: kind(name),
        whole,
        cost,
    }
}

fn kind(name: &str) -> &'static str {
    match name {
        _ if name.ends_with(".drv") => ".drv",
        _ if name.starts_with("nixos-system") => "toplevel",
        _ if name.ends_with(".service") => "etc (units)",
        "system-path" => "symlink farm",
        _ => "package",
    }
}

fn push(server: &Snowcached, option: &str, paths: &[String]) {
    let list = server.data().join("paths-to-push");
    std::fs::write(&list, paths.join("\n")).expect("a list of paths");
    let script = format!(
        "xargs -a {} nix copy {option} --no-check-sigs --to \"$PUSH?compression=zstd\"",
        list.display()
    );
    Node::this_machine()
        .sh(&User::of(server), &Nix::installed(), &script)
        .ok();
    std::fs::remove_file(list).expect("our own file");
}

/// All blocks of the depot, with everything flushed by a stop.
fn disk_bytes(server: &mut Snowcached) -> u64 {
    server.stop();
    let du = Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(server.depot())
        .output();
    let printed = String::from_utf8(du.expect("du runs").stdout).expect("du prints text");
    server.start_again();
    printed
        .split_whitespace()
        .next()
        .and_then(|bytes| bytes.parse().ok())
        .expect("a number")
}

fn whole_zstd(path: &str) -> u64 {
    let script = format!("nix-store --dump {path} | zstd -3 -c | wc -c");
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &script])
        .output();
    let output = output.expect("bash runs");
    assert!(output.status.success(), "{script} failed");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.trim().parse().expect("wc prints a number")
}

fn resolve(link: &Path) -> String {
    let path = std::fs::canonicalize(link);
    let path = path.unwrap_or_else(|e| panic!("{}: {e}; run: make test-setup", link.display()));
    path.to_string_lossy().into_owned()
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
