//! Which keys and variables exist, and which of them a misspelt one was meant to be.
//!
//! The keys are those of the default configuration written as TOML, so that no list of them can go
//! stale.

use super::Config;
use snowcache_core::nearest::nearest;
use toml::{Table, Value};

/// What the names of all our environment variables begin with.
pub const PREFIX: &str = "SNOWCACHE_";

/// Variables that are not keys: the path of the configuration file, the client's, and what this
/// project's development shell and tests are told by.
const NOT_KEYS: [&str; 22] = [
    "AGENT",
    "AUDIENCE",
    "CONFIG",
    "CUTS",
    "CYCLES",
    "DEV_SHELL",
    "FAULT",
    "FIRST_SEED",
    "FLIPS",
    "ID_TOKEN",
    "ID_TOKEN_FILE",
    "KILLS",
    "LONG",
    "OPERATIONS",
    "ROUNDS",
    "SEED",
    "SEEDS",
    "SPOOL",
    "STATE",
    "TOKEN",
    "TOKEN_FILE",
    "URL",
];

/// And what the names of others begin with.
const NOT_KEYS_FROM: [&str; 2] = ["BENCH", "TESTS"];

/// All keys, as tables in tables.
pub fn known() -> Table {
    Table::try_from(Config::default())
        .expect("invariant: the default configuration can be written as TOML")
}

/// All keys with their defaults, `section.key` each.
pub fn keys() -> Vec<(String, Value)> {
    let known = known().into_iter();
    let keys = known.flat_map(|(key, value)| match value {
        Value::Table(section) => {
            let inner = section.into_iter();
            inner
                .map(|(inner, value)| (format!("{key}.{inner}"), value))
                .collect()
        }
        value => vec![(key, value)],
    });
    keys.collect()
}

/// The environment variable of a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Whether a variable is somebody else's. Kubernetes tells every pod of services by variables like
/// these: of one called `snowcache` they begin as ours do.
pub fn is_foreign(variable: &str) -> bool {
    let Some(name) = variable.strip_prefix(PREFIX) else {
        return true;
    };
    let port = name.split("PORT_").nth(1);
    NOT_KEYS.contains(&name)
        || NOT_KEYS_FROM
            .iter()
            .any(|beginning| name.starts_with(beginning))
        || name.ends_with("SERVICE_HOST")
        || name.contains("SERVICE_PORT")
        || name.ends_with("PORT")
        || port.is_some_and(|port| port.starts_with(|first: char| first.is_ascii_digit()))
}

/// What `key`, one of a section of the keys `siblings`, was meant to be: itself in another section,
/// else the sibling that is spelt most like it. One whose unit was left out comes before any that
/// is spelt alike.
pub fn nearest_key(section: Option<&str>, key: &str, siblings: &Table) -> String {
    let elsewhere = |whole: &String| whole.rsplit('.').next() == Some(key);
    let mut all = keys().into_iter().map(|(whole, _)| whole);
    if let Some(elsewhere) = all.find(elsewhere) {
        return elsewhere;
    }
    let nearest = nearest(key, siblings.keys().map(String::as_str));
    match section {
        Some(section) => format!("{section}.{nearest}"),
        None => nearest,
    }
}

/// The variable of a key that is spelt most like `name`.
pub fn nearest_variable(name: &str) -> String {
    let variables: Vec<String> = keys().iter().map(|(key, _)| variable(key)).collect();
    nearest(name, variables.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let mut variables: Vec<String> = keys().iter().map(|(key, _)| variable(key)).collect();
        assert!(variables.contains(&"SNOWCACHE_DEPOT_MAX_SIZE_BYTES".to_owned()));
        assert!(variables.iter().all(|name| !is_foreign(name)));
        let all = variables.len();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), all);
    }

    #[test]
    fn what_kubernetes_says_of_a_service_is_not_ours() {
        for name in [
            "SNOWCACHE_SERVICE_HOST",
            "SNOWCACHE_SERVICE_PORT",
            "SNOWCACHE_SERVICE_PORT_HTTP",
            "SNOWCACHE_PORT",
            "SNOWCACHE_PORT_8420_TCP",
            "SNOWCACHE_PORT_8420_TCP_ADDR",
            "SNOWCACHE_METRICS_PORT_9420_TCP_PROTO",
            "SNOWCACHE_URL",
            "SNOWCACHE_BENCH_SECONDS",
            "PATH",
        ] {
            assert!(is_foreign(name), "{name}");
        }
        assert!(!is_foreign("SNOWCACHE_LISTNE"));
    }
}
