//! P5, P10: a whole closure fetched, and pushed, by the real nix on a machine of its own; wall
//! time, since the client is the limit, and the server's CPU beside it.

use std::time::Instant;

use super::super::corpus::public_key;
use super::super::engine::procs::used;
use super::super::harness::nix::{Nix, Node, User, inputs};
use super::super::peers::{OURS, Subject, snowcache};
use super::super::report::{Limit, Row};
use super::{Findings, Stage, interleaved};

const FILES: &str = "file://";

pub fn measure(stage: &mut Stage) -> Findings {
    let versions = nixes();
    if versions.is_empty() {
        let why = "nix is not installed";
        return Findings::rows([Row::untold("P5", "a closure by stock nix", why)]);
    }
    let mut rows = Vec::new();
    for nix in &versions {
        rows.extend(fetch(stage, nix));
    }
    rows.push(push(stage, &versions[0]));
    Findings::rows(rows)
}

/// Debian's, and the newer one when the tests have unpacked it.
fn nixes() -> Vec<Nix> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).any(|folder| folder.join("nix").exists());
    let newer = inputs().join("nix-2.26/bin/nix").exists();
    let installed = installed.then(Nix::installed);
    installed
        .into_iter()
        .chain(newer.then(Nix::newer))
        .collect()
}

fn fetch(stage: &Stage, nix: &Nix) -> [Row; 2] {
    let version = nix.version.replace("nix (Nix) ", "nix ");
    let work = format!("closure by {version}, wall");
    let mut wall = Row::new("P5", work, "s", Limit::RatioAtMost(1.0)).label(version.clone());
    let work = format!("closure by {version}, server's CPU");
    let mut cpu = Row::new("P5", work, "CPU s", Limit::Told);
    let top = &stage.corpus.generations[0].top;
    interleaved(&stage.subjects, stage.settings.rounds, |subject| {
        let (node, mut user) = (Node::empty(), reader(subject));
        user.variable("TOP", top);
        let (before, begin) = (used(subject.pid), Instant::now());
        node.sh(&user, nix, "nix copy --from $CACHE_URL $TOP").ok();
        wall.add(&subject.name, begin.elapsed().as_secs_f64());
        if let (Some(before), Some(after)) = (before, used(subject.pid)) {
            cpu.add(&subject.name, after.since(&before).cpu_seconds);
        }
    });
    [wall, cpu]
}

/// Someone who trusts the corpus's key and reads from this server.
fn reader(subject: &Subject) -> User {
    let mut user = User::new();
    user.set("trusted-public-keys", &public_key().to_string());
    user.variable("CACHE_URL", &subject.packed.target.url);
    user
}

/// The closure into an empty snowcached, and as files: both compressed by nix at zstd -3.
fn push(stage: &Stage, nix: &Nix) -> Row {
    let limit = Limit::Told;
    let mut row = Row::new("P10", "closure pushed by nix copy, wall", "s", limit).against(FILES);
    row.label = "nix copy --to".to_owned();
    let (node, top) = (Node::empty(), &stage.corpus.generations[0].top);
    let mut user = reader(&stage.subjects[0]);
    user.variable("TOP", top);
    node.sh(&user, nix, "nix copy --from $CACHE_URL $TOP").ok();
    for round in 0..stage.settings.rounds {
        for turn in 0..2 {
            let begin;
            if (round + turn) % 2 == 0 {
                let server = snowcache::start(&[]);
                let mut pusher = User::of(&server);
                pusher.variable("TOP", top);
                begin = Instant::now();
                node.sh(&pusher, nix, "nix copy --to $PUSH?compression=zstd $TOP")
                    .ok();
                row.add(OURS, begin.elapsed().as_secs_f64());
            } else {
                begin = Instant::now();
                node.sh(
                    &user,
                    nix,
                    "nix copy --to file://$HOME/copy?compression=zstd $TOP",
                )
                .ok();
                row.add(FILES, begin.elapsed().as_secs_f64());
                std::fs::remove_dir_all(user.home().join("copy")).ok();
            }
            user.forget();
        }
    }
    row
}
