//! Identities of a CI or a cluster, exchanged for tokens of this cache: OpenID Connect.
//!
//! ```text
//!   job --JWT--> jwt: read --iss--> issuer --kid--> keys --> jwt: verified --claims--> rule
//!       <------- a token of the rule's subject and scopes, for its time <-----------------'
//! ```
//! Guarantees: a token is made for nobody but whom a rule of the configuration means, by the word
//! of an issuer that it names, said to this cache. Never: a secret in a refusal, or a question to
//! an address that a stranger names.

mod fetch;
mod jwt;
mod keys;
pub mod trust;

pub use fetch::FetchError;
pub use jwt::MAX_JWT_BYTES;

use fetch::Fetch;
use jwt::{Claims, Shown, Terms, Unverified, Wrong};
use keys::Keys;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use thiserror::Error;
use trust::{Issuer, Rule, TrustError};

/// Why the issuers cannot be worked with.
#[derive(Debug, Error)]
pub enum IssuersError {
    /// Their file.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Their certificates.
    #[error(transparent)]
    Certificates(#[from] FetchError),
}

/// Why an identity gets no token.
#[derive(Debug, Error)]
pub enum Refused {
    /// There is nobody whom the cache trusts.
    #[error(
        "this cache exchanges no identities: its configuration names no issuers \
         (auth.issuers_file)"
    )]
    NoIssuers,
    /// The identity is not right.
    #[error("the identity is refused: {0}")]
    Wrong(#[from] Wrong),
    /// By somebody else.
    #[error("the identity is refused: it is by {0}, which is no issuer that this cache trusts")]
    Issuer(Shown),
    /// The issuer does not have this key.
    #[error(
        "the identity is refused: {issuer} shows no key {kid}; one that is new is seen in 10 s"
    )]
    Key {
        /// Which issuer.
        issuer: String,
        /// Which key.
        kid: Shown,
    },
    /// The issuer cannot be asked for its keys.
    #[error("the identity cannot be checked: {0}; try again")]
    Fetch(Arc<FetchError>),
    /// No rule means it.
    #[error("the identity is good, but no rule of this cache is for it; it says {0}")]
    Nobody(String),
}

/// One whom the cache trusts.
struct Trusted {
    issuer: Issuer,
    keys: Arc<Keys>,
}

/// All whom the cache trusts.
pub struct Issuers {
    file: PathBuf,
    trusted: RwLock<Vec<Arc<Trusted>>>,
}

impl Issuers {
    /// Those of a file; none where there is no file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(file: &Path) -> Result<Issuers, IssuersError> {
        let issuers = Issuers {
            file: file.to_owned(),
            trusted: RwLock::default(),
        };
        issuers.read_again()?;
        Ok(issuers)
    }

    /// Reads the file again: from now on its rules count. Keys that are known stay so, of issuers
    /// that are asked as before. How many issuers there are.
    ///
    /// # Errors
    /// What is wrong with it; then all is as it was.
    pub fn read_again(&self) -> Result<usize, IssuersError> {
        let issuers = match self.file.as_os_str().is_empty() {
            true => Vec::new(),
            false => trust::read(&self.file)?,
        };
        let before = self.trusted();
        let trusted = issuers.into_iter().map(|issuer| {
            let known = before.iter().find(|it| it.issuer.is_asked_like(&issuer));
            let keys = match known {
                Some(known) => known.keys.clone(),
                None => Arc::new(Keys::new(Fetch::new(&issuer)?)),
            };
            Ok(Arc::new(Trusted { issuer, keys }))
        });
        let trusted: Vec<Arc<Trusted>> = trusted.collect::<Result<_, FetchError>>()?;
        let count = trusted.len();
        let current = self.trusted.write();
        *current.expect("invariant: no panic under the lock") = trusted;
        Ok(count)
    }

    fn trusted(&self) -> Vec<Arc<Trusted>> {
        let trusted = self.trusted.read();
        let trusted = trusted.expect("invariant: no panic under the lock");
        trusted.clone()
    }

    /// The rule of the token that an identity is good for, and the issuer.
    ///
    /// # Errors
    /// Why it is good for none.
    pub async fn exchange(&self, identity: &str, now: u64) -> Result<(Rule, String), Refused> {
        let all = self.trusted();
        if all.is_empty() {
            return Err(Refused::NoIssuers);
        }
        let unverified = Unverified::read(identity)?;
        let said = unverified.issuer();
        let trusted = all.iter().find(|trusted| trusted.issuer.url == said);
        let trusted = trusted.ok_or_else(|| Refused::Issuer(Shown::of(said)))?;
        let Trusted { issuer, keys } = &**trusted;
        let found = keys.key(unverified.kid()).await.map_err(Refused::Fetch)?;
        let key = found.ok_or_else(|| Refused::Key {
            issuer: issuer.url.clone(),
            kid: Shown::of(unverified.kid()),
        })?;
        let claims = unverified.verified(
            &key,
            &Terms {
                audience: &issuer.audience,
                clock_skew_s: issuer.clock_skew_s,
                now,
            },
        )?;
        let rule = issuer.rules.iter().find(|rule| rule.fits(&claims));
        let rule = rule.ok_or_else(|| Refused::Nobody(asked_for(issuer, &claims)))?;
        tracing::info!(
            issuer = issuer.url,
            sub = text(&claims, "sub"),
            jti = text(&claims, "jti"),
            subject = %rule.subject,
            "an identity is exchanged"
        );
        Ok((rule.clone(), issuer.url.clone()))
    }
}

/// What an identity says of what the rules of its issuer ask for: not what they want to hear.
fn asked_for(issuer: &Issuer, claims: &Claims) -> String {
    let mut names: Vec<&String> = issuer
        .rules
        .iter()
        .flat_map(|it| it.claims.keys())
        .collect();
    names.sort();
    names.dedup();
    let said = names.into_iter().map(|name| match claims.get(name) {
        None => format!("no {name}"),
        Some(said) => format!("{name} {}", Shown::of(&said.to_string())),
    });
    said.collect::<Vec<_>>().join(", ")
}

fn text<'a>(claims: &'a Claims, name: &str) -> &'a str {
    claims.get(name).and_then(Value::as_str).unwrap_or_default()
}
