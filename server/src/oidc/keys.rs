//! The public keys of an issuer, as it shows them, kept for a while.
//!
//! ```text
//!   a token's kid --> known and fresh ----------------------------> its key
//!                 '-> not known, or an hour old --> ask the issuer --> its key, or none
//!                           '-- asked for a key that was not there 10 s ago: none
//! ```
//! Guarantees: one question at a time to an issuer, whoever sends what; keys that it shows no
//! longer are forgotten in an hour, and in a day when it does not answer. Never: a key with a
//! shared secret.

use super::fetch::{Fetch, FetchError};
use super::jwt::bytes;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Keys older than this are asked for again before they are used: issuers rotate in weeks.
const FRESH: Duration = Duration::from_secs(3600);

/// Keys older than this are not used when the issuer does not answer.
const STALE: Duration = Duration::from_secs(86_400);

/// Between two questions for keys that were not there, or that had no answer: so a stranger with
/// invented names costs an issuer 6 questions a minute.
const PAUSE: Duration = Duration::from_secs(10);

/// Of a set, so many are read. GitHub shows 4, GitLab 3, Kubernetes 1 or 2.
const MAX_KEYS: usize = 100;

/// What verifies signatures of one sort.
#[derive(Debug, Clone, PartialEq)]
pub enum KeySort {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// An uncompressed point of 65 bytes.
    P256(Vec<u8>),
    /// An uncompressed point of 97 bytes.
    P384(Vec<u8>),
    /// 32 bytes.
    Ed25519(Vec<u8>),
}

/// A public key.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// What it is.
    pub sort: KeySort,
    /// The one algorithm that it is for, where the issuer says so.
    pub algorithm: Option<String>,
}

/// RFC 7517, as far as signatures need it.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl Key {
    /// Its name and the key; nothing of what is no key for signatures of ours.
    fn of(jwk: &serde_json::Value) -> Option<(String, Key)> {
        let jwk = Jwk::deserialize(jwk).ok()?;
        if jwk.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let number = |part: &Option<String>| bytes(part.as_deref()?);
        let point = |size: usize| {
            let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
            (x.len() == size && y.len() == size).then(|| [vec![4], x, y].concat())
        };
        let short = |number: Vec<u8>| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            number[zeros..].to_vec()
        };
        let sort = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => KeySort::Rsa {
                n: short(number(&jwk.n)?),
                e: short(number(&jwk.e)?),
            },
            ("EC", Some("P-256")) => KeySort::P256(point(32)?),
            ("EC", Some("P-384")) => KeySort::P384(point(48)?),
            ("OKP", Some("Ed25519")) => KeySort::Ed25519(number(&jwk.x).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let algorithm = jwk.alg;
        Some((jwk.kid?, Key { sort, algorithm }))
    }
}

/// The keys of a set, by name.
pub fn of_set(json: &[u8]) -> Result<HashMap<String, Key>, serde_json::Error> {
    let set: Jwks = serde_json::from_slice(json)?;
    Ok(set.keys.iter().take(MAX_KEYS).filter_map(Key::of).collect())
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Key>,
    fetched: Option<Instant>,
    /// When it was asked in vain: not the key, or no answer, and why not.
    in_vain: Option<(Instant, Option<Arc<FetchError>>)>,
}

/// The keys of one issuer.
pub struct Keys {
    fetch: Fetch,
    known: RwLock<Known>,
    asking: Mutex<()>,
}

impl Keys {
    /// None as yet.
    pub fn new(fetch: Fetch) -> Keys {
        Keys {
            fetch,
            known: RwLock::default(),
            asking: Mutex::default(),
        }
    }

    /// The key of this name; nothing where the issuer shows none.
    ///
    /// # Errors
    /// It cannot be asked, and what it said before is too old.
    pub async fn key(&self, kid: &str) -> Result<Option<Key>, Arc<FetchError>> {
        if let Some(key) = self.known(kid, FRESH) {
            return Ok(Some(key));
        }
        let _asking = self.asking.lock().await;
        if let Some(key) = self.known(kid, FRESH) {
            return Ok(Some(key)); // somebody else has just asked
        }
        let failed = match self.asked_in_vain() {
            Some(failed) => failed,
            None => self.ask(kid).await,
        };
        match (self.known(kid, STALE), failed) {
            (None, Some(error)) => Err(error),
            (key, _) => Ok(key),
        }
    }

    /// Fetches all keys; why that failed, if it did.
    async fn ask(&self, kid: &str) -> Option<Arc<FetchError>> {
        let fetched = self.fetch.keys().await;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(keys) => {
                let is_there = keys.contains_key(kid);
                (known.keys, known.fetched) = (keys, Some(Instant::now()));
                known.in_vain = (!is_there).then(|| (Instant::now(), None));
                None
            }
            Err(error) => {
                let why = crate::observe::with_causes(&error);
                tracing::warn!(
                    why,
                    "an issuer's keys cannot be had; older ones are used on"
                );
                let error = Arc::new(error);
                known.in_vain = Some((Instant::now(), Some(error.clone())));
                Some(error)
            }
        }
    }

    fn known(&self, kid: &str, no_older_than: Duration) -> Option<Key> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let young = known.fetched.is_some_and(|at| at.elapsed() < no_older_than);
        known.keys.get(kid).filter(|_| young).cloned()
    }

    /// How it ended, if that was a short while ago.
    fn asked_in_vain(&self) -> Option<Option<Arc<FetchError>>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (at, failed) = known.in_vain.as_ref()?;
        (at.elapsed() < PAUSE).then(|| failed.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_for_signatures_is_left_out() {
        let point = "A".repeat(43);
        let set = serde_json::json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "good", "x": point},
            {"kty": "OKP", "crv": "Ed25519", "kid": "short", "x": "AAAA"},
            {"kty": "OKP", "crv": "X25519", "kid": "exchange", "x": point},
            {"kty": "OKP", "crv": "Ed25519", "kid": "enc", "use": "enc", "x": point},
            {"kty": "OKP", "crv": "Ed25519", "x": point},
            {"kty": "oct", "kid": "secret", "k": point},
            {"kty": "EC", "crv": "P-256", "kid": "half", "x": point},
            {"kty": "RSA", "kid": "rsa", "alg": "RS256", "n": "AAEC", "e": "AQAB"},
            {"kty": 7}, "text",
        ]});
        let keys = of_set(set.to_string().as_bytes()).expect("a set");
        let mut names: Vec<&str> = keys.keys().map(String::as_str).collect();
        names.sort();
        assert_eq!(names, ["good", "rsa"]);
        let (n, e) = (vec![1, 2], vec![1, 0, 1]);
        let rsa = KeySort::Rsa { n, e };
        let algorithm = Some("RS256".to_owned());
        assert_eq!(
            keys["rsa"],
            Key {
                sort: rsa,
                algorithm
            }
        );
        assert!(of_set(b"{}").is_err() && of_set(b"[]").is_err());
    }
}
