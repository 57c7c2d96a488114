//! Who asks, and what they may.
//!
//! Guarantees: a name stands in records, log lines and file names as it is. Never: the name of one
//! of the two tokens that are files for anybody else.

use crate::caches::title;
use serde::{Deserialize, Serialize};
use snowcache_depot::CacheName;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The bearer of `push.token`.
const PUSH: &str = "push";
/// The bearer of `admin.token`.
const ADMIN: &str = "admin";

/// The longest name, in bytes; it stands in each record of what was pushed.
pub const MAX_NAME_BYTES: usize = 128;

/// Something that a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Read, where reading takes a token.
    Pull,
    /// Take paths in.
    Push,
    /// Set pins, and roll them back.
    Pin,
    /// Everything: remove, collect, scrub, make tokens and revoke them.
    Admin,
}

impl Scope {
    /// All, in the order in which they are written.
    pub const ALL: [Scope; 4] = [Scope::Pull, Scope::Push, Scope::Pin, Scope::Admin];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Pull => "pull",
            Scope::Push => "push",
            Scope::Pin => "pin",
            Scope::Admin => "admin",
        }
    }
}

/// A set of scopes, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Scope>", into = "Vec<Scope>")]
pub struct Scopes(u8);

impl Scopes {
    const fn of(scopes: &[Scope]) -> Scopes {
        let (mut bits, mut at) = (0, 0);
        while at < scopes.len() {
            bits |= 1 << scopes[at] as u8;
            at += 1;
        }
        Scopes(bits)
    }

    fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether these allow it. `admin` allows all, and each of them allows reading.
    pub fn allow(self, scope: Scope) -> bool {
        scope == Scope::Pull || self.has(scope) || self.has(Scope::Admin)
    }
}

impl TryFrom<Vec<Scope>> for Scopes {
    type Error = NoScopes;

    fn try_from(scopes: Vec<Scope>) -> Result<Scopes, NoScopes> {
        match scopes.is_empty() {
            true => Err(NoScopes),
            false => Ok(Scopes::of(&scopes)),
        }
    }
}

impl From<Scopes> for Vec<Scope> {
    fn from(scopes: Scopes) -> Vec<Scope> {
        let all = Scope::ALL.into_iter();
        all.filter(|scope| scopes.has(*scope)).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = Vec::from(*self).into_iter().map(Scope::as_str).collect();
        f.write_str(&words.join(", "))
    }
}

/// A token without scopes would be good for nothing.
#[derive(Debug, Error)]
#[error("name at least one scope of pull, push, pin and admin")]
pub struct NoScopes;

/// The name of whoever bears a token: 1 to 128 of letters, digits, `.`, `_` and `-`, beginning with
/// a letter or a digit; neither `push` nor `admin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is no name.
#[derive(Debug, Error)]
#[error(
    "{0:?} cannot be the name of a token's bearer: use 1 to {MAX_NAME_BYTES} of A-Z, a-z, 0-9, \
     '.', '_' and '-', begin with a letter or a digit; push and admin are taken by push.token and \
     admin.token"
)]
pub struct BadName(String);

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=MAX_NAME_BYTES).contains(&text.len());
        let is_taken = [PUSH, ADMIN].contains(&text);
        if !fits || !text.bytes().all(good) || text.starts_with(['.', '_', '-']) || is_taken {
            return Err(BadName(text.chars().take(MAX_NAME_BYTES).collect()));
        }
        Ok(Name(text.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Name, BadName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// In one cache.
    Cache(&'a CacheName),
    /// In what is about all of them: collections, tokens, the caches themselves.
    Server,
}

/// Where a token is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    /// Everywhere.
    Server,
    /// In these caches.
    Caches(Arc<[CacheName]>),
}

impl Within {
    /// Where a token is good that was made for `caches`: for none, in the cache at `/`, and where
    /// it allows everything, everywhere.
    pub fn of(caches: &[CacheName], scopes: Scopes) -> Within {
        match caches {
            [] if scopes.has(Scope::Admin) => Within::Server,
            [] => Within::Caches([CacheName::default_cache()].into()),
            caches => Within::Caches(caches.into()),
        }
    }

    /// Whether it is good there.
    pub fn has(&self, place: Place<'_>) -> bool {
        match (self, place) {
            (Within::Server, _) => true,
            (Within::Caches(caches), Place::Cache(cache)) => caches.contains(cache),
            (Within::Caches(_), Place::Server) => false,
        }
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Within::Server => f.write_str("all caches"),
            Within::Caches(caches) => {
                let titles: Vec<&str> = caches.iter().map(title).collect();
                write!(f, "the cache {}", titles.join(", "))
            }
        }
    }
}

/// As whom a request is answered, and a write is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    name: Arc<str>,
    scopes: Scopes,
    within: Within,
}

impl Subject {
    /// The bearer of a token that was made.
    pub fn new(name: &Name, scopes: Scopes, caches: &[CacheName]) -> Subject {
        Subject {
            name: name.0.clone(),
            scopes,
            within: Within::of(caches, scopes),
        }
    }

    /// The bearer of `push.token`, who may push to the cache at `/` and pin there.
    pub fn push() -> Subject {
        let scopes = Scopes::of(&[Scope::Pull, Scope::Push, Scope::Pin]);
        Subject {
            name: PUSH.into(),
            scopes,
            within: Within::of(&[], scopes),
        }
    }

    /// The bearer of `admin.token`, who may do anything.
    pub fn admin() -> Subject {
        Subject {
            name: ADMIN.into(),
            scopes: Scopes::of(&Scope::ALL),
            within: Within::Server,
        }
    }

    /// The name in records and log lines.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// What they may.
    pub fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// Where they may.
    pub fn within(&self) -> &Within {
        &self.within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_allow_what_they_say_and_admin_allows_all() {
        let scopes = |list: &str| serde_json::from_str::<Scopes>(list);
        for (list, allowed) in [
            (r#"["pull"]"#, "pull"),
            (r#"["pin"]"#, "pull, pin"),
            (r#"["push","pull","push"]"#, "pull, push"),
            (r#"["admin"]"#, "pull, push, pin, admin"),
        ] {
            let scopes = scopes(list).expect(list);
            let all = Scope::ALL.into_iter().filter(|scope| scopes.allow(*scope));
            assert_eq!(Scopes::of(&all.collect::<Vec<_>>()).to_string(), allowed);
        }
        let written = serde_json::to_string(&scopes(r#"["admin","pull"]"#).expect("two"));
        assert_eq!(written.expect("JSON"), r#"["pull","admin"]"#);
        assert!(scopes("[]").is_err() && scopes(r#"["root"]"#).is_err());
    }

    #[test]
    fn a_token_is_good_in_its_caches_alone() {
        let [a, b]: [CacheName; 2] = ["a", "b"].map(|name| name.parse().expect("a name"));
        let default = CacheName::default_cache();
        let (push, admin) = (Scopes::of(&[Scope::Push]), Scopes::of(&[Scope::Admin]));
        let one = std::slice::from_ref(&a);
        for (within, good) in [
            (Within::of(&[], push), "default"),
            (Within::of(one, push), "a"),
            (Within::of(&[a.clone(), b.clone()], push), "a b"),
            (Within::of(&[], admin), "default a b server"),
            (Within::of(one, admin), "a"),
        ] {
            let caches = [&default, &a, &b].into_iter();
            let caches = caches.filter(|cache| within.has(Place::Cache(cache)));
            let mut places: Vec<&str> = caches.map(CacheName::as_str).collect();
            places.extend(within.has(Place::Server).then_some("server"));
            assert_eq!(places.join(" "), good);
        }
    }

    #[test]
    fn a_name_stands_anywhere_and_pretends_nothing() {
        for good in ["ci", "github.web-1", "0", "Push", "a_b", &"x".repeat(128)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "push",
            "admin",
            "a/b",
            "..",
            "-x",
            "a b",
            "ü",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
