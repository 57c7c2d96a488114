//! `snowcache cache`: the named caches of a server.
//!
//! Never: a name sent that would lead to another URL.

use super::{denied, print, print_json};
use crate::cli::{CacheCommand, CacheSettings};
use crate::failure::Failure;
use crate::remote::{CacheChange, NamedCache, Remote, RemoteError, Where};
use crate::show;
use serde_json::json;
use std::fmt::Write;

pub(super) async fn run(remote: &Remote, command: CacheCommand) -> Result<(), Failure> {
    match command {
        CacheCommand::Create(args) => {
            let change = change(&args.settings, args.key_name.clone());
            put(remote, &args.name, change, Where::New, args.json).await
        }
        CacheCommand::Set(args) => {
            let change = change(&args.settings, None);
            if change == CacheChange::default() {
                return Err(Failure::usage("say what is to change: see --help"));
            }
            put(remote, &args.name, change, Where::Existing, args.json).await
        }
        CacheCommand::List { json } => list(remote, json).await,
        CacheCommand::Show { name, json } => {
            let cache = remote.named_cache(checked(&name)?).await;
            tell(&cache.map_err(for_admins)?, json)
        }
        CacheCommand::Delete { name, json } => {
            let gone = remote.delete_cache(checked(&name)?).await;
            let gone = gone.map_err(for_admins)?;
            match json {
                true => print_json(&json!({ "deleted": gone })),
                false => print(&format!(
                    "{name} is deleted; its paths go with the next collections (snowcache gc)\n"
                )),
            }
        }
    }
}

fn change(settings: &CacheSettings, key_name: Option<String>) -> CacheChange {
    CacheChange {
        public: settings.is_public(),
        priority: settings.priority,
        grace_s: settings.grace.map(|it| it.0),
        max_age_s: settings.max_age.map(|it| it.0),
        quota_bytes: settings.quota.map(|it| it.0),
        key_name,
    }
}

async fn put(
    remote: &Remote,
    name: &str,
    change: CacheChange,
    at: Where,
    json: bool,
) -> Result<(), Failure> {
    let cache = remote.put_cache(checked(name)?, &change, at).await;
    tell(&cache.map_err(for_admins)?, json)
}

async fn list(remote: &Remote, json: bool) -> Result<(), Failure> {
    let caches = remote.named_caches().await.map_err(for_admins)?;
    if json {
        return print_json(&json!({ "caches": caches }));
    }
    match caches.is_empty() {
        true => print("no named caches: `snowcache cache create NAME` makes one\n"),
        false => print(&caches.iter().map(row).collect::<String>()),
    }
}

fn tell(cache: &NamedCache, json: bool) -> Result<(), Failure> {
    match json {
        true => print_json(cache),
        false => print(&(row(cache) + &lines(cache))),
    }
}

fn row(cache: &NamedCache) -> String {
    let visibility = if cache.public { "public" } else { "private" };
    let (name, url, priority) = (&cache.name, &cache.url, cache.priority);
    let (made, by) = (show::time(cache.created), &cache.by);
    let holds = holds(cache);
    format!("{name}  {visibility}, priority {priority}; {holds}; {url}; made {made} by {by}\n")
}

fn holds(cache: &NamedCache) -> String {
    let quota = cache.quota_bytes.map(show::size);
    let quota = quota.map_or(String::new(), |quota| format!(" of {quota}"));
    match &cache.holds {
        Some(holds) => {
            let (paths, size) = (show::count(holds.paths), show::size(holds.nar_bytes));
            format!("{paths} paths, {size}{quota}")
        }
        None => format!("being counted{quota}"),
    }
}

/// What a person pastes.
fn lines(cache: &NamedCache) -> String {
    let (url, keys) = (&cache.url, cache.public_keys.join(" "));
    let mut text = String::new();
    write!(
        text,
        "\n# nix.conf (or: snowcache use {url}):\nextra-substituters = {url}\n\
         extra-trusted-public-keys = {keys}\n# to push: {url}/push\n"
    )
    .expect("invariant: writing to a String cannot fail");
    text
}

/// A name that stands in a URL as it is; whether it is one, the server says.
fn checked(name: &str) -> Result<&str, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !name.is_empty() && name.bytes().all(plain) {
        true => Ok(name),
        false => Err(Failure::usage(format!(
            "{name:?} cannot be the name of a cache: use a-z, 0-9 and single dashes"
        ))),
    }
}

fn for_admins(error: RemoteError) -> Failure {
    denied(error, "admin.token")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Holding;

    #[test]
    fn a_row_says_who_may_read_and_where() {
        let cache = NamedCache {
            name: "team-a".to_owned(),
            url: "https://cache.example.org/team-a".to_owned(),
            public: false,
            priority: 30,
            grace_s: None,
            max_age_s: None,
            quota_bytes: Some(2 << 30),
            holds: Some(Holding {
                paths: 1234,
                nar_bytes: 1 << 30,
            }),
            public_keys: vec!["k-1:AA==".to_owned()],
            created: 1_600_000_000,
            by: "admin".to_owned(),
        };
        assert_eq!(
            row(&cache),
            "team-a  private, priority 30; 1,234 paths, 1.0 GiB of 2.0 GiB; \
             https://cache.example.org/team-a; made 2020-09-13 12:26 UTC by admin\n"
        );
        let lines = lines(&cache);
        assert!(lines.contains("\nextra-substituters = https://cache.example.org/team-a\n"));
        assert!(lines.contains("\nextra-trusted-public-keys = k-1:AA==\n"));
    }

    #[test]
    fn a_name_that_would_lead_elsewhere_is_none() {
        assert!(checked("team-a").is_ok());
        for bad in ["", "a/b", "..", "a?b", "a b"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
