//! What the tests of durability share: an oracle outside of the victim that notes every
//! acknowledgement, the pushers that tell it, and the judgement whether all is there.
//!
//! Every path is made from its number alone, so that the oracle need only remember numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Instant;

use super::codec::Codec;
use super::corpus::sha256;
use super::http::{Http, Response};
use super::nar::{Nar, Upload, hash_part};
use super::random::Random;

/// Path number `number`: from a few bytes to two megabytes, half of it shared with its neighbours,
/// a reference-like token inside.
pub fn upload(number: u64) -> Upload {
    let mut own = Random::seeded(number);
    let size = [100, 5_000, 60_000, 400_000, 2_000_000][own.below(5) as usize];
    of_size(number, size, &mut own)
}

/// The same, no larger than 60,000 bytes: for many at a time.
pub fn small_upload(number: u64) -> Upload {
    let mut own = Random::seeded(number);
    let size = [100, 5_000, 20_000, 60_000][own.below(4) as usize];
    of_size(number, size, &mut own)
}

fn of_size(number: u64, size: usize, own: &mut Random) -> Upload {
    let shared = Random::seeded(number % 5).bytes(size / 2);
    let text = format!("#! /nix/store/{}-interpreter\n", hash_part(number));
    let own = own.bytes(size / 2);
    let nar = Nar::new()
        .directory()
        .entry(b"own", |nar| nar.file(&own))
        .entry(b"script", |nar| nar.file(text.as_bytes()))
        .entry(b"shared", |nar| nar.file(&shared))
        .end();
    let codec = ["none", "zstd", "gzip"][(number % 3) as usize];
    Upload::honest(number, &name_of(number), &nar, Codec::named(codec))
}

fn name_of(number: u64) -> String {
    format!("path-{number}")
}

/// `<hash>-<name>` of path number `number`.
pub fn base_name(number: u64) -> String {
    format!("{}-{}", hash_part(number), name_of(number))
}

/// The answer to a PUT, or how the connection broke.
pub fn put(http: Http, path: &str, token: &str, body: &[u8]) -> io::Result<Response> {
    let request = http.request("PUT", path).bearer(token);
    request.bytes(body).try_send()
}

/// The path is there with its narinfo and its NAR, byte for byte.
pub fn assert_whole(http: Http, upload: &Upload) {
    let name = upload.base_name();
    let answer = http.get(&format!("/{}.narinfo", upload.hash_part()));
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let narinfo = answer.text();
    assert!(
        narinfo.contains(&format!("NarHash: {}\n", upload.nar_hash)),
        "{name}: another NAR's narinfo:\n{narinfo}"
    );
    let raw = http.get(&raw_nar(upload));
    assert_eq!(raw.status, 200, "{name}: {}", raw.text());
    assert_eq!(
        sha256(raw.body.as_slice()),
        sha256(upload.nar.as_slice()),
        "{name}"
    );
}

/// Where an upload's NAR is read uncompressed.
pub fn raw_nar(upload: &Upload) -> String {
    let hash = upload.nar_hash.trim_start_matches("sha256:");
    format!("/nar/{hash}.nar")
}

/// The path is not there, or it is whole; whether it is there.
pub fn assert_whole_or_absent(http: Http, upload: &Upload) -> bool {
    let answer = http.get(&format!("/{}.narinfo", upload.hash_part()));
    match answer.status {
        404 => {
            http.get(&raw_nar(upload)).is(404);
            false
        }
        _ => {
            assert_whole(http, upload);
            true
        }
    }
}

/// Every path that the cache lists, as `<hash>-<name>`.
pub fn all_paths(http: Http) -> BTreeSet<String> {
    let (mut paths, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = http
            .get(&format!("/api/v1/paths?limit=1000{after}"))
            .is(200)
            .json();
        let names = page["paths"].as_array().expect("a list").iter();
        paths.extend(names.map(|name| name.as_str().expect("a name").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return paths,
        }
    }
}

/// A number from the environment, for long forms; else `short`.
pub fn setting(variable: &str, short: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: a number is wanted")),
        Err(_) => short,
    }
}

/// Whether the long form is asked for: `SNOWCACHE_LONG=1`.
pub fn long() -> bool {
    setting("SNOWCACHE_LONG", 0) > 0
}

/// How far one upload got, as its pusher saw it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Progress {
    /// The NAR was sent, and no 2xx came back.
    NarSent,
    /// The NAR's 2xx came back: it is durable.
    NarAcknowledged,
    /// The narinfo was sent, and no 2xx came back.
    InfoSent,
    /// The narinfo's 2xx came back: the path is durable and visible.
    Acknowledged,
}

/// What pushers were told, and when.
#[derive(Default)]
pub struct Oracle {
    progress: Mutex<BTreeMap<u64, (Progress, Instant)>>,
    /// Answers other than 200.
    refusals: Mutex<Vec<(Instant, String)>>,
    next: AtomicU64,
    /// Held for reading while an upload is under way, for writing from after a kill (which waits
    /// for nobody) until all is judged.
    pub down: RwLock<()>,
    pub over: AtomicBool,
}

/// Tells the pushers to end, also when an assertion fails, so that the failure can be told.
pub struct EndWith<'a>(pub &'a AtomicBool);

impl Drop for EndWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Oracle {
    /// Pushes one path after the other, each made by `make`, until it is over.
    pub fn push_until_over(&self, http: Http, token: &str, make: fn(u64) -> Upload) {
        while !self.over.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let upload = make(number);
            let _asking = self.down.read().expect("no poison");
            self.note(number, Progress::NarSent);
            if !self.put(http, &upload.nar_path(), token, &upload.body) {
                continue;
            }
            self.note(number, Progress::NarAcknowledged);
            // Some uploads stop here: their NAR must still be there when the narinfo comes much
            // later.
            if number.is_multiple_of(7) {
                continue;
            }
            self.note(number, Progress::InfoSent);
            let narinfo = upload.narinfo();
            if self.put(http, &upload.narinfo_path(), token, narinfo.as_bytes()) {
                self.note(number, Progress::Acknowledged);
            }
        }
    }

    /// Whether it was acknowledged.
    fn put(&self, http: Http, path: &str, token: &str, body: &[u8]) -> bool {
        match put(http, path, token, body) {
            Ok(answer) if answer.status == 200 => true,
            Ok(answer) => {
                let said = format!("{path}: {} {}", answer.status, answer.text());
                let mut refusals = self.refusals.lock().expect("no poison");
                refusals.push((Instant::now(), said));
                false
            }
            Err(_) => false,
        }
    }

    fn note(&self, number: u64, progress: Progress) {
        let mut notes = self.progress.lock().expect("no poison");
        notes.insert(number, (progress, Instant::now()));
    }

    /// Only silence is allowed, when the server has died; and refusals after `from`.
    pub fn assert_no_refusal_before(&self, from: Instant) {
        let refusals = std::mem::take(&mut *self.refusals.lock().expect("no poison"));
        let early = refusals.iter().find(|(at, _)| *at < from);
        assert!(early.is_none(), "refused without a reason: {early:?}");
    }

    /// The disk was lost at `cut`: what was acknowledged since then is as good as not.
    pub fn distrust_since(&self, cut: Instant) {
        let mut notes = self.progress.lock().expect("no poison");
        for (progress, at) in notes.values_mut() {
            if *at >= cut {
                *progress = match *progress {
                    Progress::NarAcknowledged => Progress::NarSent,
                    Progress::Acknowledged => Progress::InfoSent,
                    other => other,
                };
            }
        }
    }

    /// Every path that is known (or, of those that were acknowledged long ago, a sample) is as it
    /// must be. Nobody may push meanwhile.
    pub fn judge(
        &self,
        http: Http,
        token: &str,
        random: &mut Random,
        sample: u64,
        make: fn(u64) -> Upload,
    ) {
        let known: Vec<(u64, Progress)> = {
            let notes = self.progress.lock().expect("no poison");
            notes
                .iter()
                .map(|(&number, &(progress, _))| (number, progress))
                .collect()
        };
        let recent = known.len().saturating_sub(24);
        let listed = all_paths(http);
        for (index, &(number, progress)) in known.iter().enumerate() {
            let name = base_name(number);
            let visible = listed.contains(&name);
            let look_closely =
                index >= recent || sample == u64::MAX || random.below(known.len() as u64) < sample;
            match progress {
                Progress::Acknowledged => {
                    assert!(visible, "{name} was acknowledged and is gone");
                    if look_closely {
                        assert_whole(http, &make(number));
                    }
                }
                Progress::InfoSent if visible => assert_whole(http, &make(number)),
                Progress::InfoSent | Progress::NarSent | Progress::NarAcknowledged => {
                    assert!(!visible, "{name} is visible, and its narinfo was not sent");
                    if look_closely {
                        http.get(&format!("/{}.narinfo", &name[..32])).is(404);
                    }
                }
            }
            // A NAR that was acknowledged needs no second upload, only its narinfo.
            if progress == Progress::NarAcknowledged && look_closely {
                let (upload, narinfo) = (make(number), make(number).narinfo());
                let answer = http.put(&upload.narinfo_path(), token, narinfo.as_bytes());
                assert_eq!(answer.status, 200, "{name}: {}", answer.text());
                self.note(number, Progress::Acknowledged);
                assert_whole(http, &upload);
            }
        }
    }

    /// The paths that must be there.
    pub fn acknowledged(&self) -> Vec<u64> {
        let notes = self.progress.lock().expect("no poison");
        let acknowledged = notes
            .iter()
            .filter(|(_, note)| note.0 == Progress::Acknowledged);
        acknowledged.map(|(&number, _)| number).collect()
    }

    /// How many were tried.
    pub fn tried(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}
