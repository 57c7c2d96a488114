//! What can be said about the named caches of a server.

use super::keep::seconds;
use clap::{Args, Subcommand};

/// `snowcache cache`
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Make a named cache, with a signing key of its own; it is private unless it is said otherwise
    #[command(after_help = "\
Examples:
  snowcache --token-file admin.token cache create team-a
  snowcache --token-file admin.token cache create docs --public --priority 35 --quota 200G
  snowcache --token-file admin.token token create ci --scope push --for-cache team-a > ci.token

It is read at URL/NAME and written to at URL/NAME/push; --cache URL/NAME is it for all commands.
Names have 1 to 48 of a-z, 0-9 and single dashes, and begin with a letter. Takes the admin token.
Exit codes: 0 made, 1 not (there is one already, say), 2 wrong usage, 3 cache unreachable.")]
    Create(CacheCreateArgs),
    /// Change what is decided about a cache; what is not said stays as it is
    #[command(after_help = "\
Examples:
  snowcache --token-file admin.token cache set docs --private
  snowcache --token-file admin.token cache set docs --max-age 60d --quota none

Takes the admin token.")]
    Set(CacheSetArgs),
    /// List the named caches
    #[command(after_help = "\
Examples:
  snowcache --token-file admin.token cache list
  snowcache --token-file admin.token cache list --json | jq -r '.caches[].name'

The cache at / is always there, and not listed. Takes the admin token.")]
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show one cache, with the lines for nix.conf
    #[command(after_help = "\
Examples:
  snowcache --token-file admin.token cache show team-a
  snowcache --token-file admin.token cache show team-a --json | jq -r '.public_keys[]'

Takes the admin token.")]
    Show {
        /// The cache
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Delete a cache with its keys: it is gone at once, its paths go with the next collections
    #[command(after_help = "\
Example:
  snowcache --token-file admin.token cache delete team-a

Pins do not keep it. What other caches have, too, they keep. Its tokens are good for nothing any
more, also when a cache of the same name is made later. Takes the admin token.
Exit codes: 0 deleted, 1 there is none, 2 wrong usage, 3 cache unreachable.")]
    Delete {
        /// The cache
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `snowcache cache create`
#[derive(Args, Debug)]
pub struct CacheCreateArgs {
    /// The cache
    pub name: String,
    /// What is decided about it.
    #[command(flatten)]
    pub settings: CacheSettings,
    /// The name of its signing key [default: <host>-NAME-<time>-1]
    #[arg(long, value_name = "NAME")]
    pub key_name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `snowcache cache set`
#[derive(Args, Debug)]
pub struct CacheSetArgs {
    /// The cache
    pub name: String,
    /// What is decided about it.
    #[command(flatten)]
    pub settings: CacheSettings,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What can be decided about a cache.
#[derive(Args, Debug)]
pub struct CacheSettings {
    /// Let everybody read
    #[arg(long, conflicts_with = "private")]
    pub public: bool,
    /// Let only those read that have a token for it
    #[arg(long)]
    pub private: bool,
    /// As nix-cache-info says it: the lower one is asked first [default: that of the cache at /]
    #[arg(long, value_name = "NUMBER")]
    pub priority: Option<u32>,
    /// How long a path stays in any case after it was last put or asked for; `default`: as the
    /// server's configuration says
    #[arg(long, value_name = "TIME|default", value_parser = time)]
    pub grace: Option<Setting>,
    /// After which a path goes that was neither put nor asked for and that no pin keeps
    #[arg(long, value_name = "TIME|never|default", value_parser = time_or_never)]
    pub max_age: Option<Setting>,
    /// Bytes of NARs, unpacked, that it holds at most, with K, M, G or T behind for KiB to TiB
    #[arg(long, value_name = "SIZE|none", value_parser = size)]
    pub quota: Option<Setting>,
}

/// A number, or what is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting(pub Option<u64>);

fn time(text: &str) -> Result<Setting, String> {
    match text {
        "default" => Ok(Setting(None)),
        _ => seconds(text).map(|seconds| Setting(Some(seconds))),
    }
}

fn time_or_never(text: &str) -> Result<Setting, String> {
    match text {
        "never" => Ok(Setting(Some(0))),
        _ => time(text),
    }
}

fn size(text: &str) -> Result<Setting, String> {
    if text == "none" {
        return Ok(Setting(None));
    }
    let units = ["K", "M", "G", "T"].into_iter().zip([10, 20, 30, 40]);
    let mut unit = units.filter_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.next().unwrap_or((text, 0));
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = digits.parse().ok().filter(|_| plain);
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    let bytes = bytes.filter(|bytes| *bytes > 0);
    let wrong = "write a number, with K, M, G or T behind for KiB to TiB: 200G, or none";
    bytes
        .map(|bytes| Setting(Some(bytes)))
        .ok_or_else(|| wrong.to_owned())
}

impl CacheSettings {
    /// Whether everybody may read, if it was said.
    pub fn is_public(&self) -> Option<bool> {
        (self.public || self.private).then_some(self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_numbers_with_units_or_the_default() {
        for (text, means) in [
            ("1", Some(1)),
            ("200G", Some(200 << 30)),
            ("7K", Some(7168)),
            ("none", None),
        ] {
            assert_eq!(size(text), Ok(Setting(means)));
        }
        for bad in ["", "G", "0", "-1G", "1.5G", "1GB", "99999999T", "+1"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(time("default"), Ok(Setting(None)));
        assert_eq!(time_or_never("never"), Ok(Setting(Some(0))));
        assert_eq!(time_or_never("2d"), Ok(Setting(Some(172_800))));
        assert!(time("never").is_err());
    }
}
