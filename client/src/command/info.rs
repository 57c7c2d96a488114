//! `snowcache info`: what a cache says of itself, how fast it answers, and what to paste.
//!
//! Guarantees: works for any binary cache; what only a snowcache tells is left out of the others.

use super::{print, print_json};
use crate::cli::InfoArgs;
use crate::failure::Failure;
use crate::remote::{CacheInfo, Remote};
use crate::show;
use serde::Serialize;
use serde_json::Value;
use snowcache_core::failover;
use snowcache_nix::STORE_DIR;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Enough for a median that one hiccup does not move.
const PROBES: usize = 5;
/// What Nix takes when a cache does not say.
const DEFAULT_PRIORITY: &str = "50";

#[derive(Serialize)]
struct About {
    url: String,
    kind: &'static str,
    cache_info: BTreeMap<String, String>,
    latency_ms: f64,
    public_keys: Vec<String>,
    push_url: Option<String>,
    stats: Option<Value>,
    nix_conf: Vec<String>,
}

pub(super) async fn run(remote: &Remote, args: &InfoArgs) -> Result<(), Failure> {
    let url = remote.endpoint().to_string();
    let Some(info) = remote.cache_info().await? else {
        return Err(Failure::failed(format!(
            "{url} is no binary cache: it has no nix-cache-info; is a name missing in the URL?"
        )));
    };
    let latency = latency(remote).await?;
    // Whoever has no such call answers with whatever else; that only means it is no snowcache.
    let stats = remote.stats().await.ok().flatten();
    let public_keys = remote.public_keys().await.unwrap_or_default();
    let public_keys: Vec<String> = public_keys.iter().map(ToString::to_string).collect();
    let is_ours = stats.is_some() || !public_keys.is_empty();
    let about = About {
        kind: if is_ours { "snowcache" } else { "binary cache" },
        push_url: is_ours.then(|| remote.endpoint().push().to_string()),
        nix_conf: nix_conf(&url, &info, &public_keys),
        cache_info: info.fields().clone(),
        latency_ms: latency.as_secs_f64() * 1000.0,
        url,
        public_keys,
        stats,
    };
    if args.json {
        print_json(&about)
    } else {
        print(&about.text(&info))
    }
}

/// The median over one warm connection.
async fn latency(remote: &Remote) -> Result<Duration, Failure> {
    let mut times = Vec::new();
    for _ in 0..PROBES {
        let begin = Instant::now();
        remote.cache_info().await?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times[PROBES / 2])
}

fn nix_conf(url: &str, info: &CacheInfo, keys: &[String]) -> Vec<String> {
    let store_dir = info.get("StoreDir").unwrap_or(STORE_DIR);
    if url.starts_with("unix:") || store_dir != STORE_DIR {
        return Vec::new();
    }
    let mut lines = vec![format!("extra-substituters = {url}")];
    if !keys.is_empty() {
        lines.push(format!("extra-trusted-public-keys = {}", keys.join(" ")));
    }
    lines.extend(failover::NIX_CONF.map(str::to_owned));
    lines
}

impl About {
    fn text(&self, info: &CacheInfo) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            writeln!(text, "  {name:<18} {value}").expect("invariant: a String can be written to");
        };
        let priority = info.get("Priority").unwrap_or(DEFAULT_PRIORITY);
        line(
            "priority",
            &format!("{priority} (lower is asked first; cache.nixos.org has 40)"),
        );
        line("store directory", info.get("StoreDir").unwrap_or(STORE_DIR));
        line(
            "mass queries",
            if info.get("WantMassQuery") == Some("1") {
                "yes"
            } else {
                "no"
            },
        );
        line(
            "latency",
            &format!("{:.2} ms (median of {PROBES})", self.latency_ms),
        );
        if let Some(push_url) = &self.push_url {
            line("push to", push_url);
        }
        for (name, value) in self
            .stats
            .iter()
            .flat_map(|stats| stats.as_object())
            .flatten()
        {
            if let Some(value) = stat(name, value) {
                line(&name.trim_end_matches("_bytes").replace('_', " "), &value);
            }
        }
        let mut text = format!("{} is a {}\n{text}", self.url, self.kind);
        if !self.nix_conf.is_empty() {
            text.push_str("\n# nix.conf\n");
            for line in &self.nix_conf {
                text.push_str(line);
                text.push('\n');
            }
        }
        if self.public_keys.is_empty() {
            text.push_str("# It does not show its public keys here: ask whoever runs it.\n");
        }
        text
    }
}

/// One of the server's numbers.
fn stat(name: &str, value: &Value) -> Option<String> {
    match (value.as_u64(), value) {
        (Some(bytes), _) if name.ends_with("_bytes") => Some(show::size(bytes)),
        (Some(number), _) => Some(show::count(number)),
        (None, Value::String(text)) => Some(text.clone()),
        (None, Value::Number(number)) => Some(number.to_string()),
        _ => None,
    }
}
