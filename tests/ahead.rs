//! Connections that a prefetch makes ahead, while a cache is asked what is to be fetched: where
//! something will be, and so that whatever goes wrong with them costs nothing.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{PATIENCE, World};
use support::http::Response;
use support::nix::Nix;
use support::proxy::{Proxy, hang_up};

/// The connections that `--jobs 2` makes ahead to a cache.
const AHEAD: usize = 4;

/// How often it was asked whether it answers, which is what a connection is made with.
fn made_ahead(proxy: &Proxy) -> usize {
    let asked = proxy.asked();
    asked.iter().filter(|it| it.starts_with("HEAD ")).count()
}

/// A cache that takes its time for a closure: until connections have been made ahead, or so long.
/// `ahead` is how it answers these.
fn takes_its_time(world: &World, most: Duration, ahead: fn(Response) -> Response) -> Proxy {
    let asked = AtomicUsize::new(0);
    Proxy::before(world.server.address(), move |path, answer| {
        let (begin, is_closure) = (Instant::now(), path.contains("get-narinfos"));
        let has_all = || asked.load(Ordering::SeqCst) > AHEAD;
        while is_closure && !has_all() && begin.elapsed() < most {
            thread::sleep(Duration::from_millis(5));
        }
        // The first one asks what it offers.
        match path.contains("nix-cache-info") && asked.fetch_add(1, Ordering::SeqCst) > 0 {
            true => ahead(answer),
            false => answer,
        }
    })
}

#[test]
fn connections_are_made_ahead_where_something_will_be_fetched() {
    let world = World::small();
    let machine = world.node(&Nix::newer());
    let top = &world.generation.top;
    for (most, fetched, ahead) in [
        (PATIENCE, world.generation.closure.len(), AHEAD),
        (Duration::from_secs(1), 0, 0),
    ] {
        let proxy = takes_its_time(world, most, |answer| answer);
        let prefetch = format!("prefetch {top} --jobs 2 --from {}", proxy.url());
        let said = machine.snowcache(&prefetch).ok();
        let says = format!(" {fetched} of them fetched");
        assert!(said.contains(&says), "{said}");
        assert_eq!(made_ahead(&proxy), ahead, "{:?}", proxy.asked());
    }
}

#[test]
fn a_cache_that_hangs_up_or_is_silent_ahead_of_a_prefetch_does_not_keep_it() {
    let world = World::small();
    let (top, closure) = (&world.generation.top, &world.generation.closure);
    let silent = |answer| {
        thread::sleep(PATIENCE * 2);
        answer
    };
    for ahead in [|_| hang_up(), silent] {
        let machine = world.node(&Nix::newer());
        let proxy = takes_its_time(world, PATIENCE, ahead);
        let begin = Instant::now();
        let prefetch = format!("prefetch {top} --jobs 2 --from {}", proxy.url());
        let ran = machine.snowcache(&prefetch);
        assert_eq!(ran.stderr, "");
        ran.ok();
        // A question that is waited for would take a minute.
        assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
        assert_eq!(made_ahead(&proxy), AHEAD, "{:?}", proxy.asked());
        assert_eq!(machine.valid(closure), closure.len());
    }
}
