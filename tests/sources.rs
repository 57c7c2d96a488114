//! Several caches behind one prefetch: one that dies, stalls, or lets nobody in is left within a
//! second for one that has the same; one that is alone is waited for; proxies are gone through.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{Machine, PATIENCE, World};
use support::fault::{Mode, Wire};
use support::nix::Nix;
use support::server::binary;

/// What a fault may cost on a quiet machine, and what a busy one may add.
const FAILOVER: Duration = Duration::from_secs(1);
const NOISE: Duration = Duration::from_secs(4);

fn start(machine: &Machine, arguments: &str) -> Child {
    let script = format!("exec {} {arguments}", binary("snowcache").display());
    let mut command = machine.node.command(&machine.user, &machine.nix, &script);
    command.stdout(Stdio::piped());
    command.spawn().expect("setpriv runs")
}

#[test]
fn a_cache_that_stalls_in_the_middle_is_left_within_a_second() {
    let world = World::system();
    let closure = &world.generation.closure;
    let address = world.server.address();
    let (first, second) = (Wire::to(address), Wire::to(address));
    let machine = world.node(&Nix::newer());
    let top = &world.generation.top;
    let from = format!("--from {} --from {}", first.url(), second.url());
    let mut child = start(&machine, &format!("prefetch {top} {from}"));
    while machine.valid(closure) < 5 {
        let ended = child.try_wait().expect("our own child");
        assert!(ended.is_none(), "it ended before the fault");
        thread::sleep(Duration::from_millis(5));
    }
    let passed = |wire: &Wire| wire.passed_bytes();
    assert_eq!(passed(&second), 0, "the first one is well");
    first.set(Mode::Stalls);
    let begin = Instant::now();
    // More than an answer to the question whether it has it.
    while passed(&second) < 20_000 {
        assert!(
            begin.elapsed() < PATIENCE,
            "it waits for the one that stalls"
        );
        thread::sleep(Duration::from_millis(1));
    }
    let took = begin.elapsed();
    println!("the second cache gives NARs {took:?} after the first one stalled");
    assert!(took < FAILOVER + NOISE, "{took:?}");
    let status = child.wait().expect("our own child");
    assert!(status.success(), "{status}");
    assert_eq!(machine.valid(closure), closure.len());
    machine.assert_sound();
}

#[test]
fn a_cache_that_lets_nobody_in_costs_less_than_a_second() {
    let world = World::small();
    // Its queue is full: whoever connects is not answered at all, as by a host that is gone.
    let full = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = full.local_addr().expect("an address");
    let silent = format!("http://{address}");
    let machine = world.node(&Nix::newer());
    let (top, good) = (&world.generation.top, world.server.url());
    let begin = Instant::now();
    let from = format!("prefetch {top} --from {silent} --from {good}");
    machine.snowcache(&from).ok();
    let took = begin.elapsed();
    println!("silent from the start: {took:?}");
    // 143 paths of narinfos from a cache that is silent for each would be minutes.
    assert!(took < FAILOVER * 3 + NOISE, "{took:?}");
    machine.assert_sound();
}

#[test]
fn a_cache_that_is_slow_and_alone_is_waited_for() {
    let world = World::small();
    let wire = Wire::to(world.server.address());
    let machine = world.node(&Nix::newer());
    // The other one lives, and has nothing.
    let other = support::server::Snowcached::start();
    let (top, slow, empty) = (&world.generation.top, wire.url(), other.url());
    let arguments = format!("prefetch {top} --from {slow} --from {empty}");
    let mut child = start(&machine, &arguments);
    let closure = &world.generation.closure;
    while wire.passed_bytes() < 100_000 {
        let ended = child.try_wait().expect("our own child");
        assert!(ended.is_none(), "it ended before the fault");
        thread::sleep(Duration::from_millis(1));
    }
    wire.set(Mode::Stalls);
    thread::sleep(Duration::from_secs(3));
    wire.set(Mode::Good);
    let status = child.wait().expect("our own child");
    assert!(
        status.success(),
        "a slow cache was given up for one without it"
    );
    assert_eq!(machine.valid(closure), closure.len());
    machine.assert_sound();
}

/// A proxy as in companies: asked for whole http URLs, and for tunnels. Counts what it is asked.
struct HttpProxy {
    address: SocketAddr,
    whole: Arc<AtomicU64>,
}

impl HttpProxy {
    fn start() -> HttpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let whole: Arc<AtomicU64> = Arc::default();
        let counter = whole.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let counter = counter.clone();
                thread::spawn(move || forward(near, &counter));
            }
        });
        HttpProxy { address, whole }
    }
}

/// One request of a connection, which the server then ends.
fn forward(mut near: TcpStream, whole: &AtomicU64) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        near.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let rest = text.split_once(" http://")?.1;
    let (host, path) = rest.split_once('/')?;
    assert!(
        text.contains("proxy-authorization: Basic dXNlcjpwYXNz"),
        "{text}"
    );
    whole.fetch_add(1, Ordering::SeqCst);
    let method = text.split(' ').next()?;
    let lower = text.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    near.read_exact(&mut body).ok()?;
    let mut far = TcpStream::connect(host).ok()?;
    let (line, headers) = path.split_once("\r\n")?;
    write!(far, "{method} /{line}\r\nconnection: close\r\n{headers}").ok()?;
    far.write_all(&body).ok()?;
    std::io::copy(&mut far, &mut near).ok()?;
    near.shutdown(std::net::Shutdown::Both).ok()
}

#[test]
fn what_is_behind_a_proxy_is_reached_through_it_and_no_proxy_is_heeded() {
    let world = World::small();
    let proxy = HttpProxy::start();
    let through = format!("http://user:pass@{}", proxy.address);
    let url = world.server.url();
    let info = |variables: &[(&str, &str)]| {
        let mut command = Command::new(binary("snowcache"));
        command.args(["info", &url]).env_clear();
        command.envs(variables.iter().copied());
        let output = command.output().expect("snowcache runs");
        assert!(output.status.success(), "{output:?}");
    };
    info(&[]);
    info(&[("http_proxy", &through), ("no_proxy", "127.0.0.1")]);
    assert_eq!(proxy.whole.load(Ordering::SeqCst), 0);
    info(&[("http_proxy", &through)]);
    assert!(proxy.whole.load(Ordering::SeqCst) > 0);
}
