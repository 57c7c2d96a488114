//! The load generator's command line (see benches/load.rs).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde_json::{Value, json};

use super::engine::ask::Ask;
use super::engine::catalog::Catalog;
use super::engine::closed::{Closed, Until, closed};
use super::engine::mix::Mix;
use super::engine::open::{Open, Schedule, open};
use super::engine::replay::Recording;
use super::engine::slow::{self, Held};
use super::engine::tally::Tally;
use super::engine::target::Target;
use super::engine::verify::verify;
use super::engine::walk::{Walk, walk};

/// Asks a binary cache and says how it answered.
#[derive(Parser)]
#[command(name = "load")]
struct Arguments {
    /// The cache: http://HOST[:PORT][/PREFIX] or https://…
    #[arg(long)]
    url: String,
    /// A certificate (PEM) to believe, in place of the machine's.
    #[arg(long)]
    trusted: Option<PathBuf>,
    /// What to ask about: store paths or their hash parts. Repeat it.
    #[arg(long = "path")]
    paths: Vec<String>,
    /// And all that they refer to.
    #[arg(long)]
    closure: bool,
    /// Requests and their weights, of narinfo-hit, narinfo-head, narinfo-miss, nar, nar-small,
    /// nar-big.
    #[arg(long, default_value = "narinfo-hit")]
    mix: Mix,
    /// Ask Snowcache for uncompressed NARs instead of those that the narinfos name.
    #[arg(long)]
    uncompressed: bool,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// So many requests in place of so many seconds.
    #[arg(long)]
    requests: Option<u64>,
    /// Open loop: so many requests are due each second.
    #[arg(long)]
    rate: Option<f64>,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The server's process: its CPU time and memory are measured, its children's as well.
    #[arg(long)]
    pid: Option<u32>,
    /// Fetch whole closures of the paths, as clients do: --clients of them at once, each over
    /// --connections.
    #[arg(long)]
    walk: bool,
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Ask again what this log asked (nginx's combined form, or lines of SECONDS METHOD PATH STATUS
    /// BYTES), at its own times.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// So many times faster than it was recorded.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Hold so many connections that only cost while the rest is measured.
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// What they do: heads (half a request), readers (1 KB of the biggest NAR), idle.
    #[arg(long, default_value = "readers")]
    slow_kind: slow::Kind,
    /// Before that, fetch every NAR, unpack it and compare its hash.
    #[arg(long)]
    verify: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// JSON in place of text.
    #[arg(long)]
    json: bool,
}

/// Runs as told by these arguments (the first is the program's name).
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments = Arguments::parse_from(arguments);
    match run(&arguments) {
        Ok(tally) => {
            let result = result(&tally);
            match arguments.json {
                true => println!("{result:#}"),
                false => print(&tally, &result),
            }
            ExitCode::from(u8::from(tally.flaw().is_some()))
        }
        Err(why) => {
            eprintln!("load: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<Tally, String> {
    let target = Target::parse(&arguments.url, arguments.trusted.as_deref());
    let target = target.map_err(|error| error.to_string())?;
    let catalog = catalog(&target, arguments)?;
    if arguments.verify {
        let bytes = verify(&target, &catalog)?;
        eprintln!(
            "{} NARs, {bytes} bytes: every one as its narinfo says",
            catalog.items.len()
        );
    }
    let _held = held(&target, &catalog, arguments)?;
    if let Some(log) = &arguments.replay {
        return replay(&target, log, arguments);
    }
    if arguments.walk {
        return walks(&target, arguments);
    }
    let asks = arguments.mix.asks(&target, &catalog, arguments.seed);
    if asks.is_empty() {
        return Err("nothing to ask about: name paths with --path".to_owned());
    }
    ask(&target, &asks, arguments)
}

/// The connections that only cost.
fn held(target: &Target, catalog: &Catalog, arguments: &Arguments) -> Result<Option<Held>, String> {
    if arguments.slow == 0 {
        return Ok(None);
    }
    let biggest = catalog.items.iter().max_by_key(|item| item.nar_size);
    let biggest = biggest.ok_or("--slow needs a --path to ask for")?;
    let path = match arguments.slow_kind {
        slow::Kind::Idle => biggest.narinfo_path(),
        _ => biggest.url.clone(),
    };
    let held = Held::hold(target, arguments.slow_kind, arguments.slow, &path);
    eprintln!("{} connections stand still", held.count);
    match &held.complaint {
        Some(complaint) => Err(format!("the next one: {complaint}")),
        None => Ok(Some(held)),
    }
}

fn replay(target: &Target, log: &Path, arguments: &Arguments) -> Result<Tally, String> {
    let text = fs::read_to_string(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let recording = Recording::read(target, &text, arguments.speed);
    let (count, left_out) = (recording.asks.len(), recording.left_out);
    eprintln!("{count} requests; {left_out} lines are none that reads");
    if count == 0 {
        return Err(format!("{}: nothing in it to ask", log.display()));
    }
    let plan = Open {
        schedule: recording.schedule,
        connections: arguments.connections,
        pid: arguments.pid,
    };
    open(target, &recording.asks, plan).map_err(|error| error.to_string())
}

fn walks(target: &Target, arguments: &Arguments) -> Result<Tally, String> {
    let plan = Walk {
        clients: arguments.clients,
        closures_each: 1,
        connections: arguments.connections,
        roots: hashes(arguments)?,
        pid: arguments.pid,
    };
    if plan.roots.is_empty() {
        return Err("--walk needs a --path to begin with".to_owned());
    }
    let walked = walk(target, &plan);
    let slowest = walked.closures.iter().copied().fold(0.0, f64::max);
    eprintln!(
        "{} closures, the slowest in {slowest:.3} s",
        walked.closures.len()
    );
    Ok(walked.tally)
}

fn ask(target: &Target, asks: &Arc<[Ask]>, arguments: &Arguments) -> Result<Tally, String> {
    if let Some(per_second) = arguments.rate {
        let plan = Open {
            schedule: Schedule::Rate(per_second, arguments.seconds),
            connections: arguments.connections,
            pid: arguments.pid,
        };
        return open(target, asks, plan).map_err(|error| error.to_string());
    }
    let until = match arguments.requests {
        Some(requests) => Until::Requests(requests),
        None => Until::Seconds(arguments.seconds),
    };
    let plan = Closed {
        connections: arguments.connections,
        until,
        threads: arguments.threads,
        pid: arguments.pid,
    };
    Ok(closed(target, asks, plan))
}

fn hashes(arguments: &Arguments) -> Result<Vec<String>, String> {
    let hash = |path: &String| -> Result<String, String> {
        let base = path.trim_start_matches("/nix/store/");
        let hash = base.get(..32).map(str::to_owned);
        hash.ok_or_else(|| format!("{path}: neither a store path nor its 32 characters"))
    };
    arguments.paths.iter().map(hash).collect()
}

fn catalog(target: &Target, arguments: &Arguments) -> Result<Catalog, String> {
    let hashes = hashes(arguments)?;
    let read = if arguments.closure {
        Catalog::walk
    } else {
        Catalog::read
    };
    let catalog = read(target, &hashes).map_err(|error| error.to_string())?;
    Ok(if arguments.uncompressed {
        catalog.uncompressed()
    } else {
        catalog
    })
}

/// A run as JSON.
pub fn result(tally: &Tally) -> Value {
    let quantiles = [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p99", 0.99),
        ("p999", 0.999),
        ("max", 1.0),
    ];
    let latency: serde_json::Map<String, Value> = quantiles
        .iter()
        .map(|(name, share)| ((*name).to_owned(), json!(tally.latency_ms(*share))))
        .collect();
    json!({
        "right": tally.right,
        "wrong": tally.wrong,
        "broken": tally.broken,
        "complaints": tally.complaints,
        "seconds": tally.seconds,
        "answers_per_second": tally.per_second(),
        "body_bytes": tally.body_bytes,
        "latency_ms": latency,
        "generator_cpu_seconds": tally.own_cpu_seconds,
        "server": tally.server.map(|server| json!({
            "cpu_seconds": server.cpu_seconds,
            "cpu_us_per_answer": tally.server_us_per_answer(),
            "resident_kib": server.resident_kib,
            "own_kib": server.own_kib,
            "read_bytes": server.read_bytes,
            "written_bytes": server.written_bytes,
        })),
    })
}

fn print(tally: &Tally, result: &Value) {
    let Tally {
        right,
        wrong,
        broken,
        ..
    } = tally;
    println!(
        "answers    {right} right, {wrong} wrong, {broken} broken in {:.2} s",
        tally.seconds
    );
    for complaint in &tally.complaints {
        println!("           {complaint}");
    }
    println!(
        "rate       {:.0} /s, {:.1} MB/s",
        tally.per_second(),
        tally.mb_per_second()
    );
    let latency = &result["latency_ms"];
    let ms = |name: &str| latency[name].as_f64().unwrap_or(0.0);
    println!(
        "latency    p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, longest {:.3}",
        ms("p50"),
        ms("p90"),
        ms("p99"),
        ms("p999"),
        ms("max")
    );
    if let (Some(server), Some(us)) = (tally.server, tally.server_us_per_answer()) {
        println!(
            "server     {:.2} CPU s, {us:.1} us an answer",
            server.cpu_seconds
        );
        println!(
            "           {:.1} MB resident, {:.1} MB its own; {} bytes read, {} written",
            server.resident_kib as f64 / 1e3,
            server.own_kib as f64 / 1e3,
            server.read_bytes,
            server.written_bytes
        );
    }
    println!("generator  {:.2} CPU s", tally.own_cpu_seconds);
    if tally.generator_bound(1) {
        println!("           it was busy all the time: the server may be faster than this says");
    }
}
