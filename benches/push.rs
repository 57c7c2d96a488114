//! What a push takes: `snowcache push` beside `nix copy` with zstd at the same level, to the same
//! server: a closure that is not there, its mass rebuild, and two thousand paths that are there.
//!
//! ```text
//! cargo bench --bench push                        the quick corpus that `make test-setup` makes
//! cargo bench --bench push -- CORPUS-FOLDER       one that tests/corpus/make-corpus.sh made
//! ```
//!
//! Each round gives either of them a server of its own with an empty depot, in turn which goes
//! first. What both servers say of each path, the signed facts and the bytes of its NAR, must be
//! the same. CPU seconds are those of the client with all its children, and of the server.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use support::corpus::{closure, sha256};
use support::nix::{Nix, Node, User, inputs};
use support::server::{Snowcached, binary};

const ROUNDS: usize = 5;
/// Paths that are there already.
const IDLE_PATHS: usize = 2_000;
/// Clock ticks a second in /proc/PID/stat (man 5 proc).
const TICKS: f64 = 100.0;

/// How a closure gets there.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    NixCopy,
    SnowcachePush,
}

/// What one push took.
#[derive(Clone, Copy)]
struct Took {
    wall_s: f64,
    client_cpu_s: f64,
    server_cpu_s: f64,
}

/// What both generations took, and what the server says afterwards.
struct Round {
    took: [Took; 2],
    said: BTreeMap<String, String>,
}

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let folder = folder.map_or(inputs().join("corpus-120"), PathBuf::from);
    let tops = ["top1", "top2"].map(|top| resolve(&folder.join(top)));
    println!("| round | what | nix copy | snowcache push | wall | CPU |");
    println!("|---|---|---|---|---|---|");
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        let mut ways = [Way::NixCopy, Way::SnowcachePush];
        ways.rotate_left(round % 2);
        let mut rounds = ways.map(|way| (way, push_both(way, &tops)));
        rounds.sort_by_key(|(way, _)| *way == Way::SnowcachePush);
        let [(_, copied), (_, pushed)] = rounds;
        assert_eq!(copied.said, pushed.said, "both ways give the same cache");
        for (at, what) in ["cold", "rebuild"].into_iter().enumerate() {
            let (copied, pushed) = (copied.took[at], pushed.took[at]);
            let ratio = pushed.wall_s / copied.wall_s;
            ratios[at].push(ratio);
            println!(
                "| {round} | {what} | {} | {} | {ratio:.2}x | {:.2}x |",
                copied.text(),
                pushed.text(),
                pushed.cpu_s() / copied.cpu_s()
            );
        }
    }
    for (ratios, (what, goal)) in ratios.into_iter().zip([("P10", 0.65), ("P11", 0.25)]) {
        println!(
            "{what}: {} of nix copy, the goal is {goal}x",
            middle(ratios)
        );
    }
    idle();
}

impl Took {
    fn cpu_s(&self) -> f64 {
        self.client_cpu_s + self.server_cpu_s
    }

    fn text(&self) -> String {
        format!(
            "{:.2} s, CPU {:.2} + {:.2} s",
            self.wall_s, self.client_cpu_s, self.server_cpu_s
        )
    }
}

/// The middle of the ratios, and their ends.
fn middle(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    format!("{:.2}x ({least:.2} to {most:.2})", ratios[ratios.len() / 2])
}

fn resolve(link: &Path) -> String {
    let path = std::fs::canonicalize(link);
    let path = path.unwrap_or_else(|e| panic!("{}: {e}; run: make test-setup", link.display()));
    path.to_string_lossy().into_owned()
}

/// Somebody with the client at hand.
fn user_of(server: &Snowcached) -> User {
    let mut user = User::of(server);
    user.variable("SNOWCACHE", &binary("snowcache").to_string_lossy());
    user.variable("SNOWCACHE_URL", &server.url());
    user.variable("SNOWCACHE_TOKEN", &server.push_token());
    user
}

fn push_both(way: Way, tops: &[String; 2]) -> Round {
    let server = Snowcached::start_with(support::folder_on_disk(), "warn", &[]);
    let user = user_of(&server);
    let took = tops.each_ref().map(|top| {
        let script = match way {
            Way::NixCopy => format!(
                "nix copy --to '{}?compression=zstd&compression-level=3' {top}",
                server.push_url()
            ),
            Way::SnowcachePush => format!("$SNOWCACHE push -q {top}"),
        };
        timed(&server, &user, &Node::this_machine(), &script)
    });
    Round {
        took,
        said: say(&server, &tops[1]),
    }
}

/// Runs a script and tells what it took.
fn timed(server: &Snowcached, user: &User, node: &Node, script: &str) -> Took {
    let script =
        format!("TIMEFORMAT='%R %U %S'\n{{ time {{ {script} ; }} >said 2>&1 ; }} 2>took\ncat took");
    let server_cpu = server_cpu_s(server);
    let ran = node.sh(user, &Nix::installed(), &script);
    let figures = ran.ok();
    let figures = figures.lines().last().expect("times").split(' ');
    let figures: Vec<f64> = figures.map(|text| text.parse().expect("seconds")).collect();
    Took {
        wall_s: figures[0],
        client_cpu_s: figures[1] + figures[2],
        server_cpu_s: server_cpu_s(server) - server_cpu,
    }
}

/// CPU seconds that the server has used.
fn server_cpu_s(server: &Snowcached) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("stat");
    let behind_name = stat.rsplit_once(')').expect("a name in brackets").1;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / TICKS
}

/// What the server says of each path of a closure, but for its own names and signatures: the facts
/// of its narinfo, and the hash of the NAR that it serves.
fn say(server: &Snowcached, top: &str) -> BTreeMap<String, String> {
    let about = |path: String| {
        let hash = &path["/nix/store/".len()..][..32];
        let narinfo = server
            .http()
            .get(&format!("/{hash}.narinfo"))
            .is(200)
            .text();
        let ours = ["URL", "FileSize", "Sig"];
        let facts = narinfo
            .lines()
            .filter(|line| !ours.iter().any(|own| line.starts_with(own)));
        let mut facts: Vec<String> = facts.map(str::to_owned).collect();
        let nar = narinfo
            .lines()
            .find_map(|line| line.strip_prefix("NarHash: sha256:"));
        let nar = format!("/nar/{}.nar", nar.expect("a hash"));
        let bytes = server.http().get(&nar).is(200).body;
        facts.push(format!("{:02x?}", sha256(&bytes[..])));
        (path, facts.join("\n"))
    };
    closure(top).into_iter().map(about).collect()
}

/// Two thousand paths that are there: what the whole command takes, and what the server's one
/// answer takes.
fn idle() {
    let server = Snowcached::start();
    let (user, node) = (user_of(&server), Node::empty());
    let make = format!(
        "mkdir files; for n in $(seq {IDLE_PATHS}); do echo $n > files/$n; done\n\
         nix-store --add files/* > paths; $SNOWCACHE push -q - < paths; cat paths"
    );
    let said = node.sh(&user, &Nix::installed(), &make).ok();
    let paths: Vec<&str> = said.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(paths.len(), IDLE_PATHS);
    let hashes: Vec<&str> = paths.iter().map(|path| &path[11..43]).collect();
    let question = json!({ "hashes": hashes }).to_string();
    for round in 1..=ROUNDS {
        let took = timed(&server, &user, &node, "$SNOWCACHE push -q - < paths");
        let copied = format!("nix copy --to '{}' $(cat paths)", server.push_url());
        let copied = timed(&server, &user, &node, &copied);
        let begin = Instant::now();
        let request = server.http().request("POST", "/api/v1/missing");
        let answer = request.bytes(question.as_bytes()).send().is(200).text();
        let asked = begin.elapsed();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["missing"], json!([]));
        println!(
            "{round}: {IDLE_PATHS} paths there: {}; nix copy {}; the one request {:.1} ms",
            took.text(),
            copied.text(),
            asked.as_secs_f64() * 1e3
        );
    }
}
