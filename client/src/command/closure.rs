//! `snowcache closure`: what a cache holds of a closure, and what it does not.

use super::{print, print_json, subject};
use crate::cli::ClosureArgs;
use crate::failure::{Exit, Failure};
use crate::remote::Remote;
use crate::show;
use serde::Serialize;
use snowcache_core::cache::{CacheExt, Narinfo};
use snowcache_core::closure::{Absent, Closure, Limits};
use std::fmt::Write;

#[derive(Serialize)]
struct Report {
    complete: bool,
    nar_size_bytes: u64,
    file_size_bytes: u64,
    paths: Vec<Path>,
    missing: Vec<Missing>,
    /// What is not there because an upstream has it.
    upstream: Vec<Missing>,
}

#[derive(Serialize)]
struct Path {
    path: String,
    nar_hash: String,
    nar_size_bytes: u64,
    file_size_bytes: Option<u64>,
    references: Vec<String>,
}

#[derive(Serialize)]
struct Missing {
    path: String,
    needed_by: Option<String>,
    /// The key of the upstream that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<String>,
}

pub(super) async fn run(remote: &Remote, args: &ClosureArgs) -> Result<(), Failure> {
    let subjects: Vec<_> = args
        .paths
        .iter()
        .map(|path| subject::parse_whole(path))
        .collect::<Result<_, _>>()?;
    let roots: Vec<_> = subjects.iter().map(|subject| subject.hash).collect();
    let closure = remote.closure(&roots, Limits::default()).await?;
    for subject in &subjects {
        let found = |path: &&Narinfo| path.info.store_path.hash() == subject.hash;
        if let Some(narinfo) = closure.paths.iter().find(found) {
            subject.check_name(&narinfo.info.store_path)?;
        }
    }
    let shown_root = |absent: &Absent| {
        let root = subjects.iter().find(|subject| subject.hash == absent.hash);
        root.map_or_else(|| absent.hash.to_string(), ToString::to_string)
    };
    let report = Report::of(&closure, shown_root);
    match args.json {
        true => print_json(&report)?,
        false => print(&report.text())?,
    }
    if closure.is_complete() {
        Ok(())
    } else {
        Err(Failure::told(Exit::Failed))
    }
}

impl Report {
    fn of(closure: &Closure, shown_root: impl Fn(&Absent) -> String) -> Report {
        let missing = |absent: &Absent| Missing {
            path: match &absent.needed {
                None => shown_root(absent),
                Some(needed) => needed.path.absolute(),
            },
            needed_by: absent.needed.as_ref().map(|needed| needed.by.absolute()),
            signed_by: absent.upstream.clone(),
        };
        let all = closure.absent.iter().map(missing);
        let (upstream, missing) = all.partition(|one| one.signed_by.is_some());
        let file_size = |path: &Narinfo| path.file_size_bytes.unwrap_or(0);
        Report {
            complete: closure.is_complete(),
            nar_size_bytes: closure.nar_size_bytes(),
            file_size_bytes: closure
                .paths
                .iter()
                .map(file_size)
                .fold(0, u64::saturating_add),
            paths: closure.paths.iter().map(Path::of).collect(),
            missing,
            upstream,
        }
    }

    fn text(&self) -> String {
        const WHY: &str = "invariant: a String can be written to";
        let mut text = String::new();
        for path in &self.paths {
            let size = show::size(path.nar_size_bytes);
            writeln!(text, "{size:>10}  {}", path.path).expect(WHY);
        }
        for Missing {
            path, signed_by, ..
        } in &self.upstream
        {
            let key = signed_by.as_deref().unwrap_or_default();
            writeln!(text, "{:>10}  {path}  (signed by {key})", "upstream").expect(WHY);
        }
        for missing in &self.missing {
            let by = missing
                .needed_by
                .as_ref()
                .map(|by| format!("  (needed by {by})"));
            let by = by.unwrap_or_default();
            writeln!(text, "{:>10}  {}{by}", "MISSING", missing.path).expect(WHY);
        }
        let (nars, files) = (
            show::size(self.nar_size_bytes),
            show::size(self.file_size_bytes),
        );
        let paths = show::paths(self.paths.len());
        write!(text, "{paths}, {nars} of NARs, {files} to download; ").expect(WHY);
        match self.upstream.len() {
            0 => {}
            count => write!(text, "{} at upstreams; ", show::count(count as u64)).expect(WHY),
        }
        match self.missing.len() {
            0 => text.push_str("complete\n"),
            count => writeln!(text, "{count} missing").expect(WHY),
        }
        text
    }
}

impl Path {
    fn of(narinfo: &Narinfo) -> Path {
        let info = &narinfo.info;
        Path {
            path: info.store_path.absolute(),
            nar_hash: info.nar_hash.to_string(),
            nar_size_bytes: info.nar_size,
            file_size_bytes: narinfo.file_size_bytes,
            references: info.references.iter().map(|it| it.absolute()).collect(),
        }
    }
}
