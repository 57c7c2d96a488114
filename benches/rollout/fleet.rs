//! P16: 5,000 nodes that ask at once how to go from one generation to the next, then 500 that
//! fetch, each at its share of a link of 1 Gbit/s; and what those notice who ask for narinfos: of
//! snowcached, of a hyper that does nothing but answer, and of another snowcached if one is given.
//!
//! ```text
//!   calm         16 walk
//!   asked        16 walk, 5,000 ask        of snowcached, then of hyper with such a plan, in turn
//!   fetching     16 walk, 500 fetch
//! ```
//! Everything runs on one machine: the CPU time is the server's alone, but who waits for a narinfo
//! waits for a core, too. In a fleet each node has its own, so those that ask and fetch get here
//! what the server and the walkers leave (SCHED_IDLE): 50 MB of questions take as long as over a
//! link of 1 Gbit/s. What the machine has in it all the same is in hyper's figures, too.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use snowcache_core::alike;
use snowcache_core::delta::{self, Pair};
use snowcache_nix::{NarInfo, StorePath};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Barrier;
use tokio::time::sleep;

use super::support::engine::procs;
use super::support::harness::corpus;
use super::support::harness::server::Snowcached;
use super::support::peers::OURS;
use super::support::peers::least::{Fixed, LEAST, Least};
use super::support::report::Spread;
use super::support::report::markdown::show;

/// How often, unless `SNOWCACHE_BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 3;
/// Nodes of a large fleet that are told to go on at once.
const NODES: usize = 5_000;
/// Of these, those that fetch at a time.
const FETCHERS: usize = 500;
/// A 500th of 1 Gbit/s.
const FETCHER_BYTES_PER_S: usize = 250_000;
/// How long they do.
const FETCHING: Duration = Duration::from_secs(8);
/// How long nobody does, before.
const CALM: Duration = Duration::from_secs(3);
/// Nodes that ask for narinfos meanwhile, each one after the other, with a pause between two.
const WALKERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(5);
/// What is told of the walkers' times.
const SHARE: f64 = 0.99;

/// Another snowcached.
const BEFORE: &str = "the one before";

/// The row, of a server that takes more connections than there are nodes.
pub fn row(server: &Snowcached, before: Option<&Snowcached>, tops: [&str; 2]) {
    let (pairs, narinfos) = question(server, tops);
    let (walking, nodes) = (runtime(1, || {}), runtime(2, yield_to_all));
    let ours = Fleet {
        plans: server.address(),
        narinfos_at: server.address(),
        nars: server.address(),
        narinfos,
        walking: walking.handle().clone(),
    };
    let (begin, before_s) = (Instant::now(), cpu_seconds(server.pid()));
    let plan = nodes.block_on(Arc::new(ours.clone()).asked(1, ask(&pairs)));
    let (took, cpu_s) = (begin.elapsed(), cpu_seconds(server.pid()) - before_s);
    println!(
        "a plan of {} pairs is made in {took:.3?}, {cpu_s:.3} s of CPU",
        pairs.len()
    );
    let least = least(server, &ours, plan);
    let at = |number| SocketAddr::from(([127, 0, 0, 1], least.port(number)));
    let theirs = Fleet {
        narinfos_at: at(0),
        plans: at(1),
        nars: at(2),
        ..ours.clone()
    };
    let earlier = before.map(|before| {
        let at = before.address();
        let fleet = Fleet {
            plans: at,
            narinfos_at: at,
            nars: at,
            narinfos: question(before, tops).1,
            ..ours.clone()
        };
        (BEFORE, before.pid(), fleet)
    });
    let sides = [(OURS, server.pid(), ours), (LEAST, least.pid(), theirs)];
    let sides = sides.into_iter().chain(earlier);
    let mut sides: Vec<Side> = sides.map(Side::new).collect();
    let watch = procs::Watch::begin(server.pid());
    let rounds = super::rounds_or(ROUNDS);
    for round in 0..rounds {
        // Another plan each time, so that it is made while all ask for it.
        let mut pairs = pairs.clone();
        pairs.remove(round % pairs.len());
        let all = sides.len();
        for turn in 0..all {
            sides[(round + turn) % all].measure(&nodes, ask(&pairs));
        }
    }
    let (made, own_mb) = (plans_made(server) - 1.0, watch.most().0 as f64 / 1e3);
    println!("{rounds} plans were made {made} times; own memory {own_mb:.0} MB at most");
    tell(&sides);
}

/// Threads for clients; each does `begin` first.
fn runtime(threads: usize, begin: fn()) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(threads).on_thread_start(begin);
    builder.enable_all().build().expect("threads")
}

/// From now on this thread runs where no other wants to.
fn yield_to_all() {
    let thread = rustix::thread::gettid().to_string();
    let mut command = Command::new("chrt");
    let status = command.args(["--idle", "--pid", "0", &thread]).status();
    assert!(status.expect("chrt (util-linux) runs").success());
}

/// A hyper that gives a narinfo of middling length, this plan, and a NAR of middling length.
fn least(server: &Snowcached, ours: &Fleet, plan: Vec<u8>) -> Least {
    let middle = |of: fn(&(String, String)) -> &String| {
        let bodies = ours.narinfos.iter().map(of);
        let bodies = bodies.map(|path| server.http().get(path).is(200).body);
        let mut bodies: Vec<Vec<u8>> = bodies.collect();
        bodies.sort_by_key(Vec::len);
        bodies.swap_remove(bodies.len() / 2)
    };
    let fixed = |content_type, body| Fixed {
        status: 200,
        content_type,
        body,
    };
    let fixed = [
        fixed("text/x-nix-narinfo", middle(|(narinfo, _)| narinfo)),
        fixed("application/octet-stream", plan),
        fixed("application/x-nix-nar", middle(|(_, nar)| nar)),
    ];
    Least::start(&fixed).expect("it starts")
}

/// A server that is asked, and what was seen of it, a figure a round.
struct Side {
    name: &'static str,
    pid: u32,
    fleet: Arc<Fleet>,
    /// What 99 of 100 narinfos do not exceed, in ms: calm, while all ask, while some fetch.
    noticed: [Vec<f64>; 3],
    /// Of a plan.
    cpu_ms: Vec<f64>,
}

impl Side {
    fn new((name, pid, fleet): (&'static str, u32, Fleet)) -> Side {
        Side {
            name,
            pid,
            fleet: Arc::new(fleet),
            noticed: [const { Vec::new() }; 3],
            cpu_ms: Vec::new(),
        }
    }

    fn measure(&mut self, nodes: &Runtime, ask: Arc<[u8]>) {
        let fleet = &self.fleet;
        let calm = nodes.block_on(fleet.clone().walked(async { sleep(CALM).await }));
        let (begin, before) = (Instant::now(), cpu_seconds(self.pid));
        let asked = nodes.block_on(fleet.clone().walked(async {
            fleet.clone().asked(NODES, ask).await;
        }));
        let cpu = cpu_seconds(self.pid) - before;
        let seconds = begin.elapsed().as_secs_f64();
        let fetching = match super::wanted("P16") {
            true => nodes.block_on(fleet.clone().walked(fleet.clone().fetched())),
            false => Vec::new(),
        };
        self.cpu_ms.push(cpu * 1e3 / NODES as f64);
        for (told, times) in self.noticed.iter_mut().zip([calm, asked, fetching]) {
            told.extend(p99_ms(&times));
        }
        let [calm, asked, _] = &self.noticed;
        eprintln!(
            "{}: {NODES} were answered in {seconds:.2} s, narinfos {:?} ms, calm {:?}",
            self.name,
            asked.last(),
            calm.last()
        );
    }

    /// Of one to another, round by round.
    fn ratio(one: &[f64], other: &[f64]) -> String {
        let ratios = one.iter().zip(other).map(|(one, other)| one / other);
        told(&ratios.collect::<Vec<f64>>())
    }
}

fn told(figures: &[f64]) -> String {
    Spread::of(figures).map_or(String::new(), show)
}

/// Of times in seconds, which rise.
fn p99_ms(times: &[f64]) -> Option<f64> {
    Some(times.get((times.len() as f64 * SHARE) as usize)? * 1e3)
}

fn tell(sides: &[Side]) {
    println!(
        "| p99 of narinfos | calm, ms | while {NODES} ask, ms | of calm | while {FETCHERS} fetch, \
         ms | of calm | CPU of a plan, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for side in sides {
        let [calm, asked, fetching] = &side.noticed;
        println!(
            "| {} | {} | {} | {}x | {} | {}x | {} |",
            side.name,
            told(calm),
            told(asked),
            Side::ratio(asked, calm),
            told(fetching),
            Side::ratio(fetching, calm),
            told(&side.cpu_ms)
        );
    }
    let (ours, others) = sides.split_first().expect("there are two and more");
    for theirs in others {
        let [calm, asked, fetching] =
            [0, 1, 2].map(|number| Side::ratio(&ours.noticed[number], &theirs.noticed[number]));
        let cpu = Side::ratio(&ours.cpu_ms, &theirs.cpu_ms);
        let of = theirs.name;
        println!("| {OURS} of {of} | {calm}x | {asked}x | | {fetching}x | | {cpu}x |");
    }
}

#[derive(Clone)]
struct Fleet {
    /// Who is asked for plans, for narinfos and for NARs.
    plans: SocketAddr,
    narinfos_at: SocketAddr,
    nars: SocketAddr,
    /// Of the second generation: their paths, and those of their NARs.
    narinfos: Vec<(String, String)>,
    /// A thread of their own for those who ask for narinfos: they wait for the server, and not for
    /// thousands of others in this program.
    walking: Handle,
}

impl Fleet {
    /// So many ask at once; all get the same, which is returned.
    async fn asked(self: Arc<Fleet>, nodes: usize, ask: Arc<[u8]>) -> Vec<u8> {
        let ready = Arc::new(Barrier::new(nodes));
        let nodes = (0..nodes).map(|_| {
            let (fleet, ready, ask) = (self.clone(), ready.clone(), ask.clone());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(fleet.plans).await.expect("connected");
                ready.wait().await;
                stream.write_all(&ask).await.expect("asked");
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.expect("answered");
                let head = answer
                    .windows(4)
                    .position(|it| it == b"\r\n\r\n")
                    .expect("a head");
                assert!(answer.starts_with(b"HTTP/1.1 200"), "not refused");
                unchunked(&answer[..head], &answer[head + 4..])
            })
        });
        let nodes: Vec<_> = nodes.collect();
        let mut first = None;
        for node in nodes {
            let plan = node.await.expect("no panic");
            assert!(*first.get_or_insert_with(|| plan.clone()) == plan);
        }
        first.expect("somebody asked")
    }

    /// Some fetch NARs for a while, slowly.
    async fn fetched(self: Arc<Fleet>) {
        let (over, fetched) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let fetchers = (0..FETCHERS).map(|number| {
            let (fleet, over, fetched) = (self.clone(), over.clone(), fetched.clone());
            tokio::spawn(async move {
                let mut nars = fleet.narinfos.iter().cycle().skip(number * 7);
                while !over.load(Ordering::Relaxed) {
                    let (_, url) = nars.next().expect("endless");
                    let mut stream = TcpStream::connect(fleet.nars).await.expect("connected");
                    stream.write_all(&get(url)).await.expect("asked");
                    let mut piece = vec![0; FETCHER_BYTES_PER_S / 8];
                    while let Ok(len @ 1..) = stream.read(&mut piece).await {
                        fetched.fetch_add(len, Ordering::Relaxed);
                        sleep(Duration::from_millis(125)).await;
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
            })
        });
        let fetchers: Vec<_> = fetchers.collect();
        sleep(FETCHING).await;
        over.store(true, Ordering::Relaxed);
        for fetcher in fetchers {
            fetcher.await.expect("no panic");
        }
        let rate = fetched.load(Ordering::Relaxed) as f64 / FETCHING.as_secs_f64();
        println!("{FETCHERS} fetched {:.0} MB/s together", rate / 1e6);
    }

    /// How long narinfos take while something goes on, in seconds, rising.
    async fn walked(self: Arc<Fleet>, what: impl Future<Output = ()>) -> Vec<f64> {
        let over = Arc::new(AtomicBool::new(false));
        let walkers = (0..WALKERS).map(|number| {
            let (fleet, over) = (self.clone(), over.clone());
            self.walking.spawn(async move {
                let mut times = Vec::new();
                let mut stream = TcpStream::connect(fleet.narinfos_at)
                    .await
                    .expect("connected");
                let mut paths = fleet.narinfos.iter().cycle().skip(number * 5);
                let mut answer = vec![0; 64 << 10];
                while !over.load(Ordering::Relaxed) {
                    let (path, _) = paths.next().expect("endless");
                    let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
                    let begin = Instant::now();
                    stream.write_all(ask.as_bytes()).await.expect("asked");
                    let len = stream.read(&mut answer).await.expect("answered");
                    assert!(answer[..len].starts_with(b"HTTP/1.1 200"));
                    times.push(begin.elapsed().as_secs_f64());
                    sleep(PAUSE).await;
                }
                times
            })
        });
        let walkers: Vec<_> = walkers.collect();
        what.await;
        over.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for walker in walkers {
            times.extend(walker.await.expect("no panic"));
        }
        times.sort_by(f64::total_cmp);
        times
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes()
}

/// The request for a plan.
fn ask(pairs: &[Pair]) -> Arc<[u8]> {
    let body = delta::question(pairs);
    let head = format!(
        "POST /api/v1/plan HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat().into()
}

/// The body, which those who ask while a plan is made get in chunks.
fn unchunked(head: &[u8], mut body: &[u8]) -> Vec<u8> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !head.contains("transfer-encoding: chunked") {
        return body.to_vec();
    }
    let mut whole = Vec::new();
    loop {
        let end = body
            .windows(2)
            .position(|it| it == b"\r\n")
            .expect("a chunk");
        let len = std::str::from_utf8(&body[..end]).expect("hex");
        let len = usize::from_str_radix(len, 16).expect("hex");
        if len == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + len]);
        body = &body[end + 4 + len..];
    }
}

/// What a node asks that has the first generation, and what there is of the second.
fn question(server: &Snowcached, tops: [&str; 2]) -> (Vec<Pair>, Vec<(String, String)>) {
    let http = server.http();
    let narinfo = |path: &StorePath| {
        http.get(&format!("/{}.narinfo", path.hash()))
            .is(200)
            .text()
    };
    let closures = tops.map(|top| {
        let paths = corpus::closure(top).into_iter();
        let paths = paths.map(|path| StorePath::from_absolute(&path).expect("a path"));
        paths.collect::<Vec<_>>()
    });
    let pair = |(wanted, old): (StorePath, StorePath)| Pair {
        wanted: wanted.hash(),
        old: old.hash(),
        old_nar: NarInfo::parse(&narinfo(&old)).expect("a narinfo").nar_hash,
    };
    let pairs = alike::likely(&closures[1], &closures[0], &|_| Some(()));
    let pairs: Vec<Pair> = pairs.into_iter().map(pair).collect();
    let paths = closures[1].iter().map(|path| {
        let text = narinfo(path);
        let url = NarInfo::parse(&text).expect("a narinfo").url.to_owned();
        (format!("/{}.narinfo", path.hash()), format!("/{url}"))
    });
    (pairs, paths.collect())
}

fn plans_made(server: &Snowcached) -> f64 {
    let text = server.http().get("/metrics").is(200).text();
    let name = "snowcache_plans_made_total ";
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or(0.0)
}

fn cpu_seconds(pid: u32) -> f64 {
    procs::used(pid).expect("it runs").cpu_seconds
}
