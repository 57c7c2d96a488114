//! What the server prints when it is ready: one line for scripts, then what a person pastes.
//!
//! Never: the admin token; nor the push token where a journal or a container's log keeps what is
//! printed.

use crate::config::Config;
use crate::first_start::{Identity, hostname};
use crate::listen::Bound;
use std::fmt::Write;

/// The key of the second substituter that the nix.conf lines name.
const NIXOS_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// The URL under which clients reach a server that listens at `bound`.
pub fn public_url(config: &Config, bound: &Bound) -> String {
    if !config.public_url.is_empty() {
        return config.public_url.trim_end_matches('/').to_owned();
    }
    match bound {
        Bound::Tcp(address) if address.ip().is_unspecified() => {
            format!("http://{}:{}", hostname(), address.port())
        }
        Bound::Tls(address) if address.ip().is_unspecified() => {
            format!("https://{}:{}", hostname(), address.port())
        }
        bound => bound.to_string(),
    }
}

/// For nix.conf, so that a cache that died or stalls costs a client with another substituter less
/// than 30 s. A download of which no byte arrives is given up after 5 s, thrice, with pauses of at
/// most 1.1 s in all: 16 s, measured 18 to 20; `fallback` makes Nix leave the cache alone for a
/// minute then. With Nix's own values it is 5 times 300 s, for every path anew.
const FAILOVER: &str = "connect-timeout = 5\n\
    stalled-download-timeout = 5\n\
    download-attempts = 3\n\
    fallback = true\n";

/// The whole text, ending in a line break. With `to_a_person` false it does not show the push
/// token.
pub fn banner(config: &Config, bound: &[&Bound], identity: &Identity, to_a_person: bool) -> String {
    let url = public_url(config, bound[0]);
    let data = config.data.display();
    let all: Vec<String> = bound.iter().map(ToString::to_string).collect();
    let mut text = format!("snowcached ready on {}\n", all.join(", "));
    if url.starts_with("unix:") {
        write!(
            text,
            "\nNix itself speaks TCP only: put a proxy in front of {url}, or listen on an \
            address.\n\
             The push token is in {data}/push.token.\n"
        )
        .expect("invariant: writing to a String cannot fail");
        return text;
    }
    let keys: Vec<String> = identity
        .keys
        .iter()
        .map(|key| key.public().to_string())
        .collect();
    let keys = keys.join(" ");
    let host = host_of(&url);
    let token = if to_a_person {
        &identity.push_token
    } else {
        "TOKEN"
    };
    let priority = config.cache.priority;
    write!(
        text,
        "\n# nix.conf, on every machine that reads from this cache:\n\
         substituters = {url} https://cache.nixos.org\n\
         trusted-public-keys = {keys} {NIXOS_KEY}\n\
         # Priority: this cache has {priority}, cache.nixos.org has 40. The lower one is asked\n\
         # first, the other one when a path is missing; to turn that round on one machine:\n\
         # substituters = {url}?priority=50 https://cache.nixos.org\n\
         # When it dies or stalls, go on with the next one in less than 30 s:\n\
         {FAILOVER}\
         \n# To push, with the token of {data}/push.token in a netrc file:\n\
         machine {host} login push password {token}\n\
         # nix copy --to '{url}/push?compression=zstd' --option netrc-file NETRC \\\n\
         #     --option stalled-download-timeout 300 PATH...\n",
    )
    .expect("invariant: writing to a String cannot fail");
    text
}

/// The host of a URL without its port, as netrc files want it.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((ipv6, _)) => ipv6,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snowcache_nix::key::SecretKey;

    fn identity() -> Identity {
        Identity {
            keys: ["here-1", "here-2"]
                .map(|name| SecretKey::generate(name, [1; 32]).expect("a name"))
                .to_vec(),
            push_token: "the-push-token".to_owned(),
            admin_token: "the-admin-token".to_owned(),
        }
    }

    #[test]
    fn the_first_line_is_for_scripts_and_the_rest_for_nix_conf() {
        let bound = Bound::Tcp("127.0.0.1:8420".parse().expect("an address"));
        let text = banner(&Config::default(), &[&bound], &identity(), true);
        assert_eq!(
            text.lines().next(),
            Some("snowcached ready on http://127.0.0.1:8420")
        );
        assert!(
            text.contains("\nsubstituters = http://127.0.0.1:8420 https://cache.nixos.org\n"),
            "{text}"
        );
        assert!(
            text.contains(&identity().keys[1].public().to_string()),
            "{text}"
        );
        assert!(
            text.contains("\nmachine 127.0.0.1 login push password the-push-token\n"),
            "{text}"
        );
        assert!(text.contains("http://127.0.0.1:8420/push?"), "{text}");
        assert!(!text.contains("the-admin-token"), "{text}");
    }

    #[test]
    fn a_log_does_not_get_the_push_token() {
        let bound = Bound::Tcp("127.0.0.1:8420".parse().expect("an address"));
        let text = banner(&Config::default(), &[&bound], &identity(), false);
        assert!(!text.contains("the-push-token"), "{text}");
        assert!(text.contains("./var/push.token"), "{text}");
    }

    #[test]
    fn behind_a_proxy_its_own_url_is_printed() {
        let config = Config {
            public_url: "https://cache.example.org:444/".to_owned(),
            ..Config::default()
        };
        let bound = Bound::Tcp("0.0.0.0:8420".parse().expect("an address"));
        let text = banner(&config, &[&bound], &identity(), true);
        assert!(
            text.starts_with("snowcached ready on http://0.0.0.0:8420\n"),
            "{text}"
        );
        assert!(
            text.contains("substituters = https://cache.example.org:444 "),
            "{text}"
        );
        assert!(text.contains("machine cache.example.org login"), "{text}");
    }

    #[test]
    fn hosts_are_found_in_urls() {
        assert_eq!(host_of("http://[::1]:8420"), "::1");
        assert_eq!(host_of("https://a.b/cache"), "a.b");
    }
}
