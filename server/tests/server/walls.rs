//! One cache's people as attackers of another: whatever they offer, name or guess, they learn
//! nothing of what it holds, and get nothing of it.

use crate::client::{Answer, Cache};
use crate::named::{make, narinfo_url, parsed, push, token, with};
use crate::pieces::{Part, cut, stream, stream_of};
use crate::sample::{Sample, noise, store_path};
use serde_json::{Value, json};
use snowcache_core::delta::{self, Pair};
use snowcache_core::recipe::FrameId;
use snowcache_core::upload;
use snowcache_nix::{NarHash, NarInfo};

/// A server with a private cache that holds a secret, and somebody who may do everything in
/// another one.
struct World {
    cache: Cache,
    secret: Sample,
    victim: String,
    attacker: String,
}

impl World {
    fn new() -> World {
        let cache = Cache::new();
        make(&cache, "victim", json!({}));
        make(&cache, "attacker", json!({}));
        let victim = token(&cache, &["push"], &["victim"]);
        let attacker = token(&cache, &["admin"], &["attacker"]);
        let secret = Sample::file(store_path('s', "secret"), &noise(5, 700_000));
        push(&cache, "victim", &victim, &secret);
        World {
            cache,
            secret,
            victim,
            attacker,
        }
    }

    fn ask(&self, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
        with(&self.cache, token, method, path, body)
    }

    /// Which of these frames a cache says are absent.
    fn absent(&self, name: &str, token: &str, ids: &[FrameId]) -> Vec<bool> {
        let url = format!("{name}/api/v1/uploads/frames");
        let answer = self.ask(token, "POST", &url, &upload::question(ids));
        assert_eq!(answer.status, 200, "{}", answer.text());
        upload::absent(&answer.body, ids.len()).unwrap()
    }

    /// What becomes of a stream of one NAR.
    fn send(&self, stream: &[u8]) -> Value {
        let url = "/attacker/api/v1/uploads";
        let told = parsed(&self.ask(&self.attacker, "POST", url, stream));
        told["nars"][0].clone()
    }
}

fn frames(parts: &[Part]) -> Vec<(FrameId, u32)> {
    let frame = |part: &Part| match part {
        Part::Frame { id, raw_len, .. } => Some((*id, *raw_len)),
        _ => None,
    };
    parts.iter().filter_map(frame).collect()
}

#[test]
fn frames_of_another_cache_are_absent_and_cannot_be_used() {
    let world = World::new();
    let parts = cut(&world.secret.nar);
    let theirs = frames(&parts);
    let never: Vec<(FrameId, u32)> = frames(&cut(&Sample::file(
        store_path('n', "never"),
        &noise(6, 700_000),
    )
    .nar));
    let ids = |frames: &[(FrameId, u32)]| frames.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let all = |absent: bool, of: &[(FrameId, u32)]| vec![absent; of.len()];
    let asked = |name: &str, token: &str| world.absent(name, token, &ids(&theirs));
    assert_eq!(asked("/victim", &world.victim), all(false, &theirs));
    assert_eq!(asked("/attacker", &world.attacker), all(true, &theirs));
    assert_eq!(
        asked("", &world.cache.token()),
        all(true, &theirs),
        "nor at /"
    );

    // A recipe of foreign frames, offered as the NAR that it is: told as if they were nowhere.
    let known: Vec<Part> = parts.iter().map(Part::known).collect();
    let stolen = world.send(&stream(&world.secret, &known));
    let (hash, size) = (world.secret.hash(), world.secret.nar.len() as u64);
    let nowhere = NarHash::from_bytes([3; 32]);
    let invented: Vec<Part> = cut(&Sample::file(store_path('n', "x"), &noise(6, 700_000)).nar)
        .iter()
        .map(Part::known)
        .collect();
    let guessed = world.send(&stream_of(nowhere, size, &invented));
    let first = |frames: &[(FrameId, u32)]| frames[0].0.to_string();
    assert_eq!(
        stolen,
        json!({"nar_hash": hash.to_string(), "lacks": first(&theirs)})
    );
    assert_eq!(
        guessed,
        json!({"nar_hash": nowhere.to_string(), "lacks": first(&never)})
    );
    // One frame of them, with a wrong length: no other word.
    let (id, raw_len) = theirs[0];
    for raw_len in [raw_len, raw_len + 1] {
        let one = [parts[0].clone(), Part::Known { id, raw_len }];
        let told = world.send(&stream_of(hash, size, &one));
        assert_eq!(told["lacks"], id.to_string());
    }
    // Nothing of it can be published.
    let body = json!({ "paths": [world.secret.record()] }).to_string();
    let url = "/attacker/api/v1/uploads/commit";
    let answer = world.ask(&world.attacker, "POST", url, body.as_bytes());
    assert_eq!(answer.status, 422, "{}", answer.text());
    let nars = json!({ "nar_hashes": [hash.to_string()] }).to_string();
    let url = "/attacker/api/v1/uploads/nars";
    let held = parsed(&world.ask(&world.attacker, "POST", url, nars.as_bytes()));
    assert_eq!(held["absent"], json!([hash.to_string()]));
    // Whoever has the bytes sends them, and what comes of it is as if nobody had.
    let fate = world.send(&stream(&world.secret, &parts));
    assert_eq!(fate["held"], true, "{fate}");
    assert_eq!(asked("/attacker", &world.attacker), all(false, &theirs));
    assert_eq!(asked("", &world.cache.token()), all(true, &theirs));
}

#[test]
fn what_is_sent_to_the_cache_at_the_root_is_not_known_to_a_named_one() {
    let world = World::new();
    let ours = Sample::file(store_path('r', "root"), &noise(9, 700_000));
    ours.push(&world.cache);
    let ids: Vec<FrameId> = frames(&cut(&ours.nar)).iter().map(|(id, _)| *id).collect();
    assert!(
        world
            .absent("/attacker", &world.attacker, &ids)
            .iter()
            .all(|absent| *absent)
    );
    let known = world.absent("", &world.cache.token(), &ids);
    assert!(known.iter().all(|absent| !absent));
}

#[test]
fn a_nar_that_another_cache_has_looks_as_if_it_were_new() {
    let world = World::new();
    let alone = Cache::new();
    make(&alone, "attacker", json!({}));
    let token = token(&alone, &["push"], &["attacker"]);
    // The victim's goes in as a client packs it, at another level; the attacker's as it comes.
    let text: String = (0..40_000)
        .map(|line| format!("line {line} of many\n"))
        .collect();
    let other = Sample::file(store_path('1', "other"), text.as_bytes());
    let parts = cut(&other.nar);
    let packed = parts.iter().map(|part| match part {
        Part::Frame {
            id,
            raw_len,
            stored,
        } => {
            let raw = zstd::bulk::decompress(stored, *raw_len as usize).unwrap();
            let (id, raw_len) = (*id, *raw_len);
            let stored = zstd::bulk::compress(&raw, 19).unwrap();
            Part::Frame {
                id,
                raw_len,
                stored,
            }
        }
        other => other.clone(),
    });
    let packed: Vec<Part> = packed.collect();
    let url = "/victim/api/v1/uploads";
    let sent = world.ask(&world.victim, "POST", url, &stream(&other, &packed));
    assert_eq!(parsed(&sent)["nars"][0]["held"], true);
    push(&world.cache, "attacker", &world.attacker, &other);
    push(&alone, "attacker", &token, &other);
    let told = |cache: &Cache, token: &str| {
        let answer = with(cache, token, "GET", &narinfo_url("attacker", &other), b"");
        let narinfo = NarInfo::parse(answer.text()).unwrap();
        (narinfo.url.to_owned(), narinfo.file_size)
    };
    assert_eq!(told(&world.cache, &world.attacker), told(&alone, &token));
}

#[test]
fn nothing_of_a_private_cache_is_had_by_guessing() {
    let world = World::new();
    let (secret, hash) = (&world.secret, world.secret.hash());
    let narinfo = world.ask(&world.victim, "GET", &narinfo_url("victim", secret), b"");
    let nar = NarInfo::parse(narinfo.text()).unwrap().url.to_owned();
    let path = secret.path.hash();
    let raw = format!("nar/{}.nar", hash.base32());
    // By its own URLs: who asks is told that it is not for them, whether it is there or not.
    for url in [
        &nar,
        &raw,
        &format!("{path}.narinfo"),
        &format!("{path}.ls"),
    ] {
        for known in ["", "push/"] {
            let there = world.ask(
                &world.attacker,
                "GET",
                &format!("/victim/{known}{url}"),
                b"",
            );
            assert_eq!(there.status, 403, "{url}: {}", there.text());
            // By those of other caches.
            for elsewhere in ["/attacker/", "/"] {
                let url = format!("{elsewhere}{known}{url}");
                let answer = world.ask(&world.attacker, "GET", &url, b"");
                assert_eq!(answer.status, 404, "{url}: {}", answer.text());
            }
        }
    }
    // Out of what is kept in memory for whoever may read it.
    for _ in 0..2 {
        let read = world.ask(&world.victim, "GET", &format!("/victim/{nar}"), b"");
        assert_eq!(read.status, 200);
        let url = format!("/attacker/{nar}");
        assert_eq!(world.ask(&world.attacker, "GET", &url, b"").status, 404);
    }
    // A plan, or frames, of a NAR of theirs.
    let own = Sample::file(store_path('3', "own"), &noise(5, 600_000));
    push(&world.cache, "attacker", &world.attacker, &own);
    let pair = |wanted: &Sample, old: NarHash| Pair {
        wanted: wanted.path.hash(),
        old: own.path.hash(),
        old_nar: old,
    };
    let question = |pairs: &[Pair]| {
        let url = "/attacker/api/v1/plan";
        let answer = world.ask(&world.attacker, "POST", url, &delta::question(pairs));
        assert_eq!(answer.status, 200);
        answer.body
    };
    let theirs = question(&[pair(secret, own.hash()), pair(&own, hash)]);
    let never = Sample::file(store_path('v', "never"), b"x");
    let nothing = question(&[pair(&never, own.hash()), pair(&own, never.hash())]);
    assert_eq!(theirs, nothing);
    let body = json!({"nar": nar.strip_prefix("nar/"), "ranges": [[0, 10]]}).to_string();
    let url = "/attacker/api/v1/frames";
    let frames = world.ask(&world.attacker, "POST", url, body.as_bytes());
    assert_eq!(frames.status, 404);
    let query = format!("{path}\n");
    let url = "/attacker/get-narinfos-v1";
    let batch = world.ask(&world.attacker, "POST", url, query.as_bytes());
    assert_eq!((batch.status, batch.body.len()), (200, 0));
    let cost = world.ask(
        &world.attacker,
        "GET",
        &format!("/attacker/api/v1/cost/{path}"),
        b"",
    );
    assert_eq!(cost.status, 404);
    let put = secret.narinfo(&nar, "none");
    let url = format!("/attacker{}", secret.narinfo_url());
    let named = world.ask(&world.attacker, "PUT", &url, put.as_bytes());
    assert_eq!(named.status, 422, "{}", named.text());
    let gone = json!({"paths": [path.to_string()]}).to_string();
    let url = "/attacker/api/v1/remove";
    let removed = parsed(&world.ask(&world.attacker, "POST", url, gone.as_bytes()));
    assert_eq!(removed["missing"], json!([path.to_string()]));
}

#[test]
fn what_tells_of_all_caches_is_not_told_to_the_people_of_one() {
    let alone = Cache::new();
    for url in ["/metrics", "/api/v1/stats", "/api/v1/scrub"] {
        assert_eq!(alone.get(url).status, 200, "{url}: there is nobody else");
    }
    let world = World::new();
    let reader = token(&world.cache, &["pull"], &["default"]);
    for url in ["/metrics", "/api/v1/stats", "/api/v1/scrub"] {
        assert_eq!(world.cache.get(url).status, 401, "{url}");
        assert_eq!(
            world.ask(&world.attacker, "GET", url, b"").status,
            403,
            "{url}"
        );
        assert_eq!(world.ask(&reader, "GET", url, b"").status, 200, "{url}");
    }
    assert_eq!(world.cache.get("/nix-cache-info").status, 200);
    assert_eq!(world.cache.get("/readyz").status, 200);
}
