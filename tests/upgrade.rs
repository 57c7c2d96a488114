//! What an older version left is read by today's, byte for byte; what a newer one left is refused,
//! and left as it was.
//!
//! tests/old-data/ keeps data directories as older versions left them, and says what they served.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::codec::Codec;
use support::nar::{Nar, Upload};
use support::served::everything;
use support::server::{Snowcached, binary};
use support::snowread::{snowread, state_record};

/// Newer than any version that there is.
const FUTURE: u8 = 200;

#[test]
fn today_s_server_serves_what_the_first_version_left() {
    let (folder, golden) = old_data("v1");
    let mut server = Snowcached::start_with(folder, "info", &[]);
    serves_everything(&server, &golden);
    a_push_works(&server, &golden);
    server.stop();
    fs::remove_dir_all(server.depot().join("index")).expect("an index to remove");
    server.start_again();
    serves_everything(&server, &golden);
    let served: Vec<String> = everything(server.http()).into_keys().collect();
    server.stop();
    let segments = server.depot().join("segments");
    assert_eq!(snowread(&segments, &["list"]).names(), served);
    snowread(&segments, &["check"]).well();
}

#[test]
fn the_reader_reads_what_the_first_version_left() {
    let (folder, golden) = old_data("v1");
    let segments = folder.path().join("data/depot/segments");
    let restored = support::folder_on_disk();
    snowread(&segments, &["restore", &restored.path().to_string_lossy()]).well();
    for (name, path) in golden["paths"].as_object().expect("paths") {
        let narinfo = restored.path().join(format!("{}.narinfo", &name[..32]));
        let narinfo = fs::read_to_string(narinfo).expect("a restored narinfo");
        assert_eq!(narinfo, path["narinfo"], "{name}");
        let nar = snowread(&segments, &["nar", &name[..32]]).well();
        assert_eq!(sha256(&nar), path["nar"], "{name}");
    }
}

#[test]
fn what_a_newer_version_left_is_refused_and_stays_as_it_was() {
    for index in ["kept", "lost"] {
        let (folder, _) = old_data("v1");
        let depot = folder.path().join("data/depot");
        if index == "lost" {
            fs::remove_dir_all(depot.join("index")).expect("an index to remove");
        }
        // A torn tail in one segment, a record from the future in another one.
        let [torn, newer] =
            ["0000000001.seg", "0000000002.seg"].map(|name| depot.join("segments").join(name));
        append(&torn, b"torn");
        append(
            &newer,
            &state_record(3, FUTURE, 5_000, b"a recipe of another kind"),
        );
        let before = contents(&depot.join("segments"));
        let output = Command::new(binary("snowcached"))
            .arg("--data")
            .arg(folder.path().join("data"))
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .output()
            .expect("snowcached runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "index {index}: {said}");
        let sentence = said.lines().last().unwrap_or_default();
        assert!(sentence.contains(&format!("version {FUTURE}")), "{said}");
        assert!(
            sentence.contains("start the version that wrote it"),
            "{said}"
        );
        assert!(
            contents(&depot.join("segments")) == before,
            "index {index}: something changed"
        );
    }
}

/// An old data directory, unpacked, and what was served from it.
fn old_data(name: &str) -> (tempfile::TempDir, Value) {
    let kept = support::root().join("tests/old-data");
    let folder = support::folder_on_disk();
    let status = Command::new("tar")
        .arg("-xf")
        .arg(kept.join(format!("{name}.tar.zst")))
        .arg("-C")
        .arg(folder.path())
        .status()
        .expect("tar runs");
    assert!(status.success(), "tar: {status}");
    let golden = fs::read_to_string(kept.join(format!("{name}.json"))).expect("what was served");
    (folder, serde_json::from_str(&golden).expect("JSON"))
}

fn serves_everything(server: &Snowcached, golden: &Value) {
    let output = Command::new(binary("snowcache"))
        .args(["--cache", &server.url(), "verify", "--all", "--quiet"])
        .output()
        .expect("snowcache runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "snowcache verify --all: {said}");
    let served = everything(server.http());
    for (name, path) in golden["paths"].as_object().expect("paths") {
        let now = served
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not served"));
        assert_eq!(now.narinfo, path["narinfo"], "{name}");
        assert_eq!(sha256(&now.nar), path["nar"], "{name}");
        assert_eq!(sha256(&now.file), path["file"], "{name}");
    }
    for (url, body) in golden["documents"].as_object().expect("documents") {
        assert_eq!(server.http().get(url).is(200).text(), *body, "{url}");
    }
}

/// A path that refers to an old one, an old upload that waited for its narinfo, and a path offered
/// again with other bytes.
fn a_push_works(server: &Snowcached, golden: &Value) {
    let (http, token) = (server.http(), server.push_token());
    let waiting = golden["uploads"].as_object().expect("uploads").iter();
    for (name, narinfo) in waiting {
        let narinfo = narinfo.as_str().expect("a narinfo").as_bytes();
        http.put(&format!("/push/{}.narinfo", &name[..32]), &token, narinfo)
            .is(200);
    }
    let paths = golden["paths"].as_object().expect("paths");
    let leaf = paths
        .keys()
        .find(|name| name.ends_with("-leaf"))
        .expect("a leaf");
    let text = format!("refers to /nix/store/{leaf}/lib");
    let mut upload = Upload::honest(
        1,
        "pushed-later",
        &Nar::of_file(text.as_bytes()),
        Codec::named("zstd"),
    );
    upload.references = vec![leaf.clone()];
    let mut other = Upload::honest(
        2,
        "leaf",
        &Nar::of_file(b"other bytes"),
        Codec::named("none"),
    );
    other.store_path = format!("/nix/store/{leaf}");
    for upload in [&upload, &other] {
        http.put(&upload.nar_path(), &token, &upload.body).is(200);
        http.put(&upload.narinfo_path(), &token, upload.narinfo().as_bytes())
            .is(200);
    }
    let served = everything(http);
    assert!(served[upload.base_name()].nar == upload.nar);
    assert_eq!(
        served.len(),
        paths.len() + golden["uploads"].as_object().map_or(0, |all| all.len()) + 1
    );
}

fn sha256(bytes: &[u8]) -> String {
    let digest = support::corpus::sha256(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn append(file: &Path, more: &[u8]) {
    let mut bytes = fs::read(file).expect("a segment");
    bytes.extend_from_slice(more);
    fs::write(file, bytes).expect("a segment");
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).expect("a folder").flatten();
    let name = |file: &fs::DirEntry| file.file_name().to_string_lossy().into_owned();
    files
        .map(|file| (name(&file), fs::read(file.path()).expect("a file")))
        .collect()
}
