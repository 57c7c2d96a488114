//! A disk that is really full: pushes are answered 507 at once, reading goes on, nothing that was
//! acknowledged is lost, and with the first free space pushes work again. The same for a process
//! that has no descriptor left.
//!
//! The disk is a tmpfs, which needs root.

mod support;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::codec::Codec;
use support::disk::{self, Disk};
use support::http::Http;
use support::nar::{Nar, Upload, base32, hash_part};
use support::oracle::{self, EndWith, assert_whole, assert_whole_or_absent, raw_nar};
use support::random::Random;
use support::server::Snowcached;

const DISK_MIB: u64 = 64;
/// A quiet machine takes milliseconds for either; other tests have this one as well.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);
/// How long an upload without a narinfo stays.
const LEASE_S: u64 = 5;
const WORKS_AGAIN_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_disk_that_pushes_fill_refuses_them_and_goes_on_reading() {
    let Some(mut small) = Small::disk() else {
        return;
    };
    let (http, token) = (small.server.http(), small.token.clone());
    let pending = upload_of(1, 50_000);
    http.put(&pending.nar_path(), &token, &pending.body).is(200);
    let ballast = small.ballast(20 << 20);
    let kept = small.fill(2, 1_500_000);
    // To the last byte, so that not even a narinfo has room.
    let crumbs = small.ballast(u64::MAX);
    for number in [1000, 1001] {
        small.is_refused(&upload_of(number, 1_500_000));
    }
    let large = filler(&kept[0], 1002);
    let answer = http.put(&large.narinfo_path(), &token, large.narinfo().as_bytes());
    assert_eq!(answer.status, 507, "{}", answer.text());
    kept.iter().for_each(|path| assert_whole(http, path));

    // Whoever starts it now is told why it does not.
    small.server.kill();
    match small.server.try_start(&[]) {
        Ok(()) => kept.iter().for_each(|path| assert_whole(http, path)),
        Err(said) => assert!(said.contains("No space left"), "{said}"),
    }
    small.server.kill();
    fs::remove_file(crumbs).expect("the crumbs");
    fs::remove_file(&ballast).expect("the ballast");
    small.server.start_again();
    kept.iter().for_each(|path| assert_whole(http, path));
    http.put(
        &pending.narinfo_path(),
        &token,
        pending.narinfo().as_bytes(),
    )
    .is(200);
    assert_whole(http, &pending);

    // And without a restart.
    small.ballast(20 << 20);
    let more = small.fill(2000, 1_500_000);
    fs::remove_file(ballast).expect("the ballast");
    small.works_again();
    small.restart();
    kept.iter()
        .chain(&more)
        .for_each(|path| assert_whole(http, path));
}

#[test]
fn an_index_that_finds_no_room_recovers_when_there_is_some() {
    let Some(mut small) = Small::disk() else {
        return;
    };
    let (http, token) = (small.server.http(), small.token.clone());
    let base = upload_of(1, 50_000);
    publish(http, &token, &base).expect("room");
    let mut kept = vec![base.clone()];
    for number in 2..9 {
        kept.push(filler(&base, number));
        publish(http, &token, kept.last().expect("one")).expect("room");
    }
    // Room for some paths, and not for a table of what is in memory.
    let ballast = small.ballast_but(4 << 20);
    for number in 9..20 {
        let filler = filler(&base, number);
        let begin = Instant::now();
        match publish(http, &token, &filler) {
            Ok(()) => kept.push(filler),
            Err((507, _)) => assert!(begin.elapsed() < REFUSED_WITHIN),
            Err(refused) => panic!("{refused:?}"),
        }
        assert_whole(http, &base);
    }
    fs::remove_file(ballast).expect("the ballast");
    small.works_again();
    kept.iter().for_each(|path| assert_whole(http, path));
    small.restart();
    kept.iter().for_each(|path| assert_whole(http, path));
}

#[test]
fn a_full_disk_is_emptied_by_removing_and_collecting() {
    let Some(small) = Small::disk() else {
        return;
    };
    let (http, admin_token) = (small.server.http(), small.server.admin_token());
    let ballast = small.ballast(20 << 20);
    let mut kept = small.fill(2, 1_500_000);
    let gone = kept.split_off(kept.len() / 2);
    for path in &gone {
        oracle::remove(http, &admin_token, &[path.base_name()]).expect("room for a removal");
    }
    thread::sleep(Duration::from_secs(LEASE_S + 1));
    // The first refusal started one, which may still run.
    let begin = Instant::now();
    while let Err(said) = oracle::collect(http, &admin_token) {
        let busy = said.starts_with("409") && begin.elapsed() < REFUSED_WITHIN;
        assert!(busy, "no room for a collection: {said}");
        thread::sleep(Duration::from_millis(100));
    }
    small.works_again();
    kept.iter().for_each(|path| assert_whole(http, path));
    for path in &gone {
        assert!(!assert_whole_or_absent(http, path), "{}", path.store_path);
    }
    drop(ballast);
}

#[test]
fn a_server_without_descriptors_recovers_when_clients_leave() {
    let mut server = Snowcached::stopped(support::folder_on_disk(), "error", &[]);
    let limit = ["prlimit", "--nofile=64:64"].map(str::to_owned);
    server.try_start(&limit).expect("64 are enough to start");
    let (http, token) = (server.http(), server.push_token());
    let old = upload_of(1, 50_000);
    publish(http, &token, &old).expect("fine");
    let kept: Vec<Upload> = thread::scope(|scope| {
        let clients: Vec<_> = (2..102)
            .map(|number| {
                let token = &token;
                scope.spawn(move || {
                    let upload = upload_of(number, 300_000);
                    publish(http, token, &upload).is_ok().then_some(upload)
                })
            })
            .collect();
        let kept = clients
            .into_iter()
            .filter_map(|client| client.join().expect("a client"));
        kept.collect()
    });
    println!(
        "{} of 100 pushes got through with 64 descriptors",
        kept.len()
    );
    let begin = Instant::now();
    while let Err(refused) = publish(http, &token, &upload_of(200, 300_000)) {
        assert!(begin.elapsed() < WORKS_AGAIN_WITHIN, "{refused:?}");
        thread::sleep(Duration::from_millis(20));
    }
    kept.iter()
        .chain([&old])
        .for_each(|path| assert_whole(http, path));
    server.kill();
    server.start_again();
    kept.iter()
        .chain([&old])
        .for_each(|path| assert_whole(http, path));
}

/// A server on a small disk.
struct Small {
    token: String,
    // Dropped before the disk.
    server: Snowcached,
    disk: Disk,
    _configured: tempfile::TempDir,
}

impl Small {
    fn disk() -> Option<Small> {
        if !disk::can_be_had() {
            return None;
        }
        let disk = Disk::in_memory(DISK_MIB);
        let configured = support::folder_on_disk();
        let [flag, config] = oracle::quick_collections(configured.path(), LEASE_S);
        let mut server = Snowcached::stopped(disk.folder(), "error", &[&flag, &config]);
        server.start_again();
        Some(Small {
            token: server.push_token(),
            server,
            disk,
            _configured: configured,
        })
    }

    /// Takes up to so many bytes of the disk.
    fn ballast(&self, bytes: u64) -> PathBuf {
        let path = self.disk.path().join(format!("ballast-{bytes}"));
        let mut file = File::create(&path).expect("a file");
        let copied = io::copy(&mut io::Read::take(io::repeat(1), bytes), &mut file);
        assert!(copied.is_ok() || bytes > DISK_MIB << 20, "{copied:?}");
        file.flush().expect("no buffer");
        path
    }

    /// Takes all but so many bytes of the disk.
    fn ballast_but(&self, bytes: u64) -> PathBuf {
        let path = self.ballast(u64::MAX);
        let file = File::options().write(true).open(&path).expect("a file");
        let all = file.metadata().expect("a file").len();
        file.set_len(all - bytes).expect("shorter");
        path
    }

    /// Pushes from four clients until each has been refused twice, while someone reads; what was
    /// acknowledged.
    fn fill(&self, first: u64, bytes: usize) -> Vec<Upload> {
        let (http, over) = (self.server.http(), AtomicBool::new(false));
        let known = upload_of(first, 30_000);
        publish(http, &self.token, &known).expect("room");
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !over.load(Ordering::Relaxed) {
                    assert_whole(http, &known);
                    reads += 1;
                }
                reads
            });
            let end = EndWith(&over);
            let clients: Vec<_> = (0..4)
                .map(|client| scope.spawn(move || self.fill_alone(first + 1 + client * 100, bytes)))
                .collect();
            let kept = clients
                .into_iter()
                .flat_map(|client| client.join().expect("a client"));
            let mut kept: Vec<Upload> = kept.collect();
            drop(end);
            println!(
                "{} paths fit; {} reads meanwhile",
                kept.len(),
                reader.join().expect("a reader")
            );
            kept.push(known.clone());
            kept
        })
    }

    fn fill_alone(&self, first: u64, bytes: usize) -> Vec<Upload> {
        let (mut kept, mut refused) = (Vec::new(), 0);
        for number in first..first + 100 {
            let (upload, begin) = (upload_of(number, bytes), Instant::now());
            match publish(self.server.http(), &self.token, &upload) {
                Ok(()) => kept.push(upload),
                Err((507, said)) => {
                    assert!(said.contains("disk"), "{said}");
                    assert!(begin.elapsed() < REFUSED_WITHIN);
                    refused += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
            if refused == 2 {
                return kept;
            }
        }
        panic!("100 paths of {bytes} bytes do not fill {DISK_MIB} MiB");
    }

    fn is_refused(&self, upload: &Upload) {
        let begin = Instant::now();
        let refused = publish(self.server.http(), &self.token, upload);
        let (status, said) = refused.expect_err("there is no room");
        assert_eq!(status, 507, "{said}");
        assert!(
            begin.elapsed() < REFUSED_WITHIN,
            "after {:?}",
            begin.elapsed()
        );
        assert!(!assert_whole_or_absent(self.server.http(), upload));
        self.server.http().get(&raw_nar(upload)).is(404);
    }

    fn works_again(&self) {
        let (begin, upload) = (Instant::now(), upload_of(5000, 1_000_000));
        while let Err(refused) = publish(self.server.http(), &self.token, &upload) {
            assert!(begin.elapsed() < WORKS_AGAIN_WITHIN, "still {refused:?}");
            thread::sleep(Duration::from_millis(20));
        }
        assert_whole(self.server.http(), &upload);
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.start_again();
    }
}

fn upload_of(number: u64, bytes: usize) -> Upload {
    let nar = Nar::of_file(&Random::seeded(number).bytes(bytes));
    Upload::honest(number, "big", &nar, Codec::named("none"))
}

/// A path of a NAR that is there, with a narinfo of almost a megabyte that hardly compresses.
fn filler(base: &Upload, number: u64) -> Upload {
    let mut filler = base.clone();
    filler.store_path = format!("/nix/store/{}-filler-{number}", hash_part(number));
    let text = base32(&Random::seeded(number).bytes(600_000));
    filler.more = format!("X-Filler: {text}\n");
    filler
}

/// Status and sentence of the first answer that is not 200; 0 for a broken connection.
fn publish(http: Http, token: &str, upload: &Upload) -> Result<(), (u16, String)> {
    let narinfo = upload.narinfo();
    let requests = [
        (upload.nar_path(), upload.body.as_slice()),
        (upload.narinfo_path(), narinfo.as_bytes()),
    ];
    for (path, body) in requests {
        let answer = oracle::put(http, &path, token, body);
        let answer = answer.map_err(|error| (0, error.to_string()))?;
        if answer.status != 200 {
            return Err((answer.status, answer.text()));
        }
    }
    Ok(())
}
