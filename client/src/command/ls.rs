//! `snowcache ls`: the files of a store path, in the words of `nix store ls -l`.
//!
//! Guarantees: read from the listing that the cache made; where it has none, the NAR is read once
//! and verified on the way. Never: a link followed.

use super::subject::Subject;
use super::{print, print_json, subject};
use crate::cli::LsArgs;
use crate::failure::Failure;
use crate::remote::Remote;
use futures::TryStreamExt;
use serde_json::{Map, Value, json};
use snowcache_core::cache::Cache;
use snowcache_nix::Listing;
use snowcache_nix::nar::Parser;
use std::fmt::Write;

pub(super) async fn run(remote: &Remote, args: &LsArgs) -> Result<(), Failure> {
    let subject = subject::parse(&args.path)?;
    let root = listing(remote, &subject).await?;
    let node = find(&root, &subject)?;
    if args.json {
        return print_json(&pruned(node, args.recursive));
    }
    let mut text = String::new();
    match entries(node) {
        Some(entries) if !args.directory => list(&mut text, ".", entries, args.recursive),
        Some(_) => show(&mut text, ".", node),
        None => {
            let name = subject
                .below
                .rsplit('/')
                .next()
                .filter(|name| !name.is_empty());
            let base_name = subject.path.as_ref().map(ToString::to_string);
            let name = name.map(str::to_owned).or(base_name);
            show(
                &mut text,
                &name.unwrap_or_else(|| subject.hash.to_string()),
                node,
            );
        }
    }
    print(&text)
}

/// The root of the listing.
async fn listing(remote: &Remote, subject: &Subject) -> Result<Value, Failure> {
    let narinfo = subject.narinfo(remote).await?;
    let listing = match remote.listing(subject.hash).await? {
        Some(listing) => listing,
        None => {
            let (mut parser, mut listing) = (Parser::new(), Listing::new());
            let mut nar = remote.nar(&narinfo).await?;
            while let Some(chunk) = nar.try_next().await? {
                let fed = parser.feed(&chunk, &mut |event| listing.event(event));
                fed.map_err(|error| Failure::failed(format!("{subject}: {error}")))?;
            }
            listing.to_json().map_err(Failure::failed)?.into()
        }
    };
    let mut listing: Value = serde_json::from_slice(&listing).map_err(|error| {
        Failure::failed(format!("the listing of {subject} is no JSON: {error}"))
    })?;
    match listing.get_mut("root") {
        Some(root) => Ok(root.take()),
        None => Err(Failure::failed(format!(
            "the listing of {subject} has no root"
        ))),
    }
}

fn find<'a>(root: &'a Value, subject: &Subject) -> Result<&'a Value, Failure> {
    let mut node = root;
    for name in subject.below.split('/').filter(|name| !name.is_empty()) {
        let next = entries(node).and_then(|entries| entries.get(name));
        node = next.ok_or_else(|| {
            Failure::failed(format!(
                "{subject} has no {}; `snowcache ls` shows what it has",
                subject.below
            ))
        })?;
    }
    Ok(node)
}

fn entries(node: &Value) -> Option<&Map<String, Value>> {
    node.get("entries")?.as_object()
}

/// Every line of a folder. Its depth is bounded by that of the JSON, which is 128.
fn list(text: &mut String, folder: &str, entries_of: &Map<String, Value>, recursive: bool) {
    for (name, node) in entries_of {
        let path = format!("{folder}/{name}");
        show(text, &path, node);
        if let (true, Some(below)) = (recursive, entries(node)) {
            list(text, &path, below, recursive);
        }
    }
}

fn show(text: &mut String, path: &str, node: &Value) {
    let mode = match (node["type"].as_str(), node["executable"].as_bool()) {
        (Some("directory"), _) => "dr-xr-xr-x",
        (Some("symlink"), _) => "lrwxrwxrwx",
        (_, Some(true)) => "-r-xr-xr-x",
        _ => "-r--r--r--",
    };
    let size = node["size"].as_u64().unwrap_or(0);
    let target = node["target"]
        .as_str()
        .map(|target| format!(" -> {target}"));
    let target = target.unwrap_or_default();
    writeln!(text, "{mode} {size:>20} {path}{target}")
        .expect("invariant: a String can be written to");
}

/// As nix prints it: without `-R`, folders in a folder are left empty.
fn pruned(node: &Value, recursive: bool) -> Value {
    let mut node = node.clone();
    if !recursive && let Some(entries) = node.get_mut("entries").and_then(Value::as_object_mut) {
        for below in entries.values_mut() {
            *below = json!({});
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = r#"{"entries":{"bin":{"entries":{"hello":{"executable":true,
        "narOffset":400,"size":12,"type":"regular"}},"type":"directory"},
        "sh":{"target":"bin/hello","type":"symlink"}},"type":"directory"}"#;

    #[test]
    fn lines_are_those_of_nix_store_ls() {
        let root: Value = serde_json::from_str(LISTING).expect("JSON");
        let mut text = String::new();
        list(&mut text, ".", entries(&root).expect("a folder"), true);
        assert_eq!(
            text,
            "dr-xr-xr-x                    0 ./bin\n\
             -r-xr-xr-x                   12 ./bin/hello\n\
             lrwxrwxrwx                    0 ./sh -> bin/hello\n"
        );
        assert_eq!(
            pruned(&root, false).to_string(),
            r#"{"entries":{"bin":{},"sh":{}},"type":"directory"}"#
        );
        assert_eq!(pruned(&root, true), root);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let root: Value = serde_json::from_str(LISTING).expect("JSON");
        let subject = |text: &str| {
            subject::parse(&format!("{}-x/{text}", "0".repeat(32))).expect("a subject")
        };
        assert_eq!(
            find(&root, &subject("bin/hello")).expect("there")["size"],
            12
        );
        let absent = find(&root, &subject("bin/hello/x")).expect_err("a file has no entries");
        assert!(
            absent
                .sentence()
                .expect("says")
                .contains("has no bin/hello/x")
        );
    }
}
