//! What Nix's own functional tests expect of compression, said again for a cache behind HTTP that keeps one encoding of its own:
//! any codec and level may be sent, what was sent stays as it was under /push, and readers get the same bytes either way.

mod support;

use std::fs;

use support::codec::CODECS;
use support::nix::{Nix, Node, User};
use support::server::Snowcached;

/// The suffixes that Nix gives the NARs it uploads.
const SUFFIXES: [(&str, &str); 8] = [
    ("none", ".nar"),
    ("br", ".nar.br"),
    ("bzip2", ".nar.bz2"),
    ("gzip", ".nar"),
    ("lz4", ".nar.lz4"),
    ("lzip", ".nar.lzip"),
    ("xz", ".nar.xz"),
    ("zstd", ".nar.zst"),
];

#[test]
fn every_codec_arrives_and_stays_readable_as_it_was_sent() {
    assert_eq!(SUFFIXES.len(), CODECS.len());
    for nix in Nix::both() {
        for (codec, suffix) in SUFFIXES {
            let server = Snowcached::start();
            let user = User::of(&server);
            let builder = Node::empty();
            let top = "nix-build --no-out-link --substituters '' $FILES/dependencies.nix";
            let top = builder.sh(&user, &nix, top).ok();
            builder
                .sh(
                    &user,
                    &nix,
                    &format!("nix copy --to \"$PUSH?compression={codec}\" {top}"),
                )
                .ok();

            // The pusher remembers, by URL, the name it chose: with that name it comes back from /push, in the codec it was sent in.
            let hash = &top["/nix/store/".len()..][..32];
            let pushed = server
                .http()
                .get(&format!("/push/{hash}.narinfo"))
                .is(200)
                .text();
            let remembered = remembered_url(&user);
            assert!(
                remembered.iter().all(|url| url.ends_with(suffix)),
                "{codec}: {remembered:?}"
            );
            for url in &remembered {
                let nar = server.http().get(&format!("/push/{url}")).is(200);
                assert!(
                    !nar.body.is_empty() && nar.header("accept-ranges").is_none_or(|v| v == "none"),
                    "{url}"
                );
            }
            assert!(
                pushed.contains("StorePath: ") && pushed.contains("\nSig: "),
                "{pushed}"
            );

            let fetch = format!("nix copy --from $PUSH --no-check-sigs {top}");
            let (by_push, by_reading) = (Node::empty(), Node::empty());
            by_push.sh(&user, &nix, &fetch).ok();
            by_reading
                .sh(&user, &nix, &fetch.replace("$PUSH --no-check-sigs", "$URL"))
                .ok();
            for node in [&by_push, &by_reading] {
                let hash = |node: &Node| node.sh(&user, &nix, &format!("nix hash path {top}")).ok();
                assert_eq!(hash(node), hash(&builder), "{codec}");
            }
        }
    }
}

#[test]
fn a_codec_that_we_do_not_take_is_refused_with_a_sentence() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let user = User::of(&server);
        let builder = Node::empty();
        let top = "nix-build --no-out-link --substituters '' $FILES/dependencies.nix";
        let top = builder.sh(&user, &nix, top).ok();
        for codec in ["lzma", "compress"] {
            let complaint = builder
                .sh(
                    &user,
                    &nix,
                    &format!("nix copy --to \"$PUSH?compression={codec}\" {top}"),
                )
                .fails();
            assert!(complaint.contains("HTTP error 4"), "{codec}: {complaint}");
        }
        assert_eq!(server.stats()["paths"], 0);
    }
}

#[test]
fn higher_levels_send_less_and_change_nothing_for_readers() {
    for nix in Nix::both() {
        let mut sent_bytes = Vec::new();
        let mut narinfos = Vec::new();
        for level in [0, 5] {
            let server = Snowcached::start();
            let mut user = User::of(&server);
            let small = support::corpus::small();
            let path = small
                .closure
                .iter()
                .find(|path| path.contains("libunistring"))
                .unwrap_or(&small.closure[0]);
            user.set("substitute", "false");
            let push =
                format!("nix copy --to \"$PUSH?compression=xz&compression-level={level}\" {path}");
            Node::this_machine().sh(&user, &nix, &push).ok();
            let sizes = remembered_url(&user).into_iter().map(|url| {
                let nar = server.http().head(&format!("/push/{url}")).is(200);
                nar.header("content-length")
                    .and_then(|length| length.parse::<u64>().ok())
                    .expect("a length")
            });
            sent_bytes.push(sizes.sum::<u64>());
            let narinfo = server
                .http()
                .get(&format!("/{}.narinfo", &path["/nix/store/".len()..][..32]));
            let narinfo = narinfo.is(200).text();
            narinfos.push(
                narinfo
                    .lines()
                    .filter(|line| !line.starts_with("Sig:"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
        assert!(sent_bytes[0] > sent_bytes[1], "{sent_bytes:?}");
        assert_eq!(narinfos[0], narinfos[1]);
    }
}

/// The NAR URLs that this user's Nix remembers of its uploads, out of its SQLite cache.
fn remembered_url(user: &User) -> Vec<String> {
    let cache = user.home().join("cache/nix");
    let mut found = std::collections::BTreeSet::new();
    for file in fs::read_dir(cache).expect("a narinfo cache").flatten() {
        let bytes = fs::read(file.path()).unwrap_or_default();
        for (at, _) in bytes
            .windows(4)
            .enumerate()
            .filter(|(_, window)| *window == b"nar/")
        {
            // Fields of a row lie side by side, so the end is known by what Nix can have chosen.
            let rest = String::from_utf8_lossy(&bytes[at..(at + 72).min(bytes.len())]).into_owned();
            let suffixes = [
                ".nar.bz2",
                ".nar.br",
                ".nar.xz",
                ".nar.zst",
                ".nar.lzip",
                ".nar.lz4",
                ".nar",
            ];
            let end = suffixes
                .iter()
                .find_map(|s| (rest[56..].starts_with(s)).then(|| 56 + s.len()));
            found.extend(end.map(|end| rest[..end].to_owned()));
        }
    }
    found.into_iter().collect()
}
