//! One path, checked from its narinfo to its last byte.
//!
//! Guarantees: `ok` means that a nix client that trusts the keys can fetch the path, and that it is
//! what the narinfo says in every field that can be checked. All that is wrong is reported, not
//! only the first of it, as far as one can go on. Never: an error of the connection taken for a
//! fault of the path - that ends the command.

use super::paths::Target;
use super::signatures::Trusted;
use crate::failure::Failure;
use crate::remote::{Remote, RemoteError};
use crate::show;
use futures::TryStreamExt;
use serde::Serialize;
use snowcache_core::cache::{Cache, Narinfo};
use snowcache_core::error::{Error, Kind};
use snowcache_core::upstream;
use snowcache_nix::ca::Verifier;
use snowcache_nix::nar::Parser;
use snowcache_nix::{ContentAddress, NarInfo, PathInfo, StoreHash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    pub path: String,
    pub ok: bool,
    pub nar_hash: Option<String>,
    pub nar_size_bytes: u64,
    pub file_size_bytes: u64,
    pub problems: Vec<String>,
}

pub(super) struct Checker {
    remote: Remote,
    trusted: Option<Trusted>,
    nar_bytes: Arc<AtomicU64>,
}

impl Checker {
    pub(super) fn new(
        remote: Remote,
        trusted: Option<Trusted>,
        nar_bytes: Arc<AtomicU64>,
    ) -> Checker {
        Checker {
            remote,
            trusted,
            nar_bytes,
        }
    }

    /// Checks one path.
    pub(super) async fn check(&self, target: Target) -> Result<Checked, Failure> {
        let shown = target
            .path
            .as_ref()
            .map_or_else(|| target.hash.to_string(), |it| it.absolute());
        let mut checked = Checked {
            path: shown,
            ok: false,
            nar_hash: None,
            nar_size_bytes: 0,
            file_size_bytes: 0,
            problems: Vec::new(),
        };
        if let Some(narinfo) = self.narinfo(target, &mut checked).await? {
            self.references(&narinfo.info, &mut checked).await?;
            self.signatures(&narinfo.info, &mut checked);
            if let Err(error) = self.nar(&narinfo, &mut checked).await {
                checked.problems.push(of_the_path(error)?);
            }
        }
        checked.ok = checked.problems.is_empty();
        Ok(checked)
    }

    /// The narinfo, if it can be gone on with.
    async fn narinfo(
        &self,
        target: Target,
        checked: &mut Checked,
    ) -> Result<Option<Narinfo>, Failure> {
        let text = match self.remote.narinfo_text(target.hash).await {
            Ok(Some(text)) => text,
            Ok(None) => {
                checked.problems.push("not in the cache".to_owned());
                return Ok(None);
            }
            Err(error) => {
                checked.problems.push(of_the_path(error.into())?);
                return Ok(None);
            }
        };
        let narinfo = match self.remote.parse_narinfo(target.hash, &text) {
            Ok(narinfo) => narinfo,
            Err(error) => {
                checked.problems.push(error.to_string());
                return Ok(None);
            }
        };
        let found = &narinfo.info.store_path;
        checked.path = found.absolute();
        checked.nar_hash = Some(narinfo.info.nar_hash.to_string());
        checked.nar_size_bytes = narinfo.info.nar_size;
        checked.file_size_bytes = narinfo.file_size_bytes.unwrap_or(0);
        if let Some(path) = target.path.filter(|path| path != found) {
            checked
                .problems
                .push(format!("the narinfo is about another name than {path}"));
        }
        if let Some(line) = first_difference(&text) {
            checked
                .problems
                .push(format!("the narinfo is not as Nix writes it: {line}"));
        }
        Ok(Some(narinfo))
    }

    /// Everything that it refers to must be there, or, as the cache says, at an upstream.
    async fn references(&self, info: &PathInfo, checked: &mut Checked) -> Result<(), Failure> {
        let hashes: Vec<StoreHash> = info.references.iter().map(|it| it.hash()).collect();
        if hashes.is_empty() {
            return Ok(());
        }
        let missing = self.remote.missing(&hashes).await?;
        let elsewhere = upstream::noted(info);
        let missing = info.references.iter().filter(|it| {
            missing.contains(&it.hash()) && !elsewhere.contains_key(it.to_string().as_str())
        });
        checked
            .problems
            .extend(missing.map(|it| format!("refers to {it}, which is not there")));
        Ok(())
    }

    fn signatures(&self, info: &PathInfo, checked: &mut Checked) {
        // What is content-addressed proves itself, and nix asks for no signature.
        if info.ca.is_none()
            && let Some(trusted) = &self.trusted
        {
            checked.problems.extend(trusted.problem(info));
        }
    }

    /// The bytes: parsed, hashed and counted on the way through.
    async fn nar(&self, narinfo: &Narinfo, checked: &mut Checked) -> Result<(), Error> {
        let info = &narinfo.info;
        let mut parser = Parser::new();
        let mut malformed = None;
        let mut content = content_verifier(info, checked);
        let mut nar = self.remote.nar(narinfo).await?;
        while let Some(chunk) = nar.try_next().await? {
            self.nar_bytes
                .fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if malformed.is_none() {
                malformed = parser.feed(&chunk, &mut |_| ()).err();
            }
            if let Some(Err(error)) = content.as_mut().map(|verifier| verifier.feed(&chunk)) {
                checked.problems.push(format!("content address: {error}"));
                content = None;
            }
        }
        if let Some(error) = malformed.or_else(|| parser.finish().err()) {
            checked
                .problems
                .push(format!("the NAR is not canonical: {error}"));
        }
        if let Some(Err(error)) = content.map(Verifier::finish) {
            checked.problems.push(format!("content address: {error}"));
        }
        Ok(())
    }
}

fn content_verifier(info: &PathInfo, checked: &mut Checked) -> Option<Verifier> {
    let address = info.ca.as_ref()?.parse::<ContentAddress>();
    let verifier =
        address.and_then(|address| Verifier::new(&address, &info.store_path, &info.references));
    match verifier {
        Ok(verifier) => Some(verifier),
        Err(error) => {
            checked.problems.push(format!("content address: {error}"));
            None
        }
    }
}

/// What is wrong with the path; or, when it is the way to the cache that failed, that. A server
/// that answers, but fails over this path, is the path's problem.
fn of_the_path(error: Error) -> Result<String, Failure> {
    let met = error.met().downcast_ref();
    let unreachable = matches!(
        met,
        Some(RemoteError::Connection { .. } | RemoteError::TimedOut { .. })
    );
    match error.kind() {
        Kind::Denied => Err(error.into()),
        _ if unreachable => Err(error.into()),
        _ => Ok(error.to_string()),
    }
}

/// The first line that would be written otherwise.
fn first_difference(text: &str) -> Option<String> {
    let canonical = NarInfo::parse(text).ok()?.to_string();
    if canonical == text {
        return None;
    }
    let differs = |(is, should): &(&str, &str)| is != should;
    match text.lines().zip(canonical.lines()).find(differs) {
        Some((is, should)) => Some(format!("{is:?} should be {should:?}")),
        None => Some("a line too many or too few".to_owned()),
    }
}

impl Checked {
    /// A line for each path, and one for each of its problems.
    pub(super) fn text(&self) -> String {
        if self.ok {
            return format!(
                "ok      {:>10}  {}\n",
                show::size(self.nar_size_bytes),
                self.path
            );
        }
        let mut text = format!(
            "FAILED  {:>10}  {}\n",
            show::size(self.nar_size_bytes),
            self.path
        );
        for problem in &self.problems {
            text.push_str("          - ");
            text.push_str(problem);
            text.push('\n');
        }
        text
    }
}
