//! attic, when `atticd` is given (with `atticadm` beside it): on SQLite and local files, with the
//! values of its own template, filled through its upload API.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use snowcache_nix::{Hash, NarInfo};

use super::super::corpus::{Corpus, read_item};
use super::super::harness::http::{Http, Response};
use super::free_port;
use super::running::{Running, folder, tied};

/// What its cache is called.
pub const CACHE: &str = "bench";

/// Worth nothing: 32 bytes of "snowcache", in base64, that sign the tokens of this run.
const TOKEN_SECRET: &str = "c25vd2NhY2hlc25vd2NhY2hlc25vd2NhY2hlc25vd2M=";

/// Starts this `atticd` on a free port, and uploads the corpus.
pub fn start(binary: &Path, corpus: &Corpus) -> Result<Running, String> {
    let (folder, port) = (folder("attic")?, free_port());
    let config = folder.path().join("server.toml");
    let written = fs::write(&config, configuration(folder.path(), port));
    written.map_err(|error| error.to_string())?;
    let token = token(binary, &config)?;
    let mut command = tied(binary);
    command.arg("--config").arg(&config);
    let started = Running::start(command, folder, port);
    let attic = started.map_err(|why| format!("{}: {why}", binary.display()))?;
    let http = Http(([127, 0, 0, 1], port).into());
    make_cache(&http, &token)?;
    eprintln!("filling attic");
    for generation in 0..corpus.generations.len() {
        for hash in corpus.added(generation) {
            upload(&http, &token, &corpus.raw(), &hash)?;
        }
    }
    Ok(attic)
}

fn configuration(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        r#"listen = "127.0.0.1:{port}"
[database]
url = "sqlite://{folder}/server.db?mode=rwc"
[storage]
type = "local"
path = "{folder}/storage"
[chunking]
nar-size-threshold = 65536
min-size = 16384
avg-size = 65536
max-size = 262144
[compression]
type = "zstd"
[garbage-collection]
interval = "0 seconds"
[jwt.signing]
token-hs256-secret-base64 = "{TOKEN_SECRET}"
"#
    )
}

fn token(binary: &Path, config: &Path) -> Result<String, String> {
    let adm = binary.with_file_name("atticadm");
    let mut command = Command::new(&adm);
    command.arg("--config").arg(config).arg("make-token");
    command.args(["--sub", "bench", "--validity", "1d"]);
    for verb in ["--pull", "--push", "--create-cache"] {
        command.args([verb, CACHE]);
    }
    let output = command.output();
    let output = output.map_err(|error| format!("{}: {error}", adm.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {said}", adm.display()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn make_cache(http: &Http, token: &str) -> Result<(), String> {
    let wish = serde_json::json!({
        "keypair": "Generate",
        "is_public": true,
        "store_dir": "/nix/store",
        "priority": 41,
        "upstream_cache_key_names": [],
    });
    let path = format!("/_api/v1/cache-config/{CACHE}");
    let (wish, request) = (wish.to_string(), http.request("POST", &path).bearer(token));
    let request = request.header("Content-Type", "application/json");
    done(request.bytes(wish.as_bytes()).try_send(), "making a cache")
}

fn upload(http: &Http, token: &str, raw: &Path, hash: &str) -> Result<(), String> {
    let item = read_item(raw, hash);
    let narinfo = std::str::from_utf8(&item.narinfo).expect("invariant: parsed as a narinfo");
    let info = NarInfo::parse(narinfo).expect("invariant: parsed before");
    let references = info.references.iter().map(ToString::to_string);
    let preamble = serde_json::json!({
        "cache": CACHE,
        "store_path_hash": hash,
        "store_path": info.store_path.absolute(),
        "references": references.collect::<Vec<_>>(),
        "system": null,
        "deriver": null,
        "sigs": [],
        "ca": null,
        "nar_hash": Hash::from(info.nar_hash).to_hex(),
        "nar_size": info.nar_size,
    });
    let preamble = preamble.to_string();
    let nar = File::open(raw.join(&item.url)).map_err(|error| error.to_string())?;
    let length = preamble.len() as u64 + item.nar_size;
    let request = http.request("PUT", "/_api/v1/upload-path").bearer(token);
    let request = request.header(
        "X-Attic-Nar-Info-Preamble-Size",
        &preamble.len().to_string(),
    );
    let body = preamble.as_bytes().chain(nar);
    done(request.stream(Some(length), body).try_send(), hash)
}

fn done(answer: io::Result<Response>, what: &str) -> Result<(), String> {
    let answer = answer.map_err(|error| format!("attic: {what}: {error}"))?;
    match answer.status {
        200 => Ok(()),
        status => Err(format!("attic: {what}: {status}: {}", answer.text())),
    }
}
