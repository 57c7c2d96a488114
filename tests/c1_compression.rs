//! What Nix's own functional tests expect of compression, said again for a cache behind HTTP that
//! keeps one encoding of its own: any codec and level may be sent, what was sent stays as it was
//! under /push, and readers get the same bytes either way.

mod support;

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

            // The pusher remembers, by URL, the name it chose: with that name it comes back from
            // /push, in the codec it was sent in.
            let hash = &top["/nix/store/".len()..][..32];
            let pushed = server
                .http()
                .get(&format!("/push/{hash}.narinfo"))
                .is(200)
                .text();
            let remembered = remembered(&user);
            for (url, _) in &remembered {
                assert!(url.ends_with(suffix), "{codec}: {url}");
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
            sent_bytes.push(remembered(&user).iter().map(|(_, size)| size).sum::<u64>());
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

/// The URLs and file sizes of the uploads that this user's Nix remembers, out of its SQLite cache.
fn remembered(user: &User) -> Vec<(String, u64)> {
    let query = "
import glob, os, sqlite3
for file in glob.glob(os.environ['XDG_CACHE_HOME'] + '/nix/binary-cache-v*.sqlite'):
    for url, size in sqlite3.connect(file).execute('select url, fileSize from NARs where present'):
        print(url, size)";
    let printed = Node::this_machine()
        .sh(user, &Nix::installed(), &format!("python3 -c \"{query}\""))
        .ok();
    let rows = printed.lines().filter_map(|line| line.split_once(' '));
    let rows: Vec<(String, u64)> = rows
        .map(|(url, size)| (url.to_owned(), size.parse().expect("a size")))
        .collect();
    assert!(!rows.is_empty(), "nix remembers nothing");
    rows
}
