//! The bench's own promises: what it counts is what the servers were asked, wrong bytes are never
//! counted as fast, a stall is charged to whoever stalled, and the report has the shape that it
//! says.

#[path = "../benches/support/mod.rs"]
mod benches;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use benches::corpus::Corpus;
use benches::engine::ask::{Ask, Expect};
use benches::engine::catalog::Catalog;
use benches::engine::closed::{Closed, closed};
use benches::engine::mix::Mix;
use benches::engine::open::{Open, Schedule, open};
use benches::engine::replay::Recording;
use benches::engine::slow;
use benches::engine::target::Target;
use benches::engine::verify::verify;
use benches::engine::walk::{Walk, walk};
use benches::peers::certificate::Certificate;
use benches::peers::nginx::Nginx;
use benches::peers::{OURS, YARDSTICK, snowcache};
use benches::report::machine::Machine;
use benches::report::{Limit, Report, Row, json, markdown, plots};

/// What a server of the test's own answers to a request of this number.
type Say = fn(u64) -> Vec<u8>;

fn small_corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| Corpus::lineage(99, 12, 2))
}

#[test]
fn both_servers_answer_every_request_of_a_mix_rightly() {
    let corpus = small_corpus();
    let server = snowcache::start(&[]);
    for generation in 0..2 {
        snowcache::push(&server, &corpus.zst(), &corpus.added(generation)).expect("a push");
    }
    let nginx = nginx(corpus);
    let mix: Mix = "narinfo-hit=5,narinfo-head=1,narinfo-miss=2,nar=1,nar-small=1"
        .parse()
        .expect("a mix");
    for (url, pid) in [
        (server.url(), server.pid()),
        (format!("{}/zst", nginx.url()), nginx.pid()),
    ] {
        let target = Target::plain(&url);
        let catalog = Catalog::read(&target, &corpus.generations[1].hashes).expect("narinfos");
        let top = vec![corpus.generations[1].hashes.last().expect("a top").clone()];
        let walked = Catalog::walk(&target, &top).expect("a closure");
        assert_eq!(
            walked.items.len(),
            catalog.items.len(),
            "the same closure, walked"
        );
        assert_eq!(verify(&target, &catalog), Ok(catalog.nar_bytes()));
        let asks = mix.asks(&target, &catalog, 1);
        let plan = Closed::seconds(4, 0.5, Some(pid));
        let tally = closed(&target, &asks, plan);
        assert_eq!(tally.flaw(), None, "{url}");
        assert!(tally.right > 50, "{url}: only {} answers", tally.right);
        assert_eq!(tally.latency.len(), tally.right);
        let used = tally.server.expect("a process that is there");
        assert!(
            used.cpu_seconds > 0.0 && used.resident_kib > 1000,
            "{url}: {used:?}"
        );
    }
}

#[test]
fn counts_are_what_the_server_was_asked() {
    let (address, asked) = counting_server(|_| answer(200, b"hello"));
    let target = Target::plain(&format!("http://{address}"));
    let asks: Arc<[Ask]> = (0..7)
        .map(|number| {
            Ask::get(
                &target,
                &format!("{number}"),
                Expect::body((*b"hello").into()),
            )
        })
        .collect();
    let mut plan = Closed::once(3, &asks, None);
    plan.until = benches::engine::closed::Until::Requests(1_000);
    let tally = closed(&target, &asks, plan);
    assert_eq!((tally.right, tally.wrong, tally.broken), (1_000, 0, 0));
    assert_eq!(tally.body_bytes, 5_000);
    assert_eq!(asked.load(Ordering::SeqCst), 1_000);
}

#[test]
fn wrong_answers_are_found_and_not_counted_as_fast() {
    let lies: [(&str, Say); 4] = [
        ("500 for 200", |_| answer(500, b"hello")),
        ("3 bytes for 5", |_| answer(200, b"hel")),
        ("other bytes", |_| answer(200, b"hellO")),
        // Cut short: never an answer at all.
        ("unexpected end of file", |_| {
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe".to_vec()
        }),
    ];
    for (complaint, lie) in lies {
        let (address, _) = counting_server(lie);
        let target = Target::plain(&format!("http://{address}"));
        let asks: Arc<[Ask]> = Arc::new([Ask::get(&target, "x", Expect::body((*b"hello").into()))]);
        let tally = closed(&target, &asks, Closed::once(1, &asks, None));
        assert_eq!(tally.right, 0, "{complaint}");
        assert_eq!(tally.latency.len(), 0, "{complaint}");
        let flaw = tally.flaw().expect("a flaw");
        assert!(flaw.contains(complaint), "{flaw}");
    }
}

#[test]
fn a_nar_with_one_other_byte_does_not_pass_the_verification() {
    let corpus = small_corpus();
    let folder = tempfile::tempdir().expect("a folder");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(corpus.raw())
        .arg(folder.path().join("raw"))
        .status();
    assert!(copied.expect("cp runs").success());
    let spoilt = Corpus {
        folder: folder.path().to_owned(),
        ..corpus.clone()
    };
    let nginx = nginx(&spoilt);
    let target = Target::plain(&format!("{}/raw", nginx.url()));
    let catalog = Catalog::read(&target, &corpus.generations[0].hashes).expect("narinfos");
    assert_eq!(verify(&target, &catalog), Ok(catalog.nar_bytes()));

    let victim = &catalog.items[3];
    let file = folder.path().join("raw").join(&victim.url);
    let mut bytes = fs::read(&file).expect("a NAR");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("our own file");
    let why = verify(&target, &catalog).expect_err("one bit is other");
    assert!(
        why.contains(&victim.url) && why.contains("SHA-256"),
        "{why}"
    );
}

#[test]
fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
    // Asked 100 times a second over one connection, it stalls once for 300 ms: a closed loop would
    // see one slow answer, but some thirty were due.
    let (address, asked) = counting_server(|number| {
        if number == 20 {
            thread::sleep(Duration::from_millis(300));
        }
        answer(200, b"hello")
    });
    let target = Target::plain(&format!("http://{address}"));
    let asks: Arc<[Ask]> = Arc::new([Ask::get(&target, "x", Expect::status(200))]);
    let plan = Open {
        schedule: Schedule::Rate(100.0, 1.0),
        connections: 1,
        pid: None,
    };
    let tally = open(&target, &asks, plan).expect("a connection");
    assert_eq!(tally.flaw(), None);
    assert_eq!((tally.right, asked.load(Ordering::SeqCst)), (100, 100));
    let slow = tally.latency.count_between(50_000_000, 60_000_000_000);
    assert!(slow >= 15, "only {slow} of 100 waited 50 ms or more");
}

#[test]
fn clients_walk_the_closure_and_take_every_path_once() {
    let corpus = small_corpus();
    let nginx = nginx(corpus);
    let generation = &corpus.generations[1];
    let plan = Walk {
        clients: 3,
        closures_each: 2,
        connections: 4,
        roots: vec![generation.hashes.last().expect("a top").clone()],
        pid: Some(nginx.pid()),
    };
    let walked = walk(&Target::plain(&format!("{}/zst", nginx.url())), &plan);
    assert_eq!(walked.tally.flaw(), None);
    assert_eq!(walked.closures.len(), 6);
    // A narinfo and a NAR of each path, for each closure.
    assert_eq!(walked.tally.right, 6 * 2 * generation.hashes.len() as u64);
}

#[test]
fn a_recorded_log_is_asked_again_at_its_own_times() {
    let (address, asked) = counting_server(|_| answer(200, b"hello"));
    let target = Target::plain(&format!("http://{address}"));
    let log = "127.0.0.1 - - [28/Feb/2028:23:59:59 +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"nix\"\n\
               127.0.0.1 - - [29/Feb/2028:00:00:00 +0000] \"GET /b HTTP/1.1\" 200 5\n\
               127.0.0.1 - - [29/Feb/2028:00:00:00 +0000] \"GET /c HTTP/1.1\" 404 5\n\
               127.0.0.1 - - [29/Feb/2028:00:00:01 +0000] \"PUT /d HTTP/1.1\" 200 0\n\
               not a request\n";
    let recording = Recording::read(&target, log, 4.0);
    assert_eq!((recording.asks.len(), recording.left_out), (3, 2));
    // A leap day's first second is one after the last of the day before; four times as fast.
    let Schedule::At(due) = &recording.schedule else {
        panic!("a log has times");
    };
    assert_eq!(**due, [0, 250, 375].map(Duration::from_millis));
    let plan = Open {
        schedule: recording.schedule.clone(),
        connections: 2,
        pid: None,
    };
    let tally = open(&target, &recording.asks, plan).expect("a connection");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    // The third was a 404 then.
    assert_eq!((tally.right, tally.wrong), (2, 1));
    assert!(tally.seconds >= 0.375, "{} s", tally.seconds);
}

#[test]
fn the_same_seed_makes_the_same_corpus_and_another_another() {
    let (one, other) = (small_corpus(), Corpus::lineage(100, 12, 2));
    assert_ne!(one.generations[0].top, other.generations[0].top);
    std::fs::remove_dir_all(&other.folder).expect("our own folder");
    let again = Corpus::lineage(100, 12, 2);
    assert_eq!(other.generations[1].hashes, again.generations[1].hashes);
    // A mass rebuild: many paths are new, and most bytes of what is new are old.
    let (all, added) = (again.generations[1].hashes.len(), again.added(1).len());
    assert!(added > 1 && added < all, "{added} of {all}");
}

#[test]
fn over_tls_only_the_certificate_that_was_named_is_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = Certificate::make(folder.path()).expect("openssl");
    let corpus = small_corpus();
    let nginx = Nginx::start(&corpus.folder, Some(&made)).expect("nginx with TLS");
    let url = format!("{}/zst", nginx.tls_url().expect("a TLS port"));
    let target = Target::parse(&url, Some(&made.certificate)).expect("a URL");
    let catalog = Catalog::read(&target, &corpus.generations[0].hashes).expect("narinfos");
    assert_eq!(verify(&target, &catalog), Ok(catalog.nar_bytes()));

    let other = tempfile::tempdir().expect("a folder");
    let other = Certificate::make(other.path()).expect("openssl");
    let target = Target::parse(&url, Some(&other.certificate)).expect("a URL");
    let refused = Catalog::read(&target, &corpus.generations[0].hashes).err();
    let refused = refused.expect("another server's certificate").to_string();
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn connections_that_only_cost_stand_until_they_are_let_go() {
    let corpus = small_corpus();
    let nginx = nginx(corpus);
    let target = Target::plain(&format!("{}/raw", nginx.url()));
    let catalog = Catalog::read(&target, &corpus.generations[0].hashes).expect("narinfos");
    let item = catalog
        .items
        .iter()
        .max_by_key(|item| item.nar_size)
        .expect("a path");
    let sockets = || {
        let tcp = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
        let port = nginx
            .url()
            .rsplit_once(':')
            .expect("a port")
            .1
            .parse::<u16>()
            .expect("one");
        // Those that the server is at the other end of, established.
        let there = format!(" 0100007F:{port:04X} 01 ");
        tcp.lines().filter(|line| line.contains(&there)).count()
    };
    for kind in [slow::Kind::Heads, slow::Kind::Readers, slow::Kind::Idle] {
        let path = match kind {
            slow::Kind::Idle => item.narinfo_path(),
            _ => item.url.clone(),
        };
        let held = slow::Held::hold(&target, kind, 40, &path);
        assert_eq!((held.count, &held.complaint), (40, &None), "{kind:?}");
        assert!(sockets() >= 40, "{kind:?}: only {} stand", sockets());
        drop(held);
        let let_go = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            sockets() == 0
        });
        assert!(let_go, "{kind:?}: {} are still there", sockets());
    }
}

#[test]
fn the_report_says_spread_ratio_and_what_was_missed() {
    let mut row = Row::new("P1", "narinfo hit", "CPU us", Limit::RatioAtMost(1.0));
    for (ours, theirs) in [(30.0, 10.0), (22.0, 11.0), (40.0, 10.0)] {
        row.add(OURS, ours);
        row.add(YARDSTICK, theirs);
    }
    let table = markdown::table(&[row.clone(), Row::untold("P17", "TLS", "no certificate")]);
    let lines: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(
        lines[0],
        "| P1 | narinfo hit | CPU us | 30 (22 to 40) | 10 (10 to 11) | 3 (2 to 4)x | <= 1x | \
         **MISSED** |"
    );
    assert!(lines[1].ends_with("| not measured |"), "{}", lines[1]);
    row.limit = Limit::RatioAtMost(3.0);
    assert_eq!(row.met(), Some(true));
    assert_eq!(markdown::others(std::slice::from_ref(&row)), "");
    for theirs in [300.0, 220.0, 400.0] {
        row.add("another", theirs);
    }
    let others = markdown::others(&[row.clone(), Row::new("P2", "x", "1/s", Limit::Told)]);
    let lines: Vec<&str> = others.lines().skip(1).collect();
    assert_eq!(lines.len(), 3, "{others}");
    assert_eq!(
        lines[2],
        "| P1 | narinfo hit | CPU us | 30 (22 to 40) | 300 (220 to 400) | 0.100x |"
    );

    let report = Report {
        machine: Machine::now(),
        corpus: "a corpus".to_owned(),
        what: Vec::new(),
        rows: vec![row],
        curves: Vec::new(),
    };
    let json = json::json(&report);
    assert_eq!(json["rows"][0]["series"][0]["samples"][2], 40.0);
    assert_eq!(json["rows"][0]["series"][0]["ratio"]["median"], 3.0);
    assert!(
        json["machine"]["nginx"]
            .as_str()
            .is_some_and(|nginx| nginx.starts_with("nginx/"))
    );
    let plots = plots::plots(&report);
    let [(file, _, svg)] = plots.as_slice() else {
        panic!("{} plots of one row", plots.len());
    };
    assert_eq!(file, "narinfo-cpu.svg");
    for shown in [
        "CPU microseconds a request",
        "narinfo hit",
        OURS,
        YARDSTICK,
        ">30<",
        ">10<",
    ] {
        assert!(svg.contains(shown), "{shown} is not in the plot");
    }
}

fn nginx(corpus: &Corpus) -> Nginx {
    let started = Nginx::start(&corpus.folder, None);
    started.unwrap_or_else(|why| panic!("{why}; run: make test-setup"))
}

fn answer(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Answers each request with what `say` makes of its number, and counts them; hangs up after an
/// answer that is shorter than it claims.
fn counting_server(say: Say) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counter) = (stream.expect("a connection"), Arc::clone(&counter));
            thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|length| length > 0) {
                    let said = say(counter.fetch_add(1, Ordering::SeqCst));
                    if stream.write_all(&said).is_err() || said.ends_with(b"\r\n\r\nhe") {
                        return;
                    }
                }
            });
        }
    });
    (address, asked)
}
