//! What can be said about tokens.

use super::keep::seconds;
use clap::{Args, Subcommand, ValueEnum};
use std::fmt;

/// `snowcache token`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for somebody, with what it allows and for how long; it is printed this once
    #[command(after_help = "\
Examples:
  snowcache token create ci --scope push --expires 90d > ci.token
  snowcache token create deploy --scope push --scope pin --expires 1h
  snowcache token create team --scope push --for-cache team-a
  snowcache token create alice --scope admin --json | jq -r .token

What is pushed with it is recorded under the name. Give it to nix in a netrc file, as the password.
Takes the admin token.")]
    Create(TokenCreateArgs),
    /// Exchange the identity that a CI or a cluster gave to this job for a token, and print it
    #[command(after_help = "\
The identity is $SNOWCACHE_ID_TOKEN (GitLab: id_tokens), or in the file $SNOWCACHE_ID_TOKEN_FILE
(Kubernetes: a projected volume), or GitHub is asked for it (permissions: id-token: write), for
$SNOWCACHE_AUDIENCE or else the URL of the cache. `snowcache push` and `snowcache pin` do this by
themselves where they are given no token; this is for nix, in a netrc file.

Example:
  snowcache --cache https://cache.example.org token exchange > job.token

Exit codes: 0 exchanged, 1 refused (it is said why), 2 there is no identity, 3 cache unreachable.")]
    Exchange {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the tokens: who bears them, what they allow, until when; never the tokens themselves
    #[command(after_help = "\
Examples:
  snowcache token list
  snowcache token list --json | jq -r '.tokens[] | select(.revoked == null) | .id'

What expired more than a day ago is not listed. Takes the admin token.")]
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Revoke tokens: from here on they are refused
    #[command(after_help = "\
Examples:
  snowcache token revoke 0a1b2c3d4e5f6071
  snowcache token revoke --subject ci

An upload that has begun may end; what it brought is published with a good token only.
Takes the admin token.
Exit codes: 0 revoked, 1 there is none, 2 wrong usage, 3 cache unreachable.")]
    Revoke(TokenRevokeArgs),
}

/// `snowcache token create`
#[derive(Args, Debug)]
pub struct TokenCreateArgs {
    /// Who bears it: up to 128 of letters, digits, '.', '_' and '-'
    pub subject: String,
    /// What it allows; may be given several times
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub scopes: Vec<Scope>,
    /// In which named cache; may be given several times [default: the one at /, and with the scope
    /// admin everywhere]
    #[arg(long = "for-cache", value_name = "NAME")]
    pub caches: Vec<String>,
    /// How long it holds, at most 366d
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = seconds)]
    pub expires: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `snowcache token revoke`
#[derive(Args, Debug)]
pub struct TokenRevokeArgs {
    /// Which, as `snowcache token list` shows them
    #[arg(required_unless_present = "subject", value_name = "ID")]
    pub ids: Vec<String>,
    /// All that this one bears
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Scope {
    /// Read, where reading takes a token
    Pull,
    /// Push paths
    Push,
    /// Set pins, and roll them back
    Pin,
    /// Everything
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Pull => "pull",
            Scope::Push => "push",
            Scope::Pin => "pin",
            Scope::Admin => "admin",
        })
    }
}
