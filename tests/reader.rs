//! The segments can be read without us: a reader that knows the format document and nothing else
//! makes of them, byte for byte, what the server serves; whole, torn, damaged or rewritten.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use support::codec::Codec;
use support::nar::{Nar, Upload};
use support::nix::{Nix, Node};
use support::oracle;
use support::random::Random;
use support::served::{Served, assert_same, everything};
use support::server::Snowcached;
use support::snowread::{snowread, state_record};
use support::stocked::stocked;

/// A depot whose server has stopped, and what that served.
struct Left {
    server: Snowcached,
    uploads: Vec<Upload>,
    served: BTreeMap<String, Served>,
}

#[test]
fn every_path_is_made_from_segments_and_document_alone() {
    let left = left();
    fs::remove_dir_all(left.server.depot().join("index")).expect("an index to remove");
    let names: Vec<String> = left.served.keys().cloned().collect();
    assert_eq!(snowread(&left.segments(), &["list"]).names(), names);
    snowread(&left.segments(), &["check"]).well();
    left.is_restored_from(&left.segments(), &[]);
    for upload in &left.uploads {
        let by_path = snowread(&left.segments(), &["nar", upload.hash_part()]).well();
        assert!(by_path == upload.nar, "{}", upload.store_path);
    }
    let by_content = ["nar", &left.uploads[0].nar_hash];
    assert!(snowread(&left.segments(), &by_content).well() == left.uploads[0].nar);
    let nothing = snowread(&left.segments(), &["nar", &"0".repeat(32)])
        .unwell()
        .1;
    assert!(nothing.contains("no recipe"), "{nothing}");
}

/// What the reader restores is a binary cache that stock Nix takes a closure from, signatures and
/// all.
#[test]
fn nix_reads_what_the_reader_restores() {
    let mut stocked = stocked(&Nix::installed());
    stocked.server.stop();
    let folder = support::folder_on_disk();
    let restored = folder.path().to_string_lossy();
    snowread(
        &stocked.server.depot().join("segments"),
        &["restore", &restored],
    )
    .well();
    let substituter = format!("file://{restored}");
    let (newcomer, node) = (stocked.newcomer(&substituter), Node::empty());
    let copy = format!("nix copy --from {substituter} $TOP && nix-store --verify --check-contents");
    node.sh(&newcomer, &Nix::installed(), &copy).ok();
}

#[test]
fn a_torn_tail_is_not_there_and_an_unfinished_commit_neither() {
    let left = left();
    let folder = left.copied();
    let (segment, last) = left.segment_with(b"the-last-one\\nNarHash", folder.path());
    let whole = fs::read(&segment).expect("a segment");
    for torn in [&whole[..90], &b"garbage"[..], &[0; 5000]] {
        fs::write(&segment, [&whole, torn].concat()).expect("a segment");
        let read = snowread(folder.path(), &["check"]);
        assert!(
            read.complaints.contains("never committed"),
            "{}",
            read.complaints
        );
        read.well();
        left.is_restored_from(folder.path(), &[]);
    }
    for cut in [1, 100, whole.len() - last] {
        fs::write(&segment, &whole[..whole.len() - cut]).expect("a segment");
        left.is_restored_from(folder.path(), &["the-last-one"]);
    }
}

#[test]
fn damage_costs_what_it_hits_and_is_named() {
    let left = left();
    let upload = left.upload("noise");
    let own = &upload.nar[upload.nar.len() / 2..][..64];
    for bit in [1, 128] {
        let folder = left.copied();
        let (segment, at) = left.segment_with(own, folder.path());
        flip(&segment, at + 10, bit);
        for check in [&["check"][..], &["check", "--fast"], &["list"]] {
            let fast_list = check == ["check", "--fast"];
            let complaints = snowread(folder.path(), check).unwell().1;
            assert!(complaints.contains(upload.base_name()), "{complaints}");
            assert_eq!(complaints.matches("lost:").count(), 1, "{complaints}");
            assert_eq!(
                complaints.contains(".seg is damaged"),
                !fast_list,
                "{complaints}"
            );
        }
        left.is_restored_from(folder.path(), &["noise"]);
    }
    // The header of the first record in a file: the way to the second one must be found.
    let folder = left.copied();
    let (segment, _) = left.segment_with(own, folder.path());
    flip(&segment, 9, 4);
    let (_, complaints) = snowread(folder.path(), &["check"]).unwell();
    assert!(complaints.contains("damaged from 0 to 36"), "{complaints}");
    left.is_restored_from(folder.path(), &[]);
    // A path record: the path is gone, though nobody can say which it was.
    let (segment, at) = left.segment_with(b"-links\\nNarHash", folder.path());
    flip(&segment, at, 1);
    left.is_restored_from(folder.path(), &["links"]);
}

#[test]
fn of_what_is_found_twice_either_copy_serves() {
    let left = left();
    let folder = left.copied();
    let upload = left.upload("noise");
    let own = &upload.nar[upload.nar.len() / 2..][..64];
    let (segment, at) = left.segment_with(own, folder.path());
    fs::copy(&segment, folder.path().join("0000000077.seg")).expect("a copy");
    left.is_restored_from(folder.path(), &[]);
    flip(&segment, at, 1);
    let (_, complaints) = snowread(folder.path(), &["check"]).unwell();
    assert!(
        complaints.contains("damaged") && !complaints.contains("lost"),
        "{complaints}"
    );
    left.is_restored_from(folder.path(), &[]);
    fs::remove_file(&segment).expect("the damaged one");
    snowread(folder.path(), &["check"]).well();
    left.is_restored_from(folder.path(), &[]);
}

#[test]
fn what_was_removed_is_gone_until_it_is_put_again_and_pins_are_told() {
    let left = left();
    let folder = left.copied();
    let removed = |name: &str| {
        let hash = left.upload(name).hash_part().to_owned();
        serde_json::json!({"cache": "default", "store_hash": hash, "reason": "asked", "subject":
            "admin", "time": 1_800_000_000})
    };
    let pin = |generations: serde_json::Value| {
        serde_json::json!({"cache": "default", "name": "prod", "current": 7, "keep": "5",
            "expires": null, "generations": generations})
    };
    let root = left.upload("links").base_name();
    let one = serde_json::json!([{"number": 7, "roots": [root], "time": 1, "subject": "push"}]);
    let again = serde_json::json!({"cache": "default", "subject": "push", "time": 2,
        "narinfo": without_file(&left.served[left.upload("links").base_name()].narinfo)});
    // What was made last does not lie last: numbers count, not places.
    let states = [
        (5, 1, 1_003, again),
        (10, 2, 1_001, removed("links")),
        (10, 2, 1_002, removed("noise")),
        (11, 2, 1_004, pin(one)),
        (11, 2, 900, pin(serde_json::json!([]))),
    ];
    let mut segment = state_record(2, 1, 999, &78_u32.to_le_bytes());
    for (kind, version, sequence, state) in &states {
        segment.extend(state_record(
            *kind,
            *version,
            *sequence,
            state.to_string().as_bytes(),
        ));
    }
    let file = folder.path().join("0000000078.seg");
    fs::write(&file, &segment).expect("a segment");
    left.is_restored_from(folder.path(), &["noise"]);
    let list = String::from_utf8(snowread(folder.path(), &["list"]).well()).expect("text");
    let pins: Vec<&str> = list
        .lines()
        .filter(|line| line.starts_with("pin "))
        .collect();
    assert_eq!(pins.len(), 1, "{list}");
    assert!(
        pins[0].starts_with("pin prod {") && pins[0].contains(root),
        "{list}"
    );
    segment.extend(state_record(
        11,
        2,
        1_005,
        states[4].3.to_string().as_bytes(),
    ));
    fs::write(&file, &segment).expect("a segment");
    let list = String::from_utf8(snowread(folder.path(), &["list"]).well()).expect("text");
    assert!(!list.contains("pin "), "{list}");
}

/// A power cut before the sync left any part of removals that were one commit: none counts, for the
/// reader and for a server without an index. Where something is committed behind them they had been
/// synced, and damage costs what it hits.
#[test]
fn a_torn_group_counts_for_nothing() {
    let mut left = left();
    left.server.start_again();
    let gone = ["links", "noise"].map(|name| left.upload(name).base_name().to_owned());
    let names = [gone[0].as_str(), gone[1].as_str()];
    oracle::remove(left.server.http(), &left.server.admin_token(), &names).expect("removed");
    left.server.stop();
    left.is_restored_from(&left.segments(), &["links", "noise"]);
    let folder = left.copied();
    let (segment, at) = left.segment_with(b"\"reason\":", folder.path());
    flip(&segment, at, 1);
    snowread(folder.path(), &["check"]).well();
    left.is_restored_from(folder.path(), &[]);

    let torn = fs::read(&segment).expect("a segment");
    let part = state_record(9, 1, 9_000, b"");
    fs::write(&segment, [&torn, &part[..]].concat()).expect("a segment");
    let (_, complaints) = snowread(folder.path(), &["check"]).unwell();
    let damages = complaints.matches(".seg is damaged").count();
    assert_eq!(damages, 1, "{complaints}");
    let list = snowread(folder.path(), &["list"]).printed;
    let paths = list.split(|byte| *byte == b'\n').count() - 1;
    assert_eq!(paths, left.served.len() - 1);

    let name = segment.file_name().expect("a name");
    fs::write(left.segments().join(name), &torn).expect("the segment");
    fs::remove_dir_all(left.server.depot().join("index")).expect("an index to remove");
    left.server.start_again();
    assert_same(&left.served, &everything(left.server.http()));
}

/// Removals and pins as the server writes them, and segments that a collection has rewritten.
#[test]
fn what_a_collector_rewrote_is_read_as_before() {
    let configured = support::folder_on_disk();
    let [flag, config] = oracle::quick_collections(configured.path(), 1);
    let folder = support::folder_on_disk();
    let mut server = Snowcached::start_with(folder, "info", &[&flag, &config]);
    let (http, token, admin_token) = (server.http(), server.push_token(), server.admin_token());
    let uploads = uploads();
    let gone = Nar::of_file(&Random::seeded(42).bytes(300_000));
    let gone = Upload::honest(4_000, "gone", &gone, Codec::named("none"));
    oracle::publish(http, &token, &uploads[0]);
    oracle::publish(http, &token, &gone);
    for upload in &uploads[1..] {
        oracle::publish(http, &token, upload);
    }
    let root = format!("/nix/store/{}", uploads[5].base_name());
    let pin = serde_json::json!({ "roots": [root] }).to_string();
    http.put("/api/v1/pins/prod", &token, pin.as_bytes())
        .is(200);
    let names = [gone.base_name(), uploads[3].base_name()];
    oracle::remove(http, &admin_token, &names).expect("removed");
    thread::sleep(Duration::from_secs(2)); // the leases of what was removed end
    let collected = oracle::collect(http, &admin_token).expect("collected");
    assert!(
        collected["segments_rewritten"].as_u64() > Some(0),
        "{collected}"
    );
    let served = everything(http);
    assert_eq!(served.len(), uploads.len() - 1);
    server.stop();
    let left = Left {
        server,
        uploads,
        served,
    };
    snowread(&left.segments(), &["check"]).well();
    left.is_restored_from(&left.segments(), &[]);
    let list = String::from_utf8(snowread(&left.segments(), &["list"]).well()).expect("text");
    let pin = list.lines().find(|line| line.starts_with("pin prod {"));
    assert!(pin.is_some_and(|pin| pin.contains(&root[11..])), "{list}");
}

#[test]
fn a_newer_version_is_refused_with_a_sentence() {
    let left = left();
    let folder = left.copied();
    let record = state_record(12, 3, 5_000, b"from the future");
    fs::write(folder.path().join("0000000079.seg"), record).expect("a segment");
    for command in ["list", "check"] {
        let (printed, complaints) = snowread(folder.path(), &[command]).unwell();
        assert!(
            printed.is_empty() && complaints.lines().count() == 1,
            "{complaints}"
        );
        assert!(complaints.contains("version 3") && complaints.contains("take the reader"));
    }
}

/// docs/format/example.md, taken at its word: the bytes in it are a depot, for the reader and for
/// today's server.
#[test]
fn the_example_in_the_document_is_a_depot() {
    let document = support::root().join("docs/format/example.md");
    let document = fs::read_to_string(document).expect("the document");
    let mut bytes = Vec::new();
    for line in document.lines() {
        let Some((at, rest)) = line.split_once("  ").filter(|(at, _)| at.len() == 4) else {
            continue;
        };
        assert_eq!(usize::from_str_radix(at, 16), Ok(bytes.len()), "{line}");
        match rest.strip_prefix('\'') {
            Some(text) => bytes.extend(text.strip_suffix('\'').expect("a quote").bytes()),
            None => {
                let digits = rest.split("  ").next().unwrap_or_default().split(' ');
                bytes.extend(digits.map(|byte| u8::from_str_radix(byte, 16).expect("a byte")));
            }
        }
    }
    let title = format!("# A depot in {} bytes\n", bytes.len());
    assert!(document.starts_with(&title), "{title}");
    let folder = support::folder_on_disk();
    let segments = folder.path().join("data/depot/segments");
    fs::create_dir_all(&segments).expect("a folder");
    fs::write(segments.join("0000000001.seg"), &bytes).expect("a segment");

    let path = "zyxwvsrqpnmlkjihgfdcba9876543210";
    assert_eq!(
        snowread(&segments, &["list"]).names(),
        [format!("{path}-flake")]
    );
    let text = "snow falls\n".repeat(100) + "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-hail\n";
    let nar = Nar::of_file(text.as_bytes()).0;
    assert!(snowread(&segments, &["nar", path]).well() == nar);
    let server = Snowcached::start_with(folder, "info", &[]);
    let served = everything(server.http());
    assert_eq!(served.len(), 1);
    assert!(served[&format!("{path}-flake")].nar == nar);
    assert_eq!(served[&format!("{path}-flake")].file.len(), 234);
}

// ---- the depot ----

fn left() -> Left {
    let mut server = Snowcached::start();
    let (http, token, uploads) = (server.http(), server.push_token(), uploads());
    let put = |path: &str, body: &[u8]| http.put(path, &token, body).is(200);
    let push = |upload: &Upload| {
        put(&upload.nar_path(), &upload.body);
        put(&upload.narinfo_path(), upload.narinfo().as_bytes());
    };
    let (last, others) = uploads.split_last().expect("some uploads");
    others.iter().for_each(push);
    // Signatures that come later, an upload without a narinfo, and then the last commit of all.
    let mut again = uploads[2].clone();
    again.more = format!("Sig: elsewhere-1:{}==\n", "A".repeat(86));
    put(&again.narinfo_path(), again.narinfo().as_bytes());
    put("/push/nar/only-leased.nar", &Nar::of_file(b"leased").0);
    push(last);
    let served = everything(http);
    assert_eq!(served.len(), uploads.len());
    assert!(
        served[again.base_name()]
            .narinfo
            .contains("Sig: elsewhere-1:")
    );
    server.stop();
    Left {
        server,
        uploads,
        served,
    }
}

/// A path of each kind: no content and much of it, shared content, few and many references.
fn uploads() -> Vec<Upload> {
    let mut random = Random::seeded(41);
    let shared = random.bytes(150_000);
    let noise = random.bytes(20_000);
    let hash = support::nar::hash_part;
    let links: String = (0..2_000)
        .map(|n| format!("/nix/store/{}-l{n}/bin\n", hash(n)))
        .collect();
    let script =
        format!("#! /nix/store/{}-shared/bin/sh\n", hash(2)).repeat(3) + &"x".repeat(5_000);
    let grown = Nar::new().directory().entry(b"a", |nar| nar.file(&shared));
    let grown = grown.entry(b"b", |nar| nar.symlink(b"a")).end();
    let thousand = (0..1_100).fold(Nar::new().directory(), |nar, n| {
        let name = format!("entry-{n:04}");
        let text = format!("{}-{n}", hash(n)) + &"-".repeat(1_100);
        nar.entry(name.as_bytes(), |nar| nar.file(text.as_bytes()))
    });
    let nars = [
        ("empty", Nar::of_file(b"")),
        ("shared", Nar::of_file(&shared)),
        ("grown", grown),
        ("noise", Nar::of_file(&noise)),
        ("script", Nar::of_file(script.as_bytes())),
        ("links", Nar::of_file(links.as_bytes())),
        ("many-ops", thousand.end()),
        ("zeros", Nar::of_file(&vec![0; 1_000_000])),
        ("the-same-zeros", Nar::of_file(&vec![0; 1_000_000])),
        ("the-last-one", Nar::of_file(b"a short one")),
    ];
    let codecs = ["none", "zstd", "gzip"].iter().cycle();
    let numbered = nars.into_iter().zip(codecs).zip(1..);
    let mut uploads: Vec<Upload> = numbered
        .map(|(((name, nar), codec), n)| Upload::honest(n, name, &nar, Codec::named(codec)))
        .collect();
    let shared = uploads[1].base_name().to_owned();
    for upload in &mut uploads[2..5] {
        upload.references = vec![shared.clone(), upload.base_name().to_owned()];
    }
    uploads
}

impl Left {
    fn segments(&self) -> PathBuf {
        self.server.depot().join("segments")
    }

    fn upload(&self, name: &str) -> &Upload {
        let ends = |upload: &&Upload| upload.store_path[44..] == *name;
        self.uploads.iter().find(ends).expect("one of the uploads")
    }

    /// The segments again, to be spoilt.
    fn copied(&self) -> tempfile::TempDir {
        let folder = support::folder_on_disk();
        for segment in fs::read_dir(self.segments()).expect("segments").flatten() {
            let name = segment.file_name();
            fs::copy(segment.path(), folder.path().join(name)).expect("a copy");
        }
        folder
    }

    /// The segment in `folder` that holds these bytes, and where.
    fn segment_with(&self, bytes: &[u8], folder: &Path) -> (PathBuf, usize) {
        for segment in fs::read_dir(folder).expect("segments").flatten() {
            let content = fs::read(segment.path()).expect("a segment");
            let mut places = content.windows(bytes.len());
            if let Some(at) = places.position(|window| window == bytes) {
                return (segment.path(), at);
            }
        }
        panic!("nowhere: {}", String::from_utf8_lossy(bytes));
    }

    /// The reader restores from `segments` exactly what the server served, but for these names.
    #[track_caller]
    fn is_restored_from(&self, segments: &Path, but_for: &[&str]) {
        let folder = support::folder_on_disk();
        snowread(segments, &["restore", &folder.path().to_string_lossy()]);
        let mut expected = self.served.clone();
        expected.retain(|name, _| !but_for.contains(&&name[33..]));
        assert_eq!(expected.len() + but_for.len(), self.served.len());
        let mut restored = BTreeMap::new();
        for file in fs::read_dir(folder.path()).expect("a folder").flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let Some(hash) = name.strip_suffix(".narinfo") else {
                continue;
            };
            let narinfo = fs::read_to_string(file.path()).expect("a narinfo");
            let field = |key: &str| narinfo.lines().find_map(|line| line.strip_prefix(key));
            let url = field("URL: ").expect("a URL").to_owned();
            let name = field("StorePath: /nix/store/").expect("a path").to_owned();
            assert_eq!(hash, &name[..32]);
            let file = fs::read(folder.path().join(&url)).expect("the file that it names");
            let nar = zstd::decode_all(&file[..]).expect("zstd");
            let served = Served {
                narinfo,
                url,
                file,
                nar,
            };
            restored.insert(name, served);
        }
        assert_same(&expected, &restored);
    }
}

/// The narinfo as it is recorded.
fn without_file(narinfo: &str) -> String {
    let kept = narinfo.lines().filter(|line| {
        let of_the_file = ["URL:", "Compression:", "FileSize:"];
        !of_the_file.iter().any(|key| line.starts_with(key))
    });
    kept.map(|line| format!("{line}\n")).collect()
}

fn flip(file: &Path, at: usize, bits: u8) {
    let mut bytes = fs::read(file).expect("a segment");
    bytes[at] ^= bits;
    fs::write(file, bytes).expect("a segment");
}
