//! The `snowcache` command against a real snowcached, and against a cache that lies.

mod support;

use futures::future::BoxFuture;

use serde_json::Value;
use snowcache::remote::Remote;
use snowcache_core::cache::{Cache, NarStream, Narinfo};
use snowcache_core::contract::{self, Sample, sample};
use snowcache_core::error::Error;
use snowcache_core::path_info::Claimed;
use snowcache_nix::{Compression, StoreHash};
use std::path::Path;
use std::process::{Command, Output};
use support::snowcached::Snowcached;
use support::{Behaviour, Fault, Server, key};

fn snowcache(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snowcache"))
        .args(arguments)
        .env_remove("SNOWCACHE_URL")
        .env_remove("SNOWCACHE_TOKEN")
        .output()
        .expect("snowcache starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn code(output: &Output) -> i32 {
    let code = output.status.code().expect("was not killed");
    println!(
        "{code}: {}{}",
        said(output),
        String::from_utf8_lossy(&output.stderr)
    );
    code
}

/// The contract's cache together with the server that it needs.
struct Served {
    remote: Remote,
    _server: Snowcached,
}

impl Cache for Served {
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>> {
        self.remote.narinfo(hash)
    }
    fn nar<'a>(&'a self, narinfo: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>> {
        self.remote.nar(narinfo)
    }
    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>> {
        self.remote.missing(hashes)
    }
    fn put(&self, claimed: Claimed, nar: NarStream) -> BoxFuture<'_, Result<(), Error>> {
        self.remote.put(claimed, nar)
    }
}

#[tokio::test]
async fn the_contract_holds_for_a_real_snowcached() {
    contract::suite(|| async {
        let server = Snowcached::start();
        Served {
            remote: server.remote(),
            _server: server,
        }
    })
    .await;
}

async fn two_paths(cache: &dyn Cache) -> (Sample, Sample) {
    let leaf = sample("leaf-1.0", &[b'l'; 10_000], &[]);
    let top = sample("top-1.0", b"refers to leaf", &[&leaf.info.store_path]);
    for path in [&leaf, &top] {
        cache
            .put(path.claimed(), path.stream())
            .await
            .expect("taken");
    }
    (leaf, top)
}

#[tokio::test]
async fn a_cache_is_described_listed_walked_and_verified() {
    let server = Snowcached::start();
    let (leaf, top) = two_paths(&server.remote()).await;
    let (leaf, top) = (leaf.info.store_path, top.info.store_path);
    let ask = |arguments: &[&str]| {
        let output = snowcache(&[&["--cache", &server.url], arguments].concat());
        assert_eq!(code(&output), 0);
        said(&output)
    };

    let info = ask(&["info"]);
    assert!(info.contains("is a snowcache"), "{info}");
    assert!(
        info.contains(&format!("extra-substituters = {}", server.url)),
        "{info}"
    );
    let info: Value = serde_json::from_str(&ask(&["info", "--json"])).expect("JSON");
    assert_eq!(info["stats"]["paths"], 2);
    assert_eq!(info["cache_info"]["StoreDir"], "/nix/store");
    let public_key = info["public_keys"][0].as_str().expect("one key").to_owned();

    assert_eq!(
        ask(&["ls", &top.absolute()]),
        "-r--r--r--                   14 ./content\n\
         lrwxrwxrwx                    0 ./link -> content\n"
    );
    let link = ask(&["ls", &format!("{}/link", top.hash())]);
    assert_eq!(link, "lrwxrwxrwx                    0 link -> content\n");

    let closure = ask(&["closure", &top.hash().to_string(), "--json"]);
    let closure: Value = serde_json::from_str(&closure).expect("JSON");
    assert_eq!(closure["complete"], true);
    assert_eq!(closure["paths"][0]["path"], leaf.absolute());
    assert_eq!(closure["paths"][1]["references"][0], leaf.absolute());

    assert!(ask(&["verify", "--all"]).ends_with("signatures checked: all well\n"));
    let keyed = ask(&[
        "verify",
        "--trusted-public-keys",
        &public_key,
        &top.to_string(),
        "-r",
    ]);
    assert!(
        keyed.starts_with("ok ") && keyed.contains("2 paths"),
        "{keyed}"
    );
    let lines = ask(&["verify", "--all", "--json"]);
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[..2].iter().all(|line| line["ok"] == true));
    assert_eq!(lines[2]["summary"]["paths"], 2);
}

#[tokio::test]
async fn what_is_not_there_fails_with_one_and_wrong_usage_with_two() {
    let server = Snowcached::start();
    let (_, top) = two_paths(&server.remote()).await;
    let run = |arguments: &[&str]| snowcache(&[&["--cache", &server.url], arguments].concat());
    let absent = sample("absent", b"", &[]).info.store_path.absolute();
    for command in ["ls", "closure", "verify"] {
        let output = run(&[command, &absent]);
        assert_eq!(code(&output), 1, "{command}");
        let all = said(&output) + &String::from_utf8_lossy(&output.stderr);
        assert!(
            all.contains(&absent),
            "{command} names what is not there: {all}"
        );
    }
    let top = top.info.store_path;
    assert_eq!(code(&run(&["ls", &format!("{top}/no/such/file")])), 1);
    let other_name = format!("{}-other-name", top.hash());
    assert_eq!(code(&run(&["verify", &other_name])), 1);

    let stranger = snowcache_nix::SecretKey::generate("stranger-1", [1; 32]).expect("a name");
    let stranger = stranger.public().to_string();
    let output = run(&["verify", "--all", "--trusted-public-keys", &stranger]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains("not signed by stranger-1"));

    assert_eq!(code(&run(&["verify"])), 2);
    assert_eq!(code(&run(&["verify", "/usr/bin/env"])), 2);
    assert_eq!(
        code(&run(&[
            "verify",
            "--all",
            "--trusted-public-keys",
            "nonsense"
        ])),
        2
    );
    assert_eq!(code(&snowcache(&["--cache", "ftp://x", "info"])), 2);
}

#[test]
fn a_cache_that_is_not_there_is_exit_code_three() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let hash = sample("any", b"", &[]).info.store_path.hash().to_string();
    for arguments in [&["info"] as &[&str], &["verify", "--all"], &["ls", &hash]] {
        let output = snowcache(&[&["--cache", &url], arguments].concat());
        assert_eq!(code(&output), 3);
        let sentence = String::from_utf8_lossy(&output.stderr);
        assert!(sentence.contains("cannot reach"), "{sentence}");
    }
}

async fn lying(behaviour: Behaviour) -> (String, Sample) {
    let server = Server::new(behaviour);
    let (leaf, _) = two_paths(&server.memory).await;
    (server.listen().await, leaf)
}

/// Runs off the test's own thread, which serves.
async fn verify(url: String, path: &Sample) -> (i32, String) {
    let path = path.info.store_path.absolute();
    let run = move || snowcache(&["--cache", &url, "verify", &path]);
    let output = tokio::task::spawn_blocking(run).await.expect("runs");
    (code(&output), said(&output))
}

#[tokio::test]
async fn verify_finds_what_a_lying_cache_does() {
    for (fault, codec, says) in [
        (None, None, "all well"),
        (
            Some(Fault::Damage(5_000)),
            None,
            "but its bytes are sha256:",
        ),
        (Some(Fault::Damage(30)), Some(Compression::Zstd), "FAILED"),
        (Some(Fault::CutAfter(5_000)), None, "broke off after"),
    ] {
        let nar_faults = std::sync::Mutex::new(fault.into_iter().collect());
        let (url, leaf) = lying(Behaviour {
            nar_faults,
            compression: codec,
            ..Behaviour::default()
        })
        .await;
        let (code, said) = verify(url, &leaf).await;
        assert_eq!(code, i32::from(fault.is_some()), "{fault:?}: {said}");
        assert!(said.contains(says), "{fault:?}: {said}");
    }
    let narinfo_suffix = "Sig: nonsense\n".to_owned();
    let (url, leaf) = lying(Behaviour {
        narinfo_suffix,
        ..Behaviour::default()
    })
    .await;
    let (code, said) = verify(url, &leaf).await;
    assert_eq!(code, 1);
    assert!(said.contains("is not a narinfo: line"), "{said}");
}

#[tokio::test]
async fn a_valid_signature_under_our_name_is_asked_for() {
    let (url, leaf) = lying(Behaviour {
        no_api: true,
        ..Behaviour::default()
    })
    .await;
    let path = leaf.info.store_path.absolute();
    let forged = snowcache_nix::SecretKey::generate(key().name(), [77; 32]).expect("a name");
    for (trusted, exit, says) in [
        (
            key().public().to_string(),
            0,
            "signatures checked: all well",
        ),
        (forged.public().to_string(), 1, "is not valid for this path"),
        (String::new(), 0, "signatures NOT checked"),
    ] {
        let (url, path) = (url.clone(), path.clone());
        let run = move || {
            snowcache(&[
                "--cache",
                &url,
                "verify",
                &path,
                "--trusted-public-keys",
                &trusted,
            ])
        };
        let output = tokio::task::spawn_blocking(run).await.expect("runs");
        assert_eq!(code(&output), exit);
        assert!(said(&output).contains(says), "{}", said(&output));
    }
}

#[test]
fn keys_are_made_and_shown_without_the_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cache.sec");
    let name = file.to_str().expect("UTF-8");
    let made = snowcache(&[
        "key",
        "generate",
        "--name",
        "cache.example.org-1",
        "--out",
        name,
    ]);
    assert_eq!(code(&made), 0);
    let secret = std::fs::read_to_string(Path::new(name)).expect("written");
    assert!(secret.starts_with("cache.example.org-1:") && secret.len() == 20 + 88);
    let shown = snowcache(&["key", "show", name]);
    assert_eq!(said(&shown), said(&made));
    assert!(said(&shown).starts_with("cache.example.org-1:"));
    assert!(!said(&shown).contains(&secret[20..60]));
    assert_eq!(
        code(&snowcache(&[
            "key", "generate", "--name", "x-1", "--out", name
        ])),
        1
    );
    assert_eq!(
        code(&snowcache(&["key", "generate", "--name", "a name"])),
        2
    );
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        &[] as &[&str],
        &["key", "generate"],
        &["key", "show"],
        &["info"],
        &["ls"],
        &["closure"],
    ]
    .iter()
    .chain(&[&["verify"] as &[&str]])
    {
        let output = snowcache(&[command, &["--help"] as &[&str]].concat());
        assert_eq!(code(&output), 0);
        assert!(said(&output).contains("Example"), "{command:?}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let server = Snowcached::start();
    two_paths(&server.remote()).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_snowcache"))
        .args(["--cache", &server.url, "verify", "--all"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(
        code(&output),
        141,
        "neither success nor a fault of the cache"
    );
    assert!(output.stderr.is_empty());
}
