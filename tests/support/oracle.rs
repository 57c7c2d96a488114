//! What the tests of durability share: an oracle outside of the victim that notes every
//! acknowledgement, the pushers that tell it, and the judgement whether all is there.
//!
//! Every path is made from its number alone, so that the oracle need only remember numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

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

/// Removes paths; they are gone, or it says why they stay.
pub fn remove(http: Http, admin_token: &str, paths: &[&str]) -> Result<(), String> {
    let question = serde_json::json!({ "paths": paths }).to_string();
    let request = http.request("POST", "/api/v1/remove").bearer(admin_token);
    let answer = request.bytes(question.as_bytes()).try_send();
    let answer = answer.map_err(|error| error.to_string())?;
    let text = answer.text();
    let whole = answer.status == 200
        && answer.json()["removed"].as_array().map(Vec::len) == Some(paths.len());
    if whole {
        Ok(())
    } else {
        Err(format!("{}: {text}", answer.status))
    }
}

/// NAR and narinfo, or the first answer that was not 200.
pub fn try_publish(http: Http, token: &str, upload: &Upload) -> Result<(), String> {
    let narinfo = upload.narinfo();
    let requests = [
        (upload.nar_path(), upload.body.as_slice()),
        (upload.narinfo_path(), narinfo.as_bytes()),
    ];
    for (path, body) in requests {
        let answer = put(http, &path, token, body).map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("{path}: {} {}", answer.status, answer.text()));
        }
    }
    Ok(())
}

/// NAR and narinfo.
pub fn publish(http: Http, token: &str, upload: &Upload) {
    if let Err(refused) = try_publish(http, token, upload) {
        panic!("{}: {refused}", upload.store_path);
    }
}

/// Reads a path again and again until it is over; the first answer that was not right.
pub fn read_until(over: &AtomicBool, http: Http, upload: &Upload) -> Option<String> {
    let (narinfo, nar) = (format!("/{}.narinfo", upload.hash_part()), raw_nar(upload));
    while !over.load(Ordering::Relaxed) {
        for path in [&narinfo, &nar] {
            match http.request("GET", path).try_send() {
                Err(error) => return Some(format!("{path}: {error}")),
                Ok(answer) if answer.status != 200 => {
                    return Some(format!("{path}: {} {}", answer.status, answer.text()));
                }
                Ok(answer) if *path == nar && answer.body != upload.nar => {
                    return Some(format!("{path}: other bytes"));
                }
                Ok(_) => {}
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

/// A copy of a folder, as it is.
pub fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.expect("cp runs").success());
}

/// Collects garbage: the report's summary, or how it was refused or broke off.
pub fn collect(http: Http, admin_token: &str) -> Result<serde_json::Value, String> {
    let request = http.request("POST", "/api/v1/gc").bearer(admin_token);
    let answer = request.bytes(b"{}").try_send().map_err(|e| e.to_string())?;
    let text = answer.text();
    let last = text.trim_end().lines().last().unwrap_or_default();
    match serde_json::from_str::<serde_json::Value>(last) {
        Ok(line) if line["summary"].is_object() => Ok(line["summary"].clone()),
        _ => Err(format!("{}: {last}", answer.status)),
    }
}

/// A server's arguments under which collections take what was removed, at once and by command
/// only, and uploads of which nothing came after so many seconds.
pub fn quick_collections(folder: &Path, lease_s: u64) -> [String; 2] {
    let file = folder.join("snowcached.toml");
    let text = format!(
        "[retention]\ngrace_s = 0\nmax_age_s = 0\nsweep_grace_s = 0\ngc_interval_s = 0\n\
         [uploads]\nlease_s = {lease_s}\n[depot]\nreserve_bytes = 1048576\n"
    );
    std::fs::write(&file, text).expect("a configuration");
    ["--config".to_owned(), file.display().to_string()]
}

/// Every path that the cache lists, as `<hash>-<name>`.
pub fn all_paths(http: Http) -> BTreeSet<String> {
    all_paths_at(http, "")
}

/// The same of the cache at this URL path.
pub fn all_paths_at(http: Http, at: &str) -> BTreeSet<String> {
    let (mut paths, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = http
            .get(&format!("{at}/api/v1/paths?limit=1000{after}"))
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
    /// It was to be removed, and no 2xx came back.
    RemovalSent,
    /// Its removal was acknowledged.
    Removed,
}

/// The one pin that is moved.
const PIN: &str = "/api/v1/pins/channel";

/// What pushers were told, and when.
#[derive(Default)]
pub struct Oracle {
    progress: Mutex<BTreeMap<u64, (Progress, Instant)>>,
    /// Answers other than 200.
    refusals: Mutex<Vec<(Instant, String)>>,
    /// What the pin may say: the last path acknowledged, then those that were sent.
    pinned: Mutex<Vec<(u64, Instant, bool)>>,
    /// Collections that ended well.
    collections: AtomicU64,
    /// Uploads without a narinfo are soon collected, so that nothing is promised of them.
    pub leases_end: AtomicBool,
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
            self.wait_for_server(http);
            let _asking = self.down.read().expect("no poison");
            self.note(number, Progress::NarSent);
            if !self.put(http, &upload.nar_path(), token, &upload.body) {
                continue;
            }
            self.note(number, Progress::NarAcknowledged);
            // Some uploads stop here: their NAR must still be there when the narinfo comes much
            // later.
            if number.is_multiple_of(7) && !self.leases_end.load(Ordering::Relaxed) {
                continue;
            }
            self.note(number, Progress::InfoSent);
            let narinfo = upload.narinfo();
            if self.put(http, &upload.narinfo_path(), token, narinfo.as_bytes()) {
                self.note(number, Progress::Acknowledged);
            }
        }
    }

    /// Removes every third path, moves a pin and collects, again and again, until it is over.
    pub fn collect_until_over(&self, http: Http, token: &str, admin_token: &str) {
        while !self.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
            self.wait_for_server(http);
            let acknowledged = self.acknowledged();
            let Some(&last) = acknowledged.last() else {
                continue;
            };
            let _asking = self.down.read().expect("no poison");
            self.pin(http, token, last);
            for number in acknowledged.iter().copied().filter(|n| n % 3 == 0).take(20) {
                let name = base_name(number);
                self.note(number, Progress::RemovalSent);
                match remove(http, admin_token, &[&name]) {
                    Ok(()) => self.note(number, Progress::Removed),
                    // The pin holds it: then it is as it was.
                    Err(said) if said.contains("kept") => self.note(number, Progress::Acknowledged),
                    Err(_) => {}
                }
            }
            if collect(http, admin_token).is_ok() {
                self.collections.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until somebody listens, or it is over: one that was killed may take long to be gone,
    /// and thousands of uploads would be tried in vain before it can be started again.
    fn wait_for_server(&self, http: Http) {
        while TcpStream::connect(http.0).is_err() && !self.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn pin(&self, http: Http, token: &str, number: u64) {
        let root = format!("/nix/store/{}", base_name(number));
        let change = serde_json::json!({ "roots": [root], "keep": "1" }).to_string();
        let pinned = || self.pinned.lock().expect("no poison");
        pinned().push((number, Instant::now(), false));
        let answer = put(http, PIN, token, change.as_bytes());
        if answer.is_ok_and(|answer| answer.status == 200) {
            *pinned() = vec![(number, Instant::now(), true)];
        }
    }

    /// The pin says what was acknowledged last, or something that was sent since.
    fn judge_pin(&self, http: Http) {
        let pinned = self.pinned.lock().expect("no poison");
        if pinned.is_empty() {
            return;
        }
        let answer = http.get(PIN);
        let acknowledged = pinned
            .first()
            .is_some_and(|(_, _, acknowledged)| *acknowledged);
        if answer.status == 404 {
            assert!(!acknowledged, "a pin that was acknowledged is gone");
            return;
        }
        let said = answer.is(200).text();
        let known = pinned
            .iter()
            .any(|(number, ..)| said.contains(&base_name(*number)));
        assert!(known, "the pin says {said}, and may say {pinned:?}");
    }

    /// How many collections ended well.
    pub fn collected(&self) -> u64 {
        self.collections.load(Ordering::Relaxed)
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
        // Its forerunner is forgotten: then it may say anything.
        let mut pinned = self.pinned.lock().expect("no poison");
        if pinned
            .iter()
            .any(|(_, at, acknowledged)| *acknowledged && *at >= cut)
        {
            pinned.clear();
        }
        drop(pinned);
        let mut notes = self.progress.lock().expect("no poison");
        for (progress, at) in notes.values_mut() {
            if *at >= cut {
                *progress = match *progress {
                    Progress::NarAcknowledged => Progress::NarSent,
                    Progress::Acknowledged => Progress::InfoSent,
                    Progress::Removed => Progress::RemovalSent,
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
        if self.leases_end.load(Ordering::Relaxed) {
            self.judge_pin(http);
        }
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
                Progress::InfoSent | Progress::RemovalSent if visible => {
                    assert_whole(http, &make(number));
                }
                Progress::RemovalSent => {}
                Progress::Removed => assert!(!visible, "{name} was removed and is back"),
                Progress::InfoSent | Progress::NarSent | Progress::NarAcknowledged => {
                    assert!(!visible, "{name} is visible, and its narinfo was not sent");
                    if look_closely {
                        http.get(&format!("/{}.narinfo", &name[..32])).is(404);
                    }
                }
            }
            // A NAR that was acknowledged needs no second upload, only its narinfo.
            let promised = !self.leases_end.load(Ordering::Relaxed);
            if progress == Progress::NarAcknowledged && look_closely && promised {
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
