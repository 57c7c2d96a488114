//! Several caches behind one prefetch: one that dies, stalls, or lets nobody in is left within a
//! second for one that has the same; one that is alone is waited for; proxies are gone through.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{Machine, Rebuilt, World};
use support::codec::Codec;
use support::corpus::Generation;
use support::fault::{Mode, Wire};
use support::nar::{Nar, Upload};
use support::nix::{Nix, Ran};
use support::oracle;
use support::proxy::{Proxy, missing};
use support::random::Random;
use support::server::{Snowcached, binary};
use support::versions::Versions;

/// What a fault may cost, and what a busy machine may add.
const FAILOVER: Duration = Duration::from_secs(1);
const NOISE: Duration = Duration::from_secs(10);
/// A wait for what does not come takes at least so long.
const WAITS: Duration = Duration::from_secs(20);

fn start(machine: &Machine, arguments: &str) -> Child {
    let script = format!("exec {} {arguments}", binary("snowcache").display());
    let mut command = machine.node.command(&machine.user, &machine.nix, &script);
    command.stdout(Stdio::piped());
    command.spawn().expect("setpriv runs")
}

/// What the first cache is asked for when it fails, and after how many bytes of the answer; whether
/// the node has an older version; what of the second one is what was wanted of the first.
const MOMENTS: [(&str, &str, u64, bool, &str); 7] = [
    (
        "what it offers",
        "GET /nix-cache-info",
        0,
        false,
        "GET /nix-cache-info",
    ),
    ("many narinfos", "QUERY ", 0, false, "QUERY "),
    ("a NAR", "/nar/", 0, false, "/nar/"),
    ("in the middle of it", "/nar/", 1 << 20, false, "/nar/"),
    ("a plan", "/api/v1/plan", 0, true, "/nar/"),
    ("frames", "/api/v1/frames", 0, true, "/nar/"),
    (
        "in the middle of them",
        "/api/v1/frames",
        200_000,
        true,
        "/nar/",
    ),
];

/// On a busy machine a cache that is well may be left before it is made to fail: once more, then.
const TRIES: usize = 8;

/// Prefetches the newer version through two caches, of which the first one fails; gives how long
/// it was until the second one answered with what was wanted, if it was asked because of that.
fn failover(versions: &Versions, moment: usize, how: Mode) -> Option<Duration> {
    let (_, request, after_bytes, has_older, then) = MOMENTS[moment];
    let server = &versions.server;
    let machine = Machine::new(&Nix::newer(), &server.public_key());
    let [older, newer] = versions.paths();
    if has_older {
        let url = server.url();
        let prefetch = format!("prefetch {older} --from {url}");
        machine.snowcache(&prefetch).ok();
    }
    let (first, second) = (Wire::to(server.address()), Wire::to(server.address()));
    first.fail_at(request, after_bytes, how);
    let (from, or) = (first.url(), second.url());
    let prefetch = format!("prefetch {newer} --from {from} --from {or}");
    machine.snowcache(&prefetch).ok();
    assert_eq!(machine.valid(std::slice::from_ref(&newer)), 1);
    machine.assert_sound();
    let failed = first.failed()?;
    let asked = second.asked();
    let mut answers = asked.iter().filter(|it| it.line.contains(then));
    let answered = answers.find_map(|it| it.answered.filter(|at| *at >= failed));
    Some(answered? - failed)
}

#[test]
fn whatever_a_cache_stops_in_the_middle_of_another_one_gives_within_a_second() {
    let versions = Versions::new();
    let rounds = std::env::var("SNOWCACHE_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("| | stalls | breaks off |\n|---|---|---|");
    for (moment, (what, ..)) in MOMENTS.iter().enumerate() {
        let cells = [Mode::Stalls, Mode::Gone].map(|how| {
            let once = || (0..TRIES).find_map(|_| failover(&versions, moment, how));
            let took = (0..rounds).map(|_| once().expect("it is left for the other one"));
            let mut took: Vec<Duration> = took.collect();
            took.sort();
            let worst = took[rounds - 1];
            assert!(worst < FAILOVER + NOISE, "{what}, {how:?}: {worst:?}");
            let (median, worst) = (took[rounds / 2].as_millis(), worst.as_millis());
            format!("{median} ms, at most {worst}")
        });
        println!("| {what} | {} |", cells.join(" | "));
    }
}

/// How often that was asked for along a wire.
fn asked(wire: &Wire, what: &str) -> usize {
    let asked = wire.asked();
    asked.iter().filter(|it| it.line.contains(what)).count()
}

/// A node with the older versions of two programs; the newer ones.
fn with_older(versions: &Versions) -> (Machine, String) {
    let server = &versions.server;
    let machine = Machine::new(&Nix::newer(), &server.public_key());
    let both = |number: usize| {
        let other = &versions.more[0][number].store_path;
        format!("{} {other}", versions.paths()[number])
    };
    let prefetch = format!("prefetch {} --from {}", both(0), server.url());
    machine.snowcache(&prefetch).ok();
    (machine, both(1))
}

#[test]
fn what_only_a_cache_that_is_gone_has_is_waited_for() {
    let versions = Versions::of(2);
    let (machine, newer) = with_older(&versions);
    let address = versions.server.address();
    let first = Wire::to(address);
    let alone = versions.more[0][1].narinfo_path();
    let alone = alone.rsplit('/').next().expect("a name").to_owned();
    let second = Proxy::before(address, move |path, answer| {
        // Who is asked in the first one's place must not live so that anybody notices: the first
        // one is not to be given up too early.
        if path.contains("nix-cache-info") {
            thread::sleep(FAILOVER);
        }
        match path.contains(&alone) || path.contains("nix-cache-info") {
            true => missing(),
            false => answer,
        }
    });
    first.fail_at("/api/v1/frames", 0, Mode::Stalls);
    let (from, or) = (first.url(), second.url());
    let arguments = format!("prefetch {newer} --jobs 1 --from {from} --from {or}");
    let child = start(&machine, &arguments);
    first.wait_until_failed();
    // The path that both have is left for the second one; then it is the other one's turn, for
    // which the first one is asked, though it is gone.
    let begin = Instant::now();
    while asked(&first, "/api/v1/frames") < 2 {
        assert!(begin.elapsed() < WAITS * 3, "nobody waits for it");
        thread::sleep(Duration::from_millis(5));
    }
    first.set(Mode::Good);
    let output = child.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 made of older paths"), "{said}");
    machine.assert_sound();
}

#[test]
fn what_a_cache_that_is_gone_would_have_given_of_a_path_comes_from_another_one() {
    let versions = Versions::of(2);
    let address = versions.server.address();
    for _ in 0..TRIES {
        let (machine, newer) = with_older(&versions);
        let (first, second) = (Wire::to(address), Wire::to(address));
        first.fail_at("/api/v1/frames", 0, Mode::Stalls);
        let (from, or) = (first.url(), second.url());
        // One after the other: whoever comes second knows that the cache is gone.
        let prefetch = format!("prefetch {newer} --jobs 1 --from {from} --from {or}");
        let said = machine.snowcache(&prefetch).ok();
        if first.failed().is_none() {
            continue;
        }
        assert!(said.contains("1 made of older paths"), "{said}");
        assert_eq!(asked(&first, "/api/v1/frames"), 1);
        assert_eq!(asked(&second, "/api/v1/frames"), 1);
        assert_eq!(asked(&second, "/nar/"), 1);
        return machine.assert_sound();
    }
    panic!("the first one is never asked for frames");
}

#[test]
fn a_closure_goes_on_elsewhere_when_a_cache_stalls_in_its_middle() {
    let world = World::system();
    let Generation { top, closure } = world.generation;
    let address = world.server.address();
    let (first, second) = (Wire::to(address), Wire::to(address));
    let machine = world.node(&Nix::newer());
    first.fail_at("/nar/", 3 << 20, Mode::Stalls);
    let from = format!("--from {} --from {}", first.url(), second.url());
    machine.snowcache(&format!("prefetch {top} {from}")).ok();
    assert!(first.failed().is_some());
    assert_eq!(machine.valid(closure), closure.len());
    machine.assert_sound();
}

#[test]
fn a_cache_that_lets_nobody_in_is_not_waited_for() {
    let world = World::small();
    // Nobody takes what is in its queue: whoever connects is not answered, as by a host that hangs.
    let full = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = format!("http://{}", full.local_addr().expect("an address"));
    let (top, good) = (&world.generation.top, world.server.url());
    let took = |from: String| {
        let machine = world.node(&Nix::newer());
        let begin = Instant::now();
        machine.snowcache(&format!("prefetch {top} {from}")).ok();
        machine.assert_sound();
        begin.elapsed()
    };
    let alone = took(format!("--from {good}"));
    let behind = took(format!("--from {silent} --from {good}"));
    println!("alone {alone:?}, behind one that is silent from the start {behind:?}");
    // It would be a minute for each that waits.
    assert!(behind < alone + WAITS, "{alone:?}, {behind:?}");
}

#[test]
fn a_cache_that_is_too_busy_for_a_plan_is_asked_again_and_not_for_whole_nars() {
    let rebuilt = Rebuilt::small();
    let [before, after] = rebuilt.generations();
    let world = rebuilt.after;
    let machine = world.node(&Nix::newer());
    let url = world.server.url();
    let prefetch = format!("prefetch {} --pin system --from {url}", before.top);
    machine.snowcache(&prefetch).ok();
    let first = AtomicBool::new(true);
    let busy = Proxy::before(world.server.address(), move |path, mut answer| {
        if path.contains("/api/v1/plan") && first.swap(false, Ordering::SeqCst) {
            answer.status = 503;
        }
        answer
    });
    // There is another one, of which nothing is to be had.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (from, or) = (busy.url(), silent.local_addr().expect("an address"));
    let top = &after.top;
    let prefetch = format!("prefetch {top} --pin system --from {from} --from http://{or}");
    let said = machine.snowcache(&prefetch).ok();
    assert!(said.contains("made of older paths"), "{said}");
    let asked = busy.asked();
    let count = |what: &str| asked.iter().filter(|it| it.contains(what)).count();
    assert_eq!((count("/api/v1/plan"), count("/nar/")), (2, 0), "{asked:?}");
    machine.assert_sound();
}

#[test]
fn a_cache_that_is_slow_and_alone_is_waited_for() {
    let world = World::small();
    let wire = Wire::to(world.server.address());
    let machine = world.node(&Nix::newer());
    // The other one lives, and has nothing.
    let other = Snowcached::start();
    let (top, slow, empty) = (&world.generation.top, wire.url(), other.url());
    wire.fail_at("/nar/", 100_000, Mode::Stalls);
    let arguments = format!("prefetch {top} --from {slow} --from {empty}");
    let mut child = start(&machine, &arguments);
    wire.wait_until_failed();
    // Longer than anything that another one is waited for.
    thread::sleep(FAILOVER * 3);
    wire.set(Mode::Good);
    let status = child.wait().expect("our own child");
    assert!(
        status.success(),
        "a slow cache was given up for one without it"
    );
    let closure = &world.generation.closure;
    assert_eq!(machine.valid(closure), closure.len());
    machine.assert_sound();
}

#[test]
fn a_cache_that_is_slow_with_one_path_is_asked_for_the_next_one_meanwhile() {
    let server = Snowcached::start();
    let mut random = Random::seeded(7);
    let paths = [1, 2].map(|number| {
        // As long as what takes a whole place.
        let nar = Nar::of_file(&random.bytes(2 << 20));
        let upload = Upload::honest(number, "slow", &nar, Codec::named("none"));
        oracle::publish(server.http(), &server.push_token(), &upload);
        upload.store_path
    });
    // It does not begin; it stops in the middle.
    for after_bytes in [0, 1 << 20] {
        let wire = Wire::to(server.address());
        let machine = Machine::new(&Nix::newer(), &server.public_key());
        wire.fail_at("/nar/", after_bytes, Mode::Stalls);
        let (both, from) = (paths.join(" "), wire.url());
        let child = start(&machine, &format!("prefetch {both} --jobs 1 --from {from}"));
        wire.wait_until_failed();
        let begin = Instant::now();
        while asked(&wire, "/nar/") < 2 {
            assert!(begin.elapsed() < WAITS, "the other one waits for it");
            thread::sleep(Duration::from_millis(5));
        }
        wire.set(Mode::Good);
        let output = child.wait_with_output().expect("our own child");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(machine.valid(&paths), 2);
        machine.assert_sound();
    }
}

/// A proxy as in companies, which lets in whoever has its password: it is asked for whole http
/// URLs, and for tunnels.
struct HttpProxy {
    address: SocketAddr,
    seen: Arc<Seen>,
}

/// How often it was asked.
#[derive(Default)]
struct Seen {
    whole: AtomicU64,
    tunnels: AtomicU64,
    refused: AtomicU64,
}

/// `user:pass`
const PASSWORD: &str = "proxy-authorization: basic dxnlcjpwyxnz";

impl HttpProxy {
    fn start() -> HttpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Seen> = Arc::default();
        let counts = seen.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let counts = counts.clone();
                thread::spawn(move || forward(near, &counts));
            }
        });
        HttpProxy { address, seen }
    }

    /// For those who know its password.
    fn url(&self) -> String {
        format!("http://user:pass@{}", self.address)
    }

    /// Whole URLs, tunnels, and those that it did not let in.
    fn seen(&self) -> [u64; 3] {
        let Seen {
            whole,
            tunnels,
            refused,
        } = &*self.seen;
        [whole, tunnels, refused].map(|count| count.load(Ordering::SeqCst))
    }
}

/// One request of a connection, which the server then ends, or a tunnel.
fn forward(mut near: TcpStream, seen: &Seen) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        near.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let lower = text.to_ascii_lowercase();
    if !lower.contains(PASSWORD) {
        seen.refused.fetch_add(1, Ordering::SeqCst);
        let refusal = "HTTP/1.1 407 Who Are You\r\nContent-Length: 0\r\n\r\n";
        return near.write_all(refusal.as_bytes()).ok();
    }
    if let Some(rest) = text.strip_prefix("CONNECT ") {
        seen.tunnels.fetch_add(1, Ordering::SeqCst);
        return tunnel(near, rest.split(' ').next()?);
    }
    seen.whole.fetch_add(1, Ordering::SeqCst);
    let (method, rest) = text.split_once(" http://")?;
    let (host, path) = rest.split_once('/')?;
    let length = lower.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    near.read_exact(&mut body).ok()?;
    let mut far = TcpStream::connect(host).ok()?;
    let (line, headers) = path.split_once("\r\n")?;
    write!(far, "{method} /{line}\r\nconnection: close\r\n{headers}").ok()?;
    far.write_all(&body).ok()?;
    std::io::copy(&mut far, &mut near).ok()?;
    near.shutdown(Shutdown::Both).ok()
}

/// Whatever is sent, in both directions.
fn tunnel(mut near: TcpStream, host: &str) -> Option<()> {
    let mut far = TcpStream::connect(host).ok()?;
    near.write_all(b"HTTP/1.1 200 Go Ahead\r\n\r\n").ok()?;
    let (mut near2, mut far2) = (near.try_clone().ok()?, far.try_clone().ok()?);
    let back = thread::spawn(move || {
        std::io::copy(&mut far2, &mut near2).ok();
        near2.shutdown(Shutdown::Write).ok();
    });
    std::io::copy(&mut near, &mut far).ok();
    far.shutdown(Shutdown::Write).ok();
    back.join().ok()
}

#[test]
fn what_is_behind_a_proxy_is_reached_through_it_and_no_proxy_is_heeded() {
    let world = World::small();
    let proxy = HttpProxy::start();
    let (through, url) = (proxy.url(), world.server.url());
    let info = |variables: &[(&str, &str)]| {
        let mut command = Command::new(binary("snowcache"));
        command.args(["info", &url]).env_clear();
        command.envs(variables.iter().copied());
        let output = command.output().expect("snowcache runs");
        assert!(output.status.success(), "{output:?}");
    };
    info(&[]);
    info(&[("http_proxy", &through), ("no_proxy", "127.0.0.1")]);
    assert_eq!(proxy.seen(), [0, 0, 0]);
    info(&[("http_proxy", &through)]);
    let [whole, tunnels, refused] = proxy.seen();
    assert!(whole > 0);
    assert_eq!([tunnels, refused], [0, 0]);
}

/// Certificates for 127.0.0.1, and the authority that made them.
fn made(name: &str) -> String {
    let file = support::root().join("server/tests/server/tls").join(name);
    file.to_string_lossy().into_owned()
}

#[test]
fn an_encrypted_cache_behind_a_proxy_is_reached_through_a_tunnel() {
    let world = World::small();
    let Generation { top, closure } = world.generation;
    let folder = support::folder_on_disk();
    let config = folder.path().join("tls.toml");
    let (certificate, key) = (made("first.pem"), made("first.key"));
    let tls = format!("[tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n");
    fs::write(&config, tls).expect("a configuration");
    let server = world.twin_with(&["--config", &config.to_string_lossy()]);
    let url = format!("https://{}", server.address());
    let proxy = HttpProxy::start();
    let stranger = format!("http://{}", proxy.address);
    let nix = Nix::newer();
    let prefetch = |variables: &[(&str, &str)]| {
        let mut machine = world.node(&nix);
        machine.user.variable("SSL_CERT_FILE", &made("ca.pem"));
        for (name, value) in variables {
            machine.user.variable(name, value);
        }
        let ran = machine.snowcache(&format!("prefetch {top} --from {url}"));
        (machine, ran)
    };
    let arrived = |(machine, ran): (Machine, Ran)| {
        ran.ok();
        assert_eq!(machine.valid(closure), closure.len());
    };
    // Not through it: nobody said so, or it is for http alone, or not for this host.
    arrived(prefetch(&[("http_proxy", &proxy.url())]));
    for (name, except) in [("https_proxy", "127.0.0.1"), ("ALL_PROXY", "*")] {
        arrived(prefetch(&[(name, &proxy.url()), ("NO_PROXY", except)]));
    }
    assert_eq!(proxy.seen(), [0, 0, 0]);
    arrived(prefetch(&[("https_proxy", &proxy.url())]));
    let [whole, tunnels, refused] = proxy.seen();
    assert!(tunnels > 0);
    assert_eq!([whole, refused], [0, 0]);
    // Without the password, and with one that is gone.
    let (machine, ran) = prefetch(&[("https_proxy", &stranger)]);
    assert_eq!((ran.code, machine.valid(closure)), (3, 0), "{}", ran.stderr);
    let why = ran.fails();
    assert!(
        why.contains(&format!("through the proxy {stranger}")),
        "{why}"
    );
    assert!(why.contains("authorization"), "{why}");
    assert!(proxy.seen()[2] > 0);
    let (_, ran) = prefetch(&[("https_proxy", "http://user:pass@127.0.0.1:1")]);
    let why = ran.fails();
    assert!(
        why.contains("through the proxy http://127.0.0.1:1"),
        "{why}"
    );
    assert!(!why.contains("pass"), "{why}");
}
