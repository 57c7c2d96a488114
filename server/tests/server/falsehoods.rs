//! Whoever may push and lies gets no signature on it: each lie told over the native API and as
//! stock Nix would tell it, and then no signature of the cache's is anywhere on its disk.

use crate::client::{Answer, Cache};
use crate::named::{make, parsed, with};
use crate::pieces::{Part, UPLOADS, cut, frame, huge_window, id_of, stream, with_dictionary};
use crate::sample::{Sample, noise, store_path};
use serde_json::json;
use snowcache_core::recipe::FrameId;
use snowcache_nix::{NarHash, PathInfo, SecretKey, fingerprint};
use std::fs;
use std::path::Path;

/// Who signs here; nobody else does.
const KEY: &str = "test-1";

/// A NAR's bytes as they are sent, and what is said of them.
struct Lie {
    what: &'static str,
    /// Streams of the native API, sent before anything is said.
    streams: Vec<Vec<u8>>,
    /// Records to be published, and what is said to be vouched for.
    records: Vec<String>,
    vouched: Vec<String>,
    /// For stock Nix: files below nar/, and narinfos, each with the URL it is put to.
    files: Vec<(&'static str, Vec<u8>)>,
    narinfos: Vec<(String, String)>,
}

impl Lie {
    /// A lie about a path whose bytes are what they are.
    fn about(what: &'static str, sample: &Sample, change: impl Fn(&str) -> String) -> Lie {
        let narinfo = change(&sample.narinfo("nar/true.nar", "none"));
        Lie {
            what,
            streams: vec![stream(sample, &cut(&sample.nar))],
            records: vec![change(&sample.record())],
            vouched: Vec::new(),
            files: vec![("true.nar", sample.nar.clone())],
            narinfos: vec![(sample.narinfo_url(), narinfo)],
        }
    }

    /// A lie about bytes: `parts` and `file` are sent for what the sample is said to be.
    fn instead(
        what: &'static str,
        sample: &Sample,
        parts: &[Part],
        file: (&'static str, Vec<u8>),
    ) -> Lie {
        let codec = match file.0.ends_with(".zst") {
            true => "zstd",
            false => "none",
        };
        let narinfo = sample.narinfo(&format!("nar/{}", file.0), codec);
        Lie {
            what,
            streams: vec![stream(sample, parts)],
            records: vec![sample.record()],
            vouched: Vec::new(),
            files: vec![file],
            narinfos: vec![(sample.narinfo_url(), narinfo)],
        }
    }

    fn native(&self, cache: &Cache) -> Answer {
        for stream in &self.streams {
            let answer = cache.post(UPLOADS, stream);
            assert_eq!(answer.status, 200, "{}: {}", self.what, answer.text());
        }
        let body = json!({ "paths": self.records, "vouched": self.vouched }).to_string();
        cache.post(&format!("{UPLOADS}/commit"), body.as_bytes())
    }

    /// The answers to what says something; bytes alone say nothing, and may be refused or not.
    fn stock(&self, cache: &Cache) -> Vec<Answer> {
        for (name, bytes) in &self.files {
            let answer = cache.put(&format!("/push/nar/{name}"), bytes);
            let refused = (400..500).contains(&answer.status);
            assert!(refused || answer.status == 200, "{}", answer.text());
        }
        let narinfos = self.narinfos.iter();
        narinfos
            .map(|(url, text)| cache.put(url, text.as_bytes()))
            .collect()
    }
}

#[test]
fn whoever_lies_gets_no_signature() {
    let lies: Vec<Lie> = [about_bytes(), about_paths(), about_frames(), by_proxy()]
        .into_iter()
        .flatten()
        .collect();
    // Each way on a server of its own, so that neither lie stands on what the other has brought;
    // and where there are named caches, which compress anew.
    for (is_native, are_many) in [(true, false), (false, false), (true, true), (false, true)] {
        let cache = Cache::new();
        if are_many {
            make(&cache, "team-a", json!({}));
        }
        for lie in &lies {
            let answers = match is_native {
                true => vec![lie.native(&cache)],
                false => lie.stock(&cache),
            };
            for answer in answers {
                let refused = (400..500).contains(&answer.status);
                assert!(refused, "{}: {} {}", lie.what, answer.status, answer.text());
                assert!(!answer.text().contains("Sig"), "{}", answer.text());
            }
        }
        assert!(!is_signed(cache.dir.path()), "a lie is signed");
        let stats = with(&cache, &cache.token(), "GET", "/api/v1/stats", b"");
        assert_eq!(parsed(&stats)["paths"], 0, "{}", stats.text());
        // What is true is signed, and that is seen.
        let honest = Sample::tree('0', "honest", 1000, &[]);
        honest.push(&cache);
        assert!(is_signed(cache.dir.path()), "this test sees no signature");
        println!("{} lies, native: {is_native}, many: {are_many}", lies.len());
    }
}

/// Whether something is signed in any of the depot's segments, where all that is published stands.
fn is_signed(data: &Path) -> bool {
    let wanted = format!("Sig: {KEY}:");
    let segments = fs::read_dir(data.join("depot/segments")).unwrap();
    let mut texts = segments.map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let holds = |bytes: Vec<u8>| {
        bytes
            .windows(wanted.len())
            .any(|it| it == wanted.as_bytes())
    };
    texts.any(holds)
}

fn about_bytes() -> Vec<Lie> {
    let (one, other) = (
        Sample::tree('1', "bytes", 200_000, &[]),
        Sample::tree('2', "other", 100_000, &[]),
    );
    let (hash, nobodys) = (one.hash(), NarHash::from_bytes([7; 32]));
    let to = |of: NarHash| move |text: &str| text.replace(&hash.to_string(), &of.to_string());
    let size = |size: usize| {
        let right = format!("NarSize: {}\n", one.nar.len());
        move |text: &str| text.replace(&right, &format!("NarSize: {size}\n"))
    };
    let mut of_another = Lie::about("the NarHash of another NAR", &one, to(other.hash()));
    let bytes = stream(&other, &cut(&other.nar));
    of_another.streams.push(bytes);
    // Paths of their own, whose bytes never come.
    let third = Sample::tree('3', "third", 200_000, &[]);
    let fourth = Sample::tree('4', "fourth", 1_000_000, &[]);
    let mut swapped = cut(&fourth.nar);
    assert!(swapped.len() > 1, "one piece is the same in any order");
    swapped.reverse();
    let trailing = [&fourth.nar[..], &[0; 8]].concat();
    vec![
        Lie::about("a NarHash that nothing has", &one, to(nobodys)),
        of_another,
        Lie::about("a NarSize too small", &one, size(one.nar.len() - 8)),
        Lie::about("a NarSize too large", &one, size(one.nar.len() + 8)),
        Lie::about("a NarSize of 0", &one, size(0)),
        Lie::instead(
            "another NAR's bytes",
            &third,
            &cut(&other.nar),
            ("third.nar", other.nar.clone()),
        ),
        Lie::instead(
            "bytes in another order, or more of them",
            &fourth,
            &swapped,
            ("fourth.nar", trailing),
        ),
    ]
}

fn about_paths() -> Vec<Lie> {
    let sample = Sample::tree('5', "path", 1000, &[]);
    let other = store_path('6', "other").to_string();
    let with = |line: String| move |text: &str| format!("{text}{line}\n");
    let absent = other.clone();
    let open = move |text: &str| text.replace("References: ", &format!("References: {absent}"));
    let zeros = "0".repeat(52);
    let true_hash = sample.hash().to_string();
    let mut at_anothers = Lie::about("under another path's URL", &sample, |text| text.to_owned());
    at_anothers.narinfos[0].0 = format!("/push/{}.narinfo", &other[..32]);
    // Native records have no URL of their own: it is said in the wrong store.
    at_anothers.records = vec![sample.record().replace("/nix/store/", "/nix/store/x/")];
    vec![
        Lie::about("a path of another store", &sample, |text| {
            text.replace("/nix/store/", "/gnu/store/")
        }),
        at_anothers,
        Lie::about("a path upwards", &sample, |text| {
            text.replace("-path\n", "-path/../../etc\n")
        }),
        Lie::about("an open closure", &sample, open),
        Lie::about(
            "a forged content address",
            &sample,
            with(format!("CA: fixed:r:sha256:{zeros}")),
        ),
        Lie::about(
            "a content address of another path",
            &sample,
            with(format!("CA: fixed:r:{true_hash}")),
        ),
        Lie::about(
            "a flat content address",
            &sample,
            with(format!("CA: fixed:sha256:{zeros}")),
        ),
        Lie::about(
            "a text's content address",
            &sample,
            with(format!("CA: text:sha256:{zeros}")),
        ),
    ]
}

/// Frames that are not what they say, in NARs of one large file; as a stock client has it, the same
/// bytes are the whole NAR.
fn about_frames() -> Vec<Lie> {
    let mut lies = Vec::new();
    for (number, (what, twist)) in twists().into_iter().enumerate() {
        let letter = char::from(b"789abcdfghijk"[number]);
        let sample = Sample::tree(letter, "frames", 1_500_000, &[]);
        let mut parts = cut(&sample.nar);
        assert!(parts.len() > 1, "a frame by itself is no NAR");
        let at = parts.iter().position(|part| id_of(part).is_some()).unwrap();
        let Part::Frame {
            id,
            raw_len,
            stored,
        } = &parts[at]
        else {
            unreachable!("a frame was looked for");
        };
        let raw = zstd::bulk::decompress(stored, *raw_len as usize).unwrap();
        let (id, raw_len, stored) = twist((*id, *raw_len, stored.clone()), &raw);
        parts[at] = Part::Frame {
            id,
            raw_len,
            stored: stored.clone(),
        };
        // Whatever a decoder makes of it, it is not the NAR.
        lies.push(Lie::instead(what, &sample, &parts, ("x.nar.zst", stored)));
    }
    lies
}

type Sent = (FrameId, u32, Vec<u8>);
type Twist = Box<dyn Fn(Sent, &[u8]) -> Sent>;

fn twists() -> Vec<(&'static str, Twist)> {
    fn bytes(make: impl Fn(&[u8], &[u8]) -> Vec<u8> + 'static) -> Twist {
        Box::new(move |(id, len, stored), raw| (id, len, make(&stored, raw)))
    }
    let skippable = || [&0x184D_2A50u32.to_le_bytes()[..], &[4, 0, 0, 0], b"pads"].concat();
    let packed = |raw: &[u8]| zstd::bulk::compress(raw, 3).unwrap();
    vec![
        ("a frame of other bytes", {
            bytes(move |_, raw| packed(&noise(99, raw.len())))
        }),
        ("a frame under another name", {
            Box::new(|(_, len, stored), _| (FrameId::of(b"other"), len, stored))
        }),
        ("a frame of another length", {
            Box::new(|(id, len, stored), _| (id, len - 1, stored))
        }),
        ("a frame with a byte less", {
            bytes(|stored, _| stored[..stored.len() - 1].to_vec())
        }),
        ("a huge window", bytes(|_, raw| huge_window(raw))),
        ("a dictionary", bytes(|_, raw| with_dictionary(raw))),
        ("padding before a frame", {
            bytes(move |stored, _| [&skippable()[..], stored].concat())
        }),
        ("padding behind a frame", {
            bytes(move |stored, _| [stored, &skippable()[..]].concat())
        }),
        ("two frames", bytes(|stored, _| [stored, stored].concat())),
    ]
}

/// An open closure, for which somebody is said to vouch.
fn by_proxy() -> Vec<Lie> {
    let key = |name: &str, seed| SecretKey::generate(name, [seed; 32]).unwrap();
    let (stranger, pretender) = (key("stranger-1", 1), key("cache.nixos.org-1", 2));
    let signed = |by: &SecretKey, sample: &Sample| {
        let mut info = PathInfo::from_record(&sample.record()).unwrap();
        info.add_signature(by.sign(&fingerprint(&info)));
        info.to_record()
    };
    let below = Sample::tree('n', "below", 1000, &[]);
    let above = Sample::tree('p', "above", 1000, std::slice::from_ref(&below.path));
    let line = |text: &str| format!("{text}Upstream: {}@cache.nixos.org-1\n", below.path);
    let lie = |what, vouched: String| {
        let mut lie = Lie::about(what, &above, line);
        lie.vouched.push(vouched);
        lie
    };
    vec![
        lie("nobody's signature", below.record()),
        lie("a stranger's signature", signed(&stranger, &below)),
        lie("a pretender's signature", signed(&pretender, &below)),
        Lie::about("a line of its own", &above, line),
    ]
}

#[test]
fn frames_of_a_liar_are_of_no_use_to_the_honest() {
    let cache = Cache::new();
    let honest = Sample::tree('q', "honest", 400_000, &[]);
    let mut parts = cut(&honest.nar);
    let at = parts.iter().position(|part| id_of(part).is_some()).unwrap();
    let good = parts[at].clone();
    let (Some(id), Part::Frame { raw_len, .. }) = (id_of(&good), &good) else {
        unreachable!("a frame was looked for");
    };
    let Part::Frame { stored, .. } = frame(&noise(5, *raw_len as usize)) else {
        unreachable!("it makes frames");
    };
    parts[at] = Part::Frame {
        id,
        raw_len: *raw_len,
        stored,
    };
    let fate = cache.upload(&stream(&honest, &parts));
    assert!(fate["refused"].is_string(), "{fate}");
    let only = std::slice::from_ref(&good);
    assert_eq!(cache.absent_frames(only), [true], "the name is still free");
    cache.holds(&honest, &cut(&honest.nar));
    assert_eq!(cache.commit(&[honest.record()]).0, 200);
}
