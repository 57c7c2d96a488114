//! Single bits flip in what is stored: in segments and in the index, before the server starts and
//! while it runs. No wrong byte is ever given out, and each flip that could have changed one is
//! noticed: by a refusal, by a log line, or by serving from the other copy.
//!
//! ```text
//!   a stored corpus --copy--> flip one bit --start--> read everything   right, or refused
//!                                              '----> without the index: right, or gone and logged
//! ```
//!
//! `SNOWCACHE_FLIPS` (or `make test-flips`) asks for more of them.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::codec::Codec;
use support::http::Http;
use support::nar::{Nar, Upload, hash_part};
use support::oracle::{copy_folder as copy, raw_nar, setting, small_upload};
use support::random::Random;
use support::server::Snowcached;

const FLIPS: u64 = 60;
/// A push, where the source is at hand.
const HEALED_WITHIN: Duration = Duration::from_secs(60);
/// Flips under a running server, each read at once.
const LIVE_FLIPS: u64 = 60;

#[test]
fn a_bit_that_flips_in_a_segment_is_never_served() {
    let mut random = Random::announced("flips in segments");
    let mut stored = Stored::new();
    let mut noticed = BTreeMap::new();
    for _ in 0..setting("SNOWCACHE_FLIPS", FLIPS) {
        stored.reset();
        let flip = stored.flip("segments", &mut random);
        let how = stored.noticed_in_a_segment(&flip);
        *noticed.entry(how).or_insert(0) += 1;
    }
    println!("flips in segments: {noticed:?}");
    assert!(noticed.contains_key("refused"), "no flip met a frame");
}

#[test]
fn a_bit_that_flips_in_the_index_is_never_served() {
    let mut random = Random::announced("flips in the index");
    let mut stored = Stored::new();
    let mut noticed = BTreeMap::new();
    for _ in 0..setting("SNOWCACHE_FLIPS", FLIPS) {
        stored.reset();
        let flip = stored.flip("index", &mut random);
        let how = stored.noticed_in_the_index(&flip);
        *noticed.entry(how).or_insert(0) += 1;
    }
    println!("flips in the index: {noticed:?}");
}

#[test]
fn a_bit_that_flips_under_a_running_server_is_never_served() {
    let mut random = Random::announced("flips while it runs");
    let mut stored = Stored::new();
    stored.reset();
    stored.server.start_again();
    let mut noticed = BTreeMap::new();
    for number in 0..setting("SNOWCACHE_FLIPS", LIVE_FLIPS) {
        let area = ["segments", "index"][(number % 2) as usize];
        let flip = stored.flip(area, &mut random);
        let refused = stored.read_everything(&flip);
        let how = if refused == 0 { "right" } else { "refused" };
        *noticed.entry((area, how)).or_insert(0) += 1;
        // Back again, so that each flip is judged alone. What it put into quarantine stays there
        // until it is pushed.
        flip.toggle();
        stored.heal(&flip);
    }
    println!("flips while it runs: {noticed:?}");
    assert!(
        noticed.contains_key(&("segments", "refused")),
        "no flip met a frame"
    );
}

/// One bit of one file.
#[derive(Debug)]
struct Flip {
    file: PathBuf,
    at: u64,
    bit: u8,
}

impl Flip {
    fn toggle(&self) {
        let file = File::options().read(true).write(true).open(&self.file);
        let file = file.expect("a file of the depot");
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.at)
            .expect("within the file");
        file.write_all_at(&[byte[0] ^ (1 << self.bit)], self.at)
            .expect("writable");
    }
}

/// A corpus on disk, as an orderly end leaves it, and what its readers are to be given.
struct Stored {
    template: tempfile::TempDir,
    server: Snowcached,
    uploads: Vec<Upload>,
    narinfos: Vec<String>,
    log: (String, Vec<u8>),
}

impl Stored {
    fn new() -> Stored {
        let mut server = Snowcached::stopped(support::folder_on_disk(), "info", &[]);
        server.start_again();
        let (http, token) = (server.http(), server.push_token());
        let mut uploads: Vec<Upload> = (0..8).map(small_upload).collect();
        uploads.push(large());
        uploads.push(dense());
        let mut narinfos = Vec::new();
        for upload in &uploads {
            http.put(&upload.nar_path(), &token, &upload.body).is(200);
            let narinfo = upload.narinfo();
            http.put(&upload.narinfo_path(), &token, narinfo.as_bytes())
                .is(200);
            let stored = http.get(&format!("/{}.narinfo", upload.hash_part()));
            narinfos.push(stored.is(200).text());
        }
        let log = (
            format!("log/{}-x.drv", hash_part(50)),
            Random::seeded(50).bytes(20_000),
        );
        http.put(&format!("/push/{}", log.0), &token, &log.1)
            .is(200);
        server.stop();
        let template = support::folder_on_disk();
        copy(&server.data(), &template.path().join("data"));
        Stored {
            template,
            server,
            uploads,
            narinfos,
            log,
        }
    }

    fn reset(&mut self) {
        self.server.kill();
        fs::remove_dir_all(self.server.data()).expect("the last flip's folder");
        copy(&self.template.path().join("data"), &self.server.data());
    }

    /// Flips a bit that was chosen among all bits of an area.
    fn flip(&self, area: &str, random: &mut Random) -> Flip {
        let folder = fs::read_dir(self.server.depot().join(area)).expect("a folder");
        let mut files: Vec<(PathBuf, u64)> = folder
            .flatten()
            .map(|entry| (entry.path(), entry.metadata().expect("a file").len()))
            .filter(|(path, len)| *len > 0 && matters(path))
            .collect();
        files.sort();
        let all: u64 = files.iter().map(|(_, len)| len).sum();
        // Every second one in a small file, which all bits together would hardly ever choose.
        let mut at = random.below(all);
        if random.below(2) == 0 {
            let choice = random.below(files.len() as u64) as usize;
            files = vec![files.swap_remove(choice)];
            at = random.below(files[0].1);
        }
        for (file, len) in files {
            if at < len {
                let bit = random.below(8) as u8;
                let flip = Flip { file, at, bit };
                flip.toggle();
                return flip;
            }
            at -= len;
        }
        unreachable!("at lies in one of the files")
    }

    fn noticed_in_a_segment(&mut self, flip: &Flip) -> &'static str {
        if let Err(said) = self.server.try_start(&[]) {
            assert!(
                said.contains("snowcached: "),
                "{flip:?}: no sentence: {said}"
            );
            return "not started";
        }
        if self.read_everything(flip) > 0 {
            return "refused";
        }
        // Nobody needed that byte, thanks to the index. Without it:
        self.server.kill();
        fs::remove_dir_all(self.server.depot().join("index")).expect("DIR/depot/index");
        let logged = self.server.log.len();
        if let Err(said) = self.server.try_start(&[]) {
            assert!(
                said.contains("snowcached: "),
                "{flip:?}: no sentence: {said}"
            );
            return "not started without the index";
        }
        self.read_everything(flip);
        let log = self.server.log.since(logged).join("\n");
        let replayed = log.matches("damaged=").count();
        let clean = log.matches("damaged=0 cut=0").count();
        assert!(replayed > clean, "{flip:?} went unnoticed:\n{log}");
        "logged without the index"
    }

    fn noticed_in_the_index(&mut self, flip: &Flip) -> &'static str {
        let logged = self.server.log.len();
        if let Err(said) = self.server.try_start(&[]) {
            panic!("{flip:?}: an index can be rebuilt, yet it does not start:\n{said}");
        }
        let refused = self.read_everything(flip);
        let log = self.server.log.since(logged).join("\n");
        match refused {
            0 if log.contains("rebuilding") => "rebuilt",
            0 => "right",
            _ => "refused",
        }
    }

    /// Pushes what is not served, as builders do, until everything is served again. Quarantine may
    /// come a moment after the read that met the damage.
    fn heal(&self, flip: &Flip) {
        let (http, token) = (self.server.http(), self.server.push_token());
        let begin = Instant::now();
        while self.read_everything(flip) > 0 {
            assert!(begin.elapsed() < HEALED_WITHIN, "{flip:?} and pushed again");
            for upload in &self.uploads {
                let url = format!("/{}.narinfo", upload.hash_part());
                if read(http, &url, None).is_none() {
                    let put = http.put(&upload.nar_path(), &token, &upload.body);
                    put.is(200);
                }
            }
        }
    }

    /// How many reads were refused; panics when one is wrong.
    fn read_everything(&self, flip: &Flip) -> u32 {
        let (http, mut refused) = (self.server.http(), 0);
        let mut judge = |path: &str, range: Option<&str>, right: &dyn Fn(&[u8]) -> bool| match read(
            http, path, range,
        ) {
            Some(bytes) => assert!(right(&bytes), "{flip:?}: wrong bytes of {path} {range:?}"),
            None => refused += 1,
        };
        for (upload, narinfo) in self.uploads.iter().zip(&self.narinfos) {
            let is_nar = |bytes: &[u8]| bytes == upload.nar;
            let hash = upload.hash_part();
            judge(&format!("/{hash}.narinfo"), None, &|b| {
                b == narinfo.as_bytes()
            });
            judge(&raw_nar(upload), None, &is_nar);
            let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
            judge(&format!("/{}", url.expect("a URL")), None, &|packed| {
                zstd::stream::decode_all(packed).is_ok_and(|nar| is_nar(&nar))
            });
            let middle = upload.nar.len() / 2;
            let range = format!("bytes={middle}-{}", middle + 39);
            judge(&raw_nar(upload), Some(&range), &|part| {
                part == &upload.nar[middle..middle + 40]
            });
        }
        judge(&format!("/{}", self.log.0), None, &|bytes| {
            bytes == self.log.1
        });
        refused
    }
}

/// The whole answer with the status that is wanted; none for any other status and for one that
/// breaks off.
fn read(http: Http, path: &str, range: Option<&str>) -> Option<Vec<u8>> {
    let request = http.request("GET", path);
    let answer = match range {
        Some(range) => request.header("Range", range).try_send().ok()?,
        None => request.try_send().ok()?,
    };
    let wanted = if range.is_some() { 206 } else { 200 };
    (answer.status == wanted).then_some(answer.body)
}

/// RocksDB never reads its log, nor the options of earlier starts, and its lock is empty.
fn matters(file: &Path) -> bool {
    let name = file.file_name().expect("a file").to_string_lossy();
    !name.starts_with("LOG") && !name.starts_with("OPTIONS")
}

/// Several frames of bytes that do not compress.
fn large() -> Upload {
    let nar = Nar::of_file(&Random::seeded(60).bytes(900_000));
    Upload::honest(60, "large", &nar, Codec::named("none"))
}

/// Nothing but store paths.
fn dense() -> Upload {
    let text: String = (0..4000)
        .map(|number| format!("/nix/store/{}-package-{number}\n", hash_part(number % 700)))
        .collect();
    Upload::honest(
        61,
        "dense",
        &Nar::of_file(text.as_bytes()),
        Codec::named("zstd"),
    )
}
