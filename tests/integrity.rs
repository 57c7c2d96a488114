//! Bits rot, indexes get lost, disks die: what the tools for it promise, against the real binaries.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use support::codec::Codec;
use support::http::Http;
use support::nar::{Nar, Upload, hash_part};
use support::random::Random;
use support::server::{Snowcached, binary};

/// Path number `number`, with half a megabyte of its own.
fn upload(number: u64) -> Upload {
    let own = Random::seeded(number).bytes(500_000);
    let nar = Nar::new()
        .directory()
        .entry(b"own", |nar| nar.file(&own))
        .end();
    Upload::honest(
        number,
        &format!("path-{number}"),
        &nar,
        Codec::named("none"),
    )
}

fn push(http: Http, token: &str, number: u64) {
    let upload = upload(number);
    http.put(&upload.nar_path(), token, &upload.body).is(200);
    http.put(&upload.narinfo_path(), token, upload.narinfo().as_bytes())
        .is(200);
}

/// Whether narinfo, `missing` and the NAR itself say that it is here, and bring the right bytes.
fn is_whole(http: Http, number: u64) -> bool {
    let upload = upload(number);
    let hash = upload.hash_part();
    let asked = format!("{{\"hashes\":[\"{hash}\"]}}");
    let missing = http
        .request("POST", "/api/v1/missing")
        .bytes(asked.as_bytes());
    let missing = missing.try_send().expect("an answer").is(200).json();
    let missing = !missing["missing"].as_array().expect("a list").is_empty();
    let narinfo = http.request("GET", &format!("/{hash}.narinfo")).try_send();
    let narinfo = narinfo.expect("an answer").status;
    let nar = format!("/nar/{}.nar", upload.nar_hash.trim_start_matches("sha256:"));
    let nar = http.request("GET", &nar).try_send().expect("an answer");
    assert_eq!(
        missing,
        narinfo == 404,
        "path-{number}: missing and narinfo disagree"
    );
    assert_eq!(missing, nar.status == 404, "path-{number}: {}", nar.status);
    if !missing {
        assert_eq!((narinfo, nar.status), (200, 200));
        assert!(
            nar.body == upload.nar,
            "path-{number} is not what was pushed"
        );
    }
    !missing
}

fn snowcache(server: &Snowcached, arguments: &[&str]) -> Output {
    Command::new(binary("snowcache"))
        .args(["--cache", &server.url(), "--token-file"])
        .arg(server.data().join("admin.token"))
        .args(arguments)
        .output()
        .expect("snowcache runs")
}

fn snowcached(data: &Path, arguments: &[&str]) -> Output {
    Command::new(binary("snowcached"))
        .arg("--data")
        .arg(data)
        .args(arguments)
        .output()
        .expect("snowcached runs")
}

/// What it printed, when it ended with this code.
fn said(output: Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}\n{told}");
    text + &told
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(data.join("depot/segments")).expect("segments");
    let mut files: Vec<_> = folder.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    files
}

/// Flips a bit of a file where it lies, as a disk does it.
fn flip(file: &Path, at: u64) {
    let open = fs::OpenOptions::new().read(true).write(true).open(file);
    let (file, mut byte) = (open.expect("open"), [0]);
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("write");
}

/// Where in the segments some bytes of a path's own lie: they do not compress, so they lie as they
/// are.
fn place_of(data: &Path, number: u64) -> (PathBuf, u64) {
    let own = Random::seeded(number).bytes(500_000);
    for file in segments(data) {
        let bytes = fs::read(&file).expect("read");
        let found = bytes
            .windows(64)
            .position(|window| window == &own[250_000..250_064]);
        if let Some(at) = found {
            return (file, at as u64);
        }
    }
    panic!("path-{number} lies nowhere");
}

#[test]
fn what_rots_is_found_and_not_served_and_a_push_heals_it() {
    let mut server = Snowcached::start_with(support::folder_on_disk(), "info", &[]);
    let (http, token) = (server.http(), server.push_token());
    (0..6).for_each(|number| push(http, &token, number));
    assert!(said(snowcache(&server, &["scrub"]), 0).contains("all well"));

    // Found by the scrub.
    let (file, at) = place_of(&server.data(), 2);
    flip(&file, at);
    let told = said(snowcache(&server, &["scrub"]), 1);
    assert!(
        told.contains("DAMAGED") && told.contains(&format!("LOST     /nix/store/{}", hash_part(2))),
        "{told}"
    );
    // Found by a read, before anything was given out.
    let (file, at) = place_of(&server.data(), 4);
    flip(&file, at);
    assert_eq!(
        http.get(&upload(4).narinfo_path().replace("/push", ""))
            .status,
        200,
        "not known yet"
    );
    let nar = upload(4).nar_hash.replace("sha256:", "/nar/") + ".nar";
    let answer = http.request("GET", &nar).try_send();
    assert!(
        answer.is_err()
            || answer.is_ok_and(|answer| answer.status == 404 || answer.body != upload(4).nar)
    );

    for number in 0..6 {
        assert_eq!(
            is_whole(http, number),
            number != 2 && number != 4,
            "path-{number}"
        );
    }
    assert_eq!(server.stats()["sick_nars"], 2);
    // A restart forgets nothing of it; the push of the NAR alone brings the path back.
    server.stop();
    server.start_again();
    assert!(!is_whole(http, 2));
    for number in [2, 4] {
        let upload = upload(number);
        http.put(&upload.nar_path(), &token, &upload.body).is(200);
    }
    assert!((0..6).all(|number| is_whole(http, number)));
    assert_eq!(server.stats()["sick_nars"], 0);
    assert!(said(snowcache(&server, &["verify", "--all"]), 0).contains("all well"));

    let push_token = server.data().join("push.token");
    let refused = Command::new(binary("snowcache"))
        .args(["--cache", &server.url(), "--token-file"])
        .arg(push_token)
        .arg("scrub")
        .output();
    said(refused.expect("snowcache runs"), 1);
    server.stop();
    // The damaged bytes still lie there; nothing needs them.
    let told = said(snowcached(&server.data(), &["fsck"]), 0);
    assert!(
        told.contains("nothing needs it") && told.contains("clean"),
        "{told}"
    );
}

#[test]
fn a_backup_taken_while_pushes_go_on_has_all_that_was_acknowledged() {
    let mut server = Snowcached::start_with(support::folder_on_disk(), "info", &[]);
    let (http, token) = (server.http(), server.push_token());
    let spare = support::folder_on_disk();
    let target = spare.path().join("data");
    let pushed = AtomicU64::new(0);
    let mut before = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..40 {
                push(http, &token, number);
                pushed.store(number + 1, Ordering::SeqCst);
            }
        });
        for round in 0..4 {
            while pushed.load(Ordering::SeqCst) < round * 8 {
                thread::yield_now();
            }
            before = pushed.load(Ordering::SeqCst);
            let shown = target.to_str().expect("a plain name");
            said(snowcached(&server.data(), &["backup", shown]), 0);
            assert!(
                said(
                    snowcached(&server.data(), &["backup", "--verify", shown]),
                    0
                )
                .contains("all well")
            );
        }
    });
    for secret in ["push.token", "admin.token"] {
        let mode = fs::metadata(target.join(secret))
            .expect("copied")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let key = server.public_key();
    server.stop();

    // The disk died; the backup is a data folder.
    assert!(said(snowcached(&target, &["fsck"]), 0).contains("clean"));
    let restored = Snowcached::start_with(spare, "info", &[]);
    assert_eq!(restored.public_key(), key);
    let there: BTreeSet<u64> = (0..40)
        .filter(|number| is_whole(restored.http(), *number))
        .collect();
    assert!(
        (0..before).all(|number| there.contains(&number)),
        "{before}: {there:?}"
    );
    assert!(said(snowcache(&restored, &["verify", "--all"]), 0).contains("all well"));
    push(restored.http(), &token, 100);
}

#[test]
fn a_damaged_backup_is_noticed() {
    let mut server = Snowcached::start_with(support::folder_on_disk(), "info", &[]);
    push(server.http(), &server.push_token(), 1);
    server.stop();
    let spare = support::folder_on_disk();
    let target = spare.path().join("backup");
    let shown = target.to_str().expect("a plain name");
    said(snowcached(&server.data(), &["backup", shown]), 0);
    let (file, at) = place_of(&target, 1);
    flip(&file, at);
    let told = said(
        snowcached(&server.data(), &["backup", "--verify", shown]),
        1,
    );
    assert!(
        told.contains("0000000001.seg") && told.contains("not well"),
        "{told}"
    );
    said(
        snowcached(&server.data(), &["backup", "/proc/nowhere/at/all"]),
        1,
    );
    said(snowcached(&server.data(), &["backup"]), 2);
}

#[test]
fn an_index_is_proven_and_made_anew_from_the_segments() {
    let mut server = Snowcached::start_with(support::folder_on_disk(), "info", &[]);
    let (http, token) = (server.http(), server.push_token());
    (0..5).for_each(|number| push(http, &token, number));
    let busy = said(snowcached(&server.data(), &["fsck"]), 1);
    assert!(busy.contains("in use by another snowcached"), "{busy}");
    server.stop();
    let data = server.data();
    assert!(said(snowcached(&data, &["fsck"]), 0).contains("5 paths: clean"));
    said(snowcached(Path::new("/nonexistent"), &["fsck"]), 1);

    fs::remove_dir_all(data.join("depot/index")).expect("the index");
    assert!(said(snowcached(&data, &["recover"]), 0).contains("5 paths"));
    server.start_again();
    assert!((0..5).all(|number| is_whole(http, number)));
    server.kill();

    // An index that is no index.
    for entry in fs::read_dir(data.join("depot/index")).expect("the index") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "sst") || path.ends_with("CURRENT")
        {
            fs::write(path, "rubbish").expect("write");
        }
    }
    said(snowcached(&data, &["fsck"]), 1);
    let told = said(snowcached(&data, &["fsck", "--repair"]), 0);
    assert!(
        told.contains("REPAIRED") && told.contains("clean"),
        "{told}"
    );

    // What is lost is named.
    let (file, at) = place_of(&data, 3);
    flip(&file, at);
    let told = said(snowcached(&data, &["recover"]), 1);
    assert!(
        told.contains("LOST") && told.contains("path-3") && told.contains("4 paths"),
        "{told}"
    );
    server.start_again();
    for number in 0..5 {
        assert_eq!(is_whole(http, number), number != 3);
    }
    push(http, &token, 3);
    assert!(is_whole(http, 3));
}
