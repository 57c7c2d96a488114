//! Hostile uploads: each is refused with a 4xx and a sentence that says what is wrong, and leaves
//! nothing behind.
//!
//! Old clients believe whatever a cache serves: absolute URLs, unsorted entries, NUL in symlink
//! targets, trailing garbage. So the cache must not take it in the first place.

mod support;

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use support::attacks::{bad_nars, canonical_bomb, lies};
use support::codec::{CODECS, Codec, pipe};
use support::http::Response;
use support::nar::{Nar, Upload};
use support::server::Snowcached;

/// So long after an attack, too, nothing of it may have appeared.
const A_MINUTE: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::ZERO;
/// What a server may hold in memory, whatever it is sent. (A decoder's window is at most 8 MiB, a
/// few uploads at once.)
const MEMORY_KIB_AT_MOST: u64 = 200 << 10;

#[test]
fn bad_nars_are_refused_and_leave_nothing_behind() {
    let server = Snowcached::start();
    let token = server.push_token();
    let good = Upload::honest(1, "good", &Nar::of_file(b"good"), Codec::named("zstd"));
    publish(&server, &good);
    let before = (server.stats(), server.disk_kib());
    for (what, nar) in bad_nars() {
        for codec in [Codec::named("none"), Codec::named("zstd")] {
            let upload = Upload::honest(2, "bad", &nar, codec);
            let answer = server.http().put(&upload.nar_path(), &token, &upload.body);
            assert_refused(&format!("{what}, {}", codec.name), &answer);
            server.http().get(&upload.nar_path()).is(404);
        }
    }
    assert_nothing_left(&server, &before, A_MINUTE);
    server
        .http()
        .get(&format!("/{}.narinfo", good.hash_part()))
        .is(200);
}

#[test]
fn bombs_in_every_codec_are_refused_in_no_time_and_little_memory() {
    let server = Snowcached::start();
    let token = server.push_token();
    let before = (server.stats(), server.disk_kib());
    for codec in CODECS.iter().filter(|codec| codec.name != "none") {
        let folder = support::folder_on_disk();
        let (small, endless) = (
            folder.path().join("small.nar"),
            folder.path().join("endless.nar"),
        );
        std::fs::write(&small, Nar::of_file(b"small").0).expect("a file");
        // A file of a petabyte, or so it says.
        let header = Nar::new().words(&["(", "type", "regular", "contents"]);
        let declared = [header.0, (1_u64 << 50).to_le_bytes().to_vec()].concat();
        std::fs::write(&endless, declared).expect("a file");
        let (small, endless) = (small.display(), endless.display());
        let bombs = [
            ("zeros that are no NAR", "head -c 128M /dev/zero".to_owned()),
            (
                "zeros behind a NAR",
                format!("cat {small}; head -c 128M /dev/zero"),
            ),
            (
                "a petabyte of zeros",
                format!("cat {endless}; head -c 128M /dev/zero"),
            ),
        ];
        for (what, command) in bombs {
            let body = codec.compress_output_of(&format!("{{ {command}; }}"));
            let path = format!("/push/nar/bomb.nar{}", codec.suffix);
            let begin = std::time::Instant::now();
            let answer = server.http().put(&path, &token, &body);
            assert_refused(&format!("{what}, {}", codec.name), &answer);
            assert!(
                begin.elapsed() < Duration::from_secs(5),
                "{what}, {}: {:?}",
                codec.name,
                begin.elapsed()
            );
        }
    }
    let answer = server
        .http()
        .put("/push/nar/zeros.nar.br", &token, &canonical_bomb());
    assert_refused("a canonical NAR, four gigabytes in some kilobytes", &answer);
    assert!(
        server.memory_kib("VmHWM") <= MEMORY_KIB_AT_MOST,
        "{} KiB",
        server.memory_kib("VmHWM")
    );
    assert_nothing_left(&server, &before, A_MINUTE);
}

/// Streams that a decoder can only read with a gigabyte of window: refused or read, but not with a
/// gigabyte.
#[test]
fn decoders_do_not_hand_out_gigabytes_of_window() {
    let server = Snowcached::start();
    let token = server.push_token();
    let nar = Nar::of_file(&support::random::Random::seeded(7).bytes(3 << 20)).0;
    let greedy: [(&str, &str, &[&str]); 4] = [
        ("xz", ".xz", &["xz", "-c", "--lzma2=preset=0,dict=1536MiB"]),
        (
            "zstd",
            ".zst",
            &[
                "zstd",
                "-q",
                "-c",
                "--ultra",
                "--long=31",
                "--no-content-size",
            ],
        ),
        ("lzip", ".lzip", &["lzip", "-c", "-s", "512MiB"]),
        (
            "br",
            ".br",
            &["brotli", "-c", "-q", "1", "--large_window=30"],
        ),
    ];
    for (codec, suffix, tool) in greedy {
        let body = pipe(tool, &nar);
        let answer = server
            .http()
            .put(&format!("/push/nar/greedy.nar{suffix}"), &token, &body);
        let read_or_refused = answer.status == 200 || (400..500).contains(&answer.status);
        assert!(
            read_or_refused,
            "{codec}: {} {}",
            answer.status,
            answer.text()
        );
        let memory = server.memory_kib("VmHWM");
        assert!(memory <= MEMORY_KIB_AT_MOST, "{codec}: {memory} KiB");
    }
}

#[test]
fn lying_narinfos_are_refused_and_their_nar_stays_invisible() {
    let server = Snowcached::start();
    let token = server.push_token();
    let honest = Upload::honest(
        3,
        "honest",
        &Nar::of_file(b"what it is"),
        Codec::named("xz"),
    );
    server
        .http()
        .put(&honest.nar_path(), &token, &honest.body)
        .is(200);
    let before = (server.stats(), server.disk_kib());
    for (what, narinfo) in lies(&honest) {
        let answer = server
            .http()
            .put(&honest.narinfo_path(), &token, narinfo.as_bytes());
        assert_refused(what, &answer);
        server
            .http()
            .get(&format!("/{}.narinfo", honest.hash_part()))
            .is(404);
        let raw = honest.nar_hash.trim_start_matches("sha256:");
        server.http().get(&format!("/nar/{raw}.nar")).is(404);
    }
    assert_nothing_left(&server, &before, A_MINUTE);
    // The NAR still lies there under its lease: the truth needs no second upload.
    server
        .http()
        .put(&honest.narinfo_path(), &token, honest.narinfo().as_bytes())
        .is(200);
    server
        .http()
        .get(&format!("/{}.narinfo", honest.hash_part()))
        .is(200);
}

#[test]
fn a_narinfo_of_a_gigabyte_is_refused_unread() {
    let server = Snowcached::start();
    let token = server.push_token();
    let before = (server.stats(), server.disk_kib());
    let upload = Upload::honest(4, "wide", &Nar::of_file(b"wide"), Codec::named("none"));
    let (path, size) = (upload.narinfo_path(), 1_u64 << 30);
    for declared in [Some(size), None] {
        let body = io::Cursor::new(upload.narinfo().into_bytes())
            .chain(io::repeat(b'x'))
            .take(size);
        let answer = server
            .http()
            .request("PUT", &path)
            .bearer(&token)
            .stream(declared, body)
            .send();
        assert_refused("a narinfo of 1 GB", &answer);
    }
    assert!(
        server.memory_kib("VmHWM") <= MEMORY_KIB_AT_MOST,
        "{} KiB",
        server.memory_kib("VmHWM")
    );
    assert_eq!(before.0, server.stats());
}

#[test]
fn without_the_right_token_nothing_is_read() {
    let server = Snowcached::start();
    let before = (server.stats(), server.disk_kib());
    let upload = Upload::honest(5, "mine", &Nar::of_file(b"mine"), Codec::named("zstd"));
    let token = server.push_token();
    let cut_short = &token[..token.len() - 1];
    let wrong = [
        None,
        Some("Bearer wrong".to_owned()),
        Some("Bearer ".to_owned()),
        Some(format!("Bearer {cut_short}")),
        Some(format!("Bearer {token}x")),
        Some("Basic d3Jvbmc6d3Jvbmc=".to_owned()),
        Some("Basic not-base64".to_owned()),
        Some(token.clone()),
        Some(format!("Digest {token}")),
    ];
    let documents = [
        "log/aaaa.drv",
        "realisations/sha256:00!out.doi",
        "nix-cache-info",
    ];
    let mut targets = vec![upload.nar_path(), upload.narinfo_path()];
    targets.extend(documents.map(|document| format!("/push/{document}")));
    for credential in wrong {
        for target in &targets {
            let mut request = server.http().request("PUT", target).bytes(&upload.body);
            if let Some(credential) = &credential {
                request = request.header("Authorization", credential);
            }
            let answer = request.send();
            assert_eq!(
                answer.status,
                401,
                "{credential:?} {target}: {}",
                answer.text()
            );
            assert_refused("a wrong token", &answer);
            assert!(
                answer.header("www-authenticate").is_some(),
                "no WWW-Authenticate"
            );
        }
    }
    assert_nothing_left(&server, &before, AT_ONCE);
}

#[test]
fn writing_to_the_reading_url_says_where_to_write() {
    let server = Snowcached::start();
    let upload = Upload::honest(6, "lost", &Nar::of_file(b"lost"), Codec::named("zstd"));
    for path in [
        format!("/{}", upload.url),
        format!("/{}.narinfo", upload.hash_part()),
    ] {
        let answer = server
            .http()
            .put(&path, &server.push_token(), &upload.body)
            .is(405);
        assert!(answer.text().contains("/push"), "{}", answer.text());
    }
}

/// A connection that ends in the middle of a NAR leaves nothing behind, however it ends.
#[test]
fn uploads_that_break_off_leave_nothing_behind() {
    let server = Snowcached::start();
    let token = server.push_token();
    let before = (server.stats(), server.disk_kib());
    let nar = Nar::of_file(&support::random::Random::seeded(8).bytes(4 << 20));
    for codec in CODECS {
        let upload = Upload::honest(7, "broken", &nar, &codec);
        let (whole, half) = (upload.body.len() as u64, upload.body.len() as u64 / 2);
        // The length is a lie: the connection closes halfway. No answer is owed; if one comes it
        // is a refusal.
        let body = upload.body.as_slice().take(half);
        let request = server
            .http()
            .request("PUT", &upload.nar_path())
            .bearer(&token);
        if let Ok(answer) = request.stream(Some(whole), body).try_send() {
            assert!(answer.status >= 400, "{}: {}", codec.name, answer.status);
        }
        // The length is true, the stream is half of one.
        let answer = server
            .http()
            .put(&upload.nar_path(), &token, &upload.body[..half as usize]);
        assert_refused(&format!("truncated {}", codec.name), &answer);
    }
    assert_nothing_left(&server, &before, AT_ONCE);
}

// ---- what is asserted of each ----

/// A 4xx, and a sentence for a person.
#[track_caller]
fn assert_refused(what: &str, answer: &Response) {
    let text = answer.text();
    assert!(
        (400..500).contains(&answer.status),
        "{what}: {} {text}",
        answer.status
    );
    let words = text.split_whitespace().count();
    assert!(
        words >= 4 && text.len() < 2000,
        "{what}: not a sentence: {text:?}"
    );
    println!("{what}: {} {}", answer.status, text.trim());
}

/// The index counts the same, the data folder is as big as before: at once, and when some time has
/// passed.
#[track_caller]
fn assert_nothing_left(server: &Snowcached, before: &(serde_json::Value, u64), wait: Duration) {
    for wait in [AT_ONCE, wait] {
        thread::sleep(wait);
        assert_eq!(server.stats(), before.0, "the index's counts");
        let now = server.disk_kib();
        assert!(
            now <= before.1,
            "the data folder grew from {} KiB to {now} KiB",
            before.1
        );
    }
}

/// Uploads a path the honest way.
fn publish(server: &Snowcached, upload: &Upload) {
    let token = server.push_token();
    server
        .http()
        .put(&upload.nar_path(), &token, &upload.body)
        .is(200);
    server
        .http()
        .put(&upload.narinfo_path(), &token, upload.narinfo().as_bytes())
        .is(200);
}
