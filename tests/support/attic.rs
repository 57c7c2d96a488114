//! attic, where `atticd` is given (with `atticadm` beside it): on SQLite and local files, with the
//! values of its own template, filled through its upload API.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use snowcache_nix::{Hash, NarInfo};

use super::http::{Http, Response};
use super::running::{Running, folder, free_port, tied};

/// What its cache is called.
pub const CACHE: &str = "main";

/// Worth nothing: 32 bytes of "snowcache", in base64, that sign the tokens of this run.
const TOKEN_SECRET: &str = "c25vd2NhY2hlc25vd2NhY2hlc25vd2NhY2hlc25vd2M=";

/// A running `atticd` with one public cache.
pub struct Attic {
    /// The process.
    pub running: Running,
    database: PathBuf,
    http: Http,
    token: String,
}

impl Attic {
    /// Starts this `atticd` on a free port and makes its cache.
    pub fn start(binary: &Path) -> Result<Attic, String> {
        let (folder, port) = (folder("attic")?, free_port());
        let config = folder.path().join("server.toml");
        let written = fs::write(&config, configuration(folder.path(), port));
        written.map_err(|error| error.to_string())?;
        let token = token(binary, &config)?;
        let database = folder.path().join("server.db");
        let mut command = tied(binary);
        command.arg("--config").arg(&config);
        let started = Running::start(command, folder, port);
        let attic = Attic {
            running: started.map_err(|why| format!("{}: {why}", binary.display()))?,
            database,
            http: Http(([127, 0, 0, 1], port).into()),
            token,
        };
        attic.make_cache()?;
        Ok(attic)
    }

    /// The URL of its cache.
    pub fn url(&self) -> String {
        format!("{}/{CACHE}", self.running.url())
    }

    /// Its SQLite database.
    pub fn database(&self) -> &Path {
        &self.database
    }

    fn make_cache(&self) -> Result<(), String> {
        let wish = serde_json::json!({
            "keypair": "Generate",
            "is_public": true,
            "store_dir": "/nix/store",
            "priority": 41,
            "upstream_cache_key_names": [],
        });
        let path = format!("/_api/v1/cache-config/{CACHE}");
        let (wish, request) = (
            wish.to_string(),
            self.http.request("POST", &path).bearer(&self.token),
        );
        let request = request.header("Content-Type", "application/json");
        done(request.bytes(wish.as_bytes()).try_send(), "making a cache")
    }

    /// What its narinfos are signed with.
    pub fn public_key(&self) -> Result<String, String> {
        let answer = self.http.get(&format!("/_api/v1/cache-config/{CACHE}"));
        let key = answer.json()["public_key"].as_str().map(str::to_owned);
        key.ok_or_else(|| "attic: no public_key".to_owned())
    }

    /// Uploads a path whose uncompressed NAR is `nar`.
    pub fn upload(&self, info: &NarInfo, nar: impl Read + Send) -> Result<(), String> {
        let references = info.references.iter().map(ToString::to_string);
        let hash = info.store_path.hash().to_string();
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
        let length = preamble.len() as u64 + info.nar_size;
        let request = self.http.request("PUT", "/_api/v1/upload-path");
        let request = request.bearer(&self.token).header(
            "X-Attic-Nar-Info-Preamble-Size",
            &preamble.len().to_string(),
        );
        let body = preamble.as_bytes().chain(nar);
        done(request.stream(Some(length), body).try_send(), &hash)
    }
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

fn done(answer: io::Result<Response>, what: &str) -> Result<(), String> {
    let answer = answer.map_err(|error| format!("attic: {what}: {error}"))?;
    match answer.status {
        200 => Ok(()),
        status => Err(format!("attic: {what}: {status}: {}", answer.text())),
    }
}
