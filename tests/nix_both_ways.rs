//! Stock Nix, old and new, in both directions: `nix copy --to …/push`, then back into empty
//! stores, by the same user with the same caches, signatures required, every NAR compared with its
//! origin byte for byte.

mod support;

use std::process::Command;

use support::codec::CODECS;
use support::corpus::{self, Generation, assert_same_bytes};
use support::nix::{Nix, Node, User};
use support::server::Snowcached;

/// The same closure in each codec that Nix knows how to write: pushed, copied back, substituted.
#[test]
fn every_codec_travels_both_ways() {
    let small = corpus::small();
    for nix in Nix::both() {
        for codec in CODECS {
            let server = Snowcached::start();
            let user = User::of(&server);
            let push = format!(
                "nix copy --to '{}?compression={}' {}",
                server.push_url(),
                codec.name,
                small.top
            );
            Node::this_machine().sh(&user, &nix, &push).ok();
            assert_fetchable(&user, &nix, small);
            println!(
                "{}: {}: {} paths both ways",
                nix.version,
                codec.name,
                small.closure.len()
            );
        }
    }
}

/// Both generations of a system, pushed by either Nix, fetched by either Nix.
#[test]
fn both_generations_travel_from_either_nix_to_either_nix() {
    let [first, second] = corpus::generations();
    for (pusher, compression) in Nix::both()
        .into_iter()
        .zip(["zstd", "xz&compression-level=1"])
    {
        let server = Snowcached::start();
        let user = User::of(&server);
        for generation in [first, second] {
            let url = format!("{}?compression={compression}", server.push_url());
            let push = format!("nix copy --to '{url}' {}", generation.top);
            Node::this_machine().sh(&user, &pusher, &push).ok();
        }
        for fetcher in Nix::both() {
            // The second generation comes on top of the first, as on a machine that is switched.
            let (copying, realising) = (Node::empty(), Node::empty());
            for generation in [first, second] {
                let copy = format!("nix copy --from $URL {}", generation.top);
                copying.sh(&user, &fetcher, &copy).ok();
                assert_same_bytes(&copying, &generation.closure);
                realising
                    .sh(&user, &fetcher, &format!("nix-store -r {}", generation.top))
                    .ok();
                assert_same_bytes(&realising, &generation.closure);
            }
            println!(
                "{} -> {}: both generations, both ways",
                pusher.version, fetcher.version
            );
        }
    }
}

/// What is served is exactly what was said: Content-Length, FileSize, the two encodings of each
/// NAR, our signature.
#[test]
fn every_nar_is_served_byte_for_byte_in_both_encodings() {
    let (server, nix) = (Snowcached::start(), Nix::installed());
    let user = User::of(&server);
    let small = corpus::small();
    let push = format!(
        "nix copy --to '{}?compression=none' {}",
        server.push_url(),
        small.top
    );
    Node::this_machine().sh(&user, &nix, &push).ok();
    let key_name = server
        .public_key()
        .split(':')
        .next()
        .expect("name:key")
        .to_owned();
    for path in &small.closure {
        let hash = &path["/nix/store/".len()..][..32];
        let narinfo = server
            .http()
            .get(&format!("/{hash}.narinfo"))
            .is(200)
            .text();
        let field = |name: &str| field(&narinfo, name);
        assert_eq!(field("StorePath"), path.as_str());
        assert!(
            narinfo.contains(&format!("\nSig: {key_name}:")),
            "not signed by us:\n{narinfo}"
        );
        assert_eq!(field("Compression"), "zstd");

        let url = format!("/{}", field("URL"));
        let encoded = server.http().get(&url).is(200);
        assert_eq!(encoded.body.len().to_string(), field("FileSize"), "{path}");
        assert_eq!(
            server.http().head(&url).is(200).header("content-length"),
            Some(field("FileSize"))
        );
        let decoded = support::codec::pipe(&["zstd", "-d", "-q", "-c"], &encoded.body);
        assert_eq!(
            corpus::sha256(decoded.as_slice()),
            corpus::origin_sha256(path),
            "{path}: .nar.zst"
        );

        let nar_hash = field("NarHash").trim_start_matches("sha256:");
        let raw = server.http().get(&format!("/nar/{nar_hash}.nar")).is(200);
        assert_eq!(raw.body.len().to_string(), field("NarSize"), "{path}");
        assert_eq!(
            corpus::sha256(raw.body.as_slice()),
            corpus::origin_sha256(path),
            "{path}: .nar"
        );
    }
}

/// The signature is what lets a path in: a user who trusts another key gets nothing, by neither
/// command.
#[test]
fn without_the_key_nothing_comes_in() {
    let server = Snowcached::start();
    let mut user = User::of(&server);
    let small = corpus::small();
    let push = format!("nix copy --to $PUSH {}", small.top);
    Node::this_machine()
        .sh(&user, &Nix::installed(), &push)
        .ok();
    user.set(
        "trusted-public-keys",
        "stranger-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    );
    for nix in Nix::both() {
        let node = Node::empty();
        node.sh(&user, &nix, &format!("nix copy --from $URL {}", small.top))
            .fails();
        node.sh(&user, &nix, &format!("nix-store -r {}", small.top))
            .fails();
    }
}

/// Writing needs the token; nix says so, and nothing has arrived.
#[test]
fn without_the_token_nothing_goes_out() {
    let server = Snowcached::start();
    let mut user = User::of(&server);
    user.netrc("not-the-token");
    for nix in Nix::both() {
        let push = format!("nix copy --to $PUSH {}", corpus::small().top);
        let complaint = Node::this_machine().sh(&user, &nix, &push).fails();
        assert!(
            complaint.contains("401") || complaint.contains("403"),
            "{complaint}"
        );
    }
    assert_eq!(server.stats()["paths"], 0);
}

/// Two pushes of one closure at once, by an old and a new Nix, end well, and a third finds nothing
/// left to send.
#[test]
fn two_pushers_of_one_closure_do_not_mind_each_other() {
    let server = Snowcached::start();
    let small = corpus::small();
    let push = format!("nix copy --to $PUSH {}", small.top);
    std::thread::scope(|scope| {
        for nix in Nix::both() {
            let (server, push) = (&server, &push);
            scope.spawn(move || Node::this_machine().sh(&User::of(server), &nix, push).ok());
        }
    });
    let stats = server.stats();
    assert_eq!(stats["paths"], small.closure.len());
    let user = User::of(&server);
    Node::this_machine()
        .sh(&user, &Nix::installed(), &push)
        .ok();
    assert_eq!(
        server.stats()["segment_bytes"],
        stats["segment_bytes"],
        "the third push wrote"
    );
    assert_fetchable(&user, &Nix::newer(), small);
}

#[track_caller]
fn assert_fetchable(user: &User, nix: &Nix, generation: &Generation) {
    for way in ["nix copy --from $URL", "nix-store -r"] {
        let node = Node::empty();
        node.sh(user, nix, &format!("{way} {}", generation.top))
            .ok();
        assert_same_bytes(&node, &generation.closure);
    }
}

fn field<'a>(narinfo: &'a str, name: &str) -> &'a str {
    let line = narinfo
        .lines()
        .find(|line| line.split(':').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{narinfo}"));
    line[name.len() + 1..].trim()
}

/// `zstd -t` and friends are not needed for this: only that the tools that the tests lean on are
/// there.
#[test]
fn the_tools_are_there() {
    for codec in CODECS {
        assert_eq!(
            codec.compress(b"").is_empty(),
            codec.name == "none",
            "{}",
            codec.name
        );
    }
    assert!(
        Command::new("unshare")
            .arg("--version")
            .status()
            .expect("unshare")
            .success()
    );
}
