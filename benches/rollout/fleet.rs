//! P16: 5,000 nodes that ask at once how to go from one generation to the next, then 500 that
//! fetch, each at its share of a link of 1 Gbit/s; and what those notice who ask for narinfos.
//!
//! Everything runs on one machine: the CPU time is the server's alone, but those who wait for a
//! narinfo wait for the other clients, too.

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

use super::push;
use super::support::engine::procs;
use super::support::harness::corpus;
use super::support::harness::server::Snowcached;

/// Nodes of a large fleet that are told to go on at once.
const NODES: usize = 5_000;
/// Of these, those that fetch at a time.
const FETCHERS: usize = 500;
/// A 500th of 1 Gbit/s.
const FETCHER_BYTES_PER_S: usize = 250_000;
/// How long they do.
const FETCHING: Duration = Duration::from_secs(8);
/// Nodes that ask for narinfos meanwhile, each one after the other, with a pause between two.
const WALKERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(5);

/// The row.
pub fn row(tops: [&str; 2]) {
    let folder = super::support::harness::folder_on_disk();
    let config = folder.path().join("snowcached.toml");
    std::fs::write(&config, "[http]\nmax_connections = 8192\n").expect("a file");
    let config = config.to_string_lossy().into_owned();
    let data = super::support::harness::folder_on_disk();
    let server = Snowcached::start_with(data, "warn", &["--config", &config]);
    push(&server, &tops);
    measure(&server, tops);
}

fn measure(server: &Snowcached, tops: [&str; 2]) {
    let (question, narinfos) = question(server, tops);
    let runtime = Runtime::new().expect("threads");
    let mut walking = Builder::new_multi_thread();
    let walking = walking.worker_threads(1).enable_all().build();
    let walking = walking.expect("a thread");
    let address = server.address();
    let fleet = Arc::new(Fleet {
        address,
        narinfos,
        walking: walking.handle().clone(),
        plan: post("/api/v1/plan", &question),
    });
    let nothing = async { sleep(Duration::from_secs(3)).await };
    let calm = runtime.block_on(fleet.clone().walked(nothing));
    let (made, cpu) = (
        figure(server, "snowcache_plans_made_total "),
        server_cpu(server),
    );
    let watch = procs::Watch::begin(server.pid());
    let begin = Instant::now();
    let asked = runtime.block_on(fleet.clone().walked(fleet.clone().asked()));
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = (server_cpu(server) - cpu) / NODES as f64;
    let made = figure(server, "snowcache_plans_made_total ") - made;
    let fetching = runtime.block_on(fleet.clone().walked(fleet.clone().fetched()));
    let own_mb = watch.most().0 as f64 / 1e3;
    println!(
        "{NODES} ask for {} paths: made {made} times, {:.2} ms of CPU each, all answered in \
         {seconds:.1} s; {FETCHERS} fetchers; own memory {own_mb:.0} MB at most",
        fleet.narinfos.len(),
        cpu * 1e3
    );
    println!("| narinfos | calm | while {NODES} ask | while {FETCHERS} fetch |");
    println!("|---|---|---|---|");
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let [calm, asked, fetching] =
            [&calm, &asked, &fetching].map(|it| it[(it.len() as f64 * share) as usize] * 1e3);
        println!(
            "| {name} | {calm:.2} ms | {asked:.2} ms, {:.1}x | {fetching:.2} ms, {:.1}x |",
            asked / calm,
            fetching / calm
        );
    }
}

struct Fleet {
    address: std::net::SocketAddr,
    /// Of the second generation: their paths, and those of their NARs.
    narinfos: Vec<(String, String)>,
    /// A thread of their own for those who ask for narinfos: they wait for the server, and not for
    /// thousands of others in this program.
    walking: Handle,
    /// The request for a plan.
    plan: Vec<u8>,
}

impl Fleet {
    /// Everybody asks at once; all get the same.
    async fn asked(self: Arc<Fleet>) {
        let ready = Arc::new(Barrier::new(NODES));
        let nodes = (0..NODES).map(|_| {
            let (fleet, ready) = (self.clone(), ready.clone());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(fleet.address).await.expect("connected");
                ready.wait().await;
                stream.write_all(&fleet.plan).await.expect("asked");
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
                    let mut stream = TcpStream::connect(fleet.address).await.expect("connected");
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
                let mut stream = TcpStream::connect(fleet.address).await.expect("connected");
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

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
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
fn question(server: &Snowcached, tops: [&str; 2]) -> (Vec<u8>, Vec<(String, String)>) {
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
    (delta::question(&pairs), paths.collect())
}

fn figure(server: &Snowcached, name: &str) -> f64 {
    let text = server.http().get("/metrics").is(200).text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or(0.0)
}

fn server_cpu(server: &Snowcached) -> f64 {
    procs::used(server.pid()).expect("it runs").cpu_seconds
}
