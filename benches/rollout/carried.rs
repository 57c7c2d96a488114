//! P7 and P8: what goes over the wire from one generation to the next, everything counted, by
//! prefetch and by nix-store --realise. Of a rebuild of everything, and of packages that got new
//! versions, for which the server has made patches since its pin moved.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use snowcache_core::alike;
use snowcache_nix::{NarInfo, StorePath};

use super::support::engine::procs;
use super::support::harness::corpus;
use super::support::harness::nix::Nix;
use super::support::harness::server::Snowcached;
use super::support::harness::wire::Wire;
use super::{node, prefetch, pushed};

/// Longer than the patches of a quick corpus should take.
const PATIENCE: Duration = Duration::from_secs(300);

/// P7.
pub fn rebuild(trusted: &str, server: &Snowcached, tops: [&str; 2]) {
    println!("| nix | 1 -> 2 by prefetch | by nix-store --realise | of it |");
    println!("|---|---|---|---|");
    for nix in Nix::both() {
        let (ours, stock) = carried(&nix, trusted, server, tops);
        let share = 100.0 * ours.0 as f64 / stock.0 as f64;
        println!(
            "| {} | {} B, {:.2} s | {} B, {:.2} s | {share:.3} % |",
            nix.version, ours.0, ours.1, stock.0, stock.1
        );
    }
}

/// P8, on a corpus that tests/corpus/make-bumps.sh made.
pub fn bumps([before, after]: [&str; 2]) {
    let server = pushed(&[before, after]);
    let (http, token) = (server.http(), server.push_token());
    let cpu = || {
        let used = procs::used(server.pid()).expect("it runs");
        used.cpu_seconds
    };
    let (begin, cpu_before) = (Instant::now(), cpu());
    for top in [before, after] {
        let roots = format!("{{\"roots\": [\"{top}\"]}}");
        http.put("/api/v1/pins/system", &token, roots.as_bytes())
            .is(200);
    }
    let figure = |name: &str| {
        let text = http.get("/metrics").is(200).text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or(0.0)
    };
    while figure("snowcache_pins_to_patch ") > 0.0 {
        assert!(begin.elapsed() < PATIENCE, "patches take too long");
        thread::sleep(Duration::from_millis(20));
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{} patches of {} bytes, made in {seconds:.1} s, {:.1} s of CPU",
        figure("snowcache_patches_made_total "),
        figure("snowcache_patches_bytes "),
        cpu() - cpu_before
    );
    let closures = [before, after].map(|top| {
        let paths = corpus::closure(top).into_iter();
        let paths = paths.map(|path| StorePath::from_absolute(&path).expect("a path"));
        paths.collect::<Vec<_>>()
    });
    let mut bumped = 0;
    for (new, old) in alike::likely(&closures[1], &closures[0], &|_| Some(())) {
        if new.name() != old.name() {
            let narinfo = http.get(&format!("/{}.narinfo", new.hash())).is(200).text();
            let narinfo = NarInfo::parse(&narinfo).expect("a narinfo");
            bumped += narinfo.file_size.expect("a FileSize");
        }
    }
    println!("| nix | 1 -> 2 by prefetch | by nix-store --realise | of it | of what was bumped |");
    println!("|---|---|---|---|---|");
    for nix in Nix::both() {
        let trusted = server.public_key();
        let (ours, stock) = carried(&nix, &trusted, &server, [before, after]);
        let of = |all: u64| 100.0 * ours.0 as f64 / all as f64;
        println!(
            "| {} | {} B, {:.2} s | {} B, {:.2} s | {:.2} % | {:.2} % of {bumped} B |",
            nix.version,
            ours.0,
            ours.1,
            stock.0,
            stock.1,
            of(stock.0),
            of(bumped)
        );
        println!("{}", ours.2);
    }
}

/// Bytes, seconds, and what the bytes were.
type Carried = (u64, f64, String);

/// What a node that has the first of them takes to get the second, by prefetch and by stock Nix.
fn carried(
    nix: &Nix,
    trusted: &str,
    server: &Snowcached,
    [before, after]: [&str; 2],
) -> (Carried, Carried) {
    let wire = Wire::to(server.address());
    let url = wire.url();
    let realised = |top: &str| format!("NIX_REMOTE=daemon nix-store --realise {top}");
    let run = |script: &dyn Fn(&str) -> String| {
        let (node, user, _daemon) = node(nix, trusted, &url);
        node.sh(&user, nix, &script(before)).ok();
        let (carried, begin) = (wire.carried(), Instant::now());
        let before = answered(server);
        node.sh(&user, nix, &script(after)).ok();
        let seconds = begin.elapsed().as_secs_f64();
        let carried = wire.carried() - carried;
        (
            carried,
            seconds,
            account(carried, &before, &answered(server)),
        )
    };
    (run(&|top| prefetch(top, &url)), run(&realised))
}

/// How much the server has answered, by route.
fn answered(server: &Snowcached) -> BTreeMap<String, u64> {
    let text = server.http().get("/metrics").is(200).text();
    let line = |line: &str| {
        let line = line.strip_prefix("snowcache_http_response_bytes_total{route=\"")?;
        let (route, bytes) = line.split_once("\"} ")?;
        Some((route.to_owned(), bytes.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// What so many bytes were: answers by route, and the rest.
fn account(carried: u64, before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let (mut said, mut rest) = (String::new(), carried);
    for (route, bytes) in after.iter().filter(|(route, _)| *route != "metrics") {
        let bytes = bytes - before.get(route).unwrap_or(&0);
        if bytes > 0 {
            said.push_str(&format!("{route} {bytes} B, "));
            rest = rest.saturating_sub(bytes);
        }
    }
    format!("of these: {said}questions and heads {rest} B")
}
