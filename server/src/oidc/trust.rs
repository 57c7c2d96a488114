//! Whom the cache trusts to say who somebody is, and what it lets them do: the file that
//! `auth.issuers_file` names.
//!
//! Guarantees: a rule that would let in more than it seems to is an error that says so: one
//! without claims, or with names that somebody else can take over. Never: a secret in it.

use super::fetch::is_private;
use super::jwt::Claims;
use crate::auth::subject::{Name, Scopes};
use serde::Deserialize;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::{Table, Value};

/// By how much clocks may differ at most.
const MAX_CLOCK_SKEW_S: u64 = 300;

/// A token that was exchanged for an identity holds a day at most: a job can ask again.
const MAX_LIFE_S: u64 = 86_400;

/// Claims with names that can be given up, and taken by somebody else; and those that stay.
const NAMES: [(&str, &str); 5] = [
    ("repository", "repository_id"),
    ("repository_owner", "repository_owner_id"),
    ("project_path", "project_id"),
    ("namespace_path", "namespace_id"),
    ("user_login", "user_id"),
];

/// How `sub` begins where it is made of such names.
const NAMED_SUBJECTS: [&str; 2] = ["repo:", "project_path:"];

/// What is wrong with the file.
#[derive(Debug, Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("{}: cannot be read; auth.issuers_file names it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not as `config/issuers.toml` is.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in it and why.
        #[source]
        problem: toml::de::Error,
    },
    /// Something in it cannot be meant.
    #[error("{}: {place}: {problem}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// Which issuer and rule.
        place: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "issuer")]
    issuers: Vec<Issuer>,
}

/// `[[issuer]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// As its tokens say it in `iss`, to the letter.
    pub url: String,
    /// What its tokens must say in `aud`.
    pub audience: String,
    /// Where its keys are; without, where its discovery document says.
    pub jwks_url: Option<String>,
    /// A file with its keys, in place of asking it.
    pub jwks_file: Option<PathBuf>,
    /// Certificates of the authorities that its certificate may be by, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A token that is sent with each question to it.
    pub token_file: Option<PathBuf>,
    /// By how much its clock may differ from ours.
    #[serde(default = "default_clock_skew_s")]
    pub clock_skew_s: u64,
    /// What its tokens are good for: the first rule that fits.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

/// `[[issuer.rule]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// As whom the bearer is recorded.
    pub subject: Name,
    /// What the token allows.
    pub scopes: Scopes,
    /// In which caches, by name; none: the one at `/`, and with `admin` everything.
    #[serde(default)]
    pub caches: Vec<String>,
    /// How long.
    #[serde(default = "default_life_s")]
    pub expires_in_s: u64,
    /// What the identity must say.
    pub claims: Table,
}

/// A minute: what NTP leaves is below a second, and hosts without it drift by some a day.
fn default_clock_skew_s() -> u64 {
    60
}

/// An hour: as long as most jobs.
fn default_life_s() -> u64 {
    3600
}

impl Issuer {
    /// Whether keys that were had from the one are the other's, too.
    pub fn is_asked_like(&self, other: &Issuer) -> bool {
        let asked = |it: &Issuer| {
            let files = [&it.jwks_file, &it.ca_file, &it.token_file].map(Option::clone);
            (it.url.clone(), it.jwks_url.clone(), files)
        };
        asked(self) == asked(other)
    }
}

impl Rule {
    /// Whether an identity is one that is meant.
    pub fn fits(&self, claims: &Claims) -> bool {
        fits(&self.claims, claims)
    }
}

/// The issuers of a file.
///
/// # Errors
/// What is wrong with it.
pub fn read(path: &Path) -> Result<Vec<Issuer>, TrustError> {
    let owned = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|source| TrustError::Unreadable {
        path: owned(),
        source,
    })?;
    let parsed: Result<File, _> = toml::from_str(&text);
    let file = parsed.map_err(|problem| TrustError::Syntax {
        path: owned(),
        problem,
    })?;
    match mistake(&file.issuers) {
        None => Ok(file.issuers),
        Some((place, problem)) => Err(TrustError::Rule {
            path: owned(),
            place,
            problem,
        }),
    }
}

fn mistake(issuers: &[Issuer]) -> Option<(String, String)> {
    for (number, issuer) in issuers.iter().enumerate() {
        let place = format!("issuer {}", issuer.url);
        let again = issuers[..number]
            .iter()
            .any(|other| other.url == issuer.url);
        if again {
            return Some((
                place,
                "it is there twice: put all rules under one".to_owned(),
            ));
        }
        if let Some(problem) = of_issuer(issuer) {
            return Some((place, problem.to_owned()));
        }
        for (number, rule) in issuer.rules.iter().enumerate() {
            if let Some(problem) = of_rule(rule) {
                return Some((format!("{place}, rule {}", number + 1), problem));
            }
        }
    }
    None
}

fn of_issuer(issuer: &Issuer) -> Option<&'static str> {
    let keys_are_private = issuer.jwks_url.as_deref().is_none_or(is_private);
    if !is_private(&issuer.url) || !keys_are_private {
        return Some("url and jwks_url begin with https:// (http:// on this machine only)");
    }
    let asks = issuer.jwks_url.is_some() || issuer.ca_file.is_some() || issuer.token_file.is_some();
    if issuer.jwks_file.is_some() && asks {
        return Some("with jwks_file it is never asked: leave out jwks_url, ca_file, token_file");
    }
    if issuer.audience.is_empty() {
        return Some("audience is empty: any token of this issuer, for whomever, would be taken");
    }
    if issuer.clock_skew_s > MAX_CLOCK_SKEW_S {
        return Some("clock_skew_s is at most 300");
    }
    if issuer.rules.is_empty() {
        return Some("it has no [[issuer.rule]], so nobody could come by it");
    }
    None
}

fn of_rule(rule: &Rule) -> Option<String> {
    if !(1..=MAX_LIFE_S).contains(&rule.expires_in_s) {
        return Some(format!("expires_in_s is 1 to {MAX_LIFE_S}, a day"));
    }
    let has = |name: &str| rule.claims.contains_key(name);
    if let Some((name, id)) = NAMES.iter().find(|(name, id)| has(name) && !has(id)) {
        return Some(format!(
            "{name} is a name, which its owner can give up and somebody else take: name {id}, \
             too, or instead"
        ));
    }
    let is_named = |sub: &str| NAMED_SUBJECTS.iter().any(|begin| sub.starts_with(begin));
    let mut ids = NAMES.iter().map(|(_, id)| id);
    if rule
        .claims
        .get("sub")
        .and_then(Value::as_str)
        .is_some_and(is_named)
        && !ids.any(|id| has(id))
    {
        return Some(
            "sub is made of names here, which somebody else can take: name repository_id or \
             project_id, too"
                .to_owned(),
        );
    }
    match of_claims(&rule.claims) {
        true => None,
        false => Some(
            "claims name at least one, each as text, whole number, true or false, a list of \
             such of which one has to be, or a table of claims"
                .to_owned(),
        ),
    }
}

fn of_claims(claims: &Table) -> bool {
    let plain = |value: &Value| value.is_str() || value.is_integer() || value.is_bool();
    let good = |value: &Value| match value {
        Value::Table(inner) => of_claims(inner),
        Value::Array(several) => !several.is_empty() && several.iter().all(plain),
        value => plain(value),
    };
    !claims.is_empty() && claims.values().all(good)
}

fn fits(rule: &Table, claims: &Claims) -> bool {
    rule.iter()
        .all(|(name, wanted)| match (wanted, claims.get(name)) {
            (_, None) => false,
            (Value::Table(wanted), Some(Json::Object(said))) => fits(wanted, said),
            (Value::Array(several), Some(said)) => several.iter().any(|one| same(one, said)),
            (wanted, Some(said)) => same(wanted, said),
        })
}

/// Text is compared as text, also where one side writes a number: GitLab's ids are text,
/// others' are numbers.
fn same(wanted: &Value, said: &Json) -> bool {
    let wanted = match wanted {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        _ => return false,
    };
    match said {
        Json::String(text) => *text == wanted,
        Json::Number(number) => number.to_string() == wanted,
        Json::Bool(truth) => truth.to_string() == wanted,
        _ => false,
    }
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
