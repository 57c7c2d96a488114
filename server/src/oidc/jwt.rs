//! JSON Web Tokens of an issuer: read, and believed when everything about them is right.
//!
//! ```text
//!   base64url(header) . base64url(claims) . base64url(signature)
//!     alg, kid            iss aud exp nbf iat and what rules ask for
//! ```
//! Guarantees: a key is used with the algorithms of its own sort only, so that a public key never
//! becomes a shared secret; claims come out when signature, audience and times were right. Times
//! are passed in. Never: `none`; an algorithm with a shared secret; a token of more than one
//! signature.

use super::keys::{Key, KeySort};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

/// What a CI says of a job is 1 to 3 KB; Kubernetes' tokens have 1.
pub const MAX_JWT_BYTES: usize = 16 << 10;

/// What is said of a token.
pub type Claims = Map<String, Value>;

/// What is wrong with a token.
#[derive(Debug, Error, PartialEq)]
pub enum Wrong {
    /// It cannot be read.
    #[error("this is no JSON Web Token: {0}")]
    Form(&'static str),
    /// An algorithm that is not taken.
    #[error("it is signed by {0}; taken are {TAKEN}")]
    Algorithm(Shown),
    /// The key is of another sort than the algorithm.
    #[error("it is signed by {algorithm}, but its key {kid} is for something else")]
    Sort {
        /// As the header says.
        algorithm: Shown,
        /// Which key.
        kid: Shown,
    },
    /// The signature is not by this key.
    #[error("its signature is not right: it was changed on the way, or is not by this issuer")]
    Signature,
    /// A claim that has to be there.
    #[error("its claim {0} is missing, or is no {1}")]
    Claim(&'static str, &'static str),
    /// For somebody else.
    #[error("it is for {said}, and this cache is {ours}: ask the CI for one with this audience")]
    Audience {
        /// Whom it is for.
        said: Shown,
        /// As configured.
        ours: Shown,
    },
    /// Its time is over.
    #[error("it expired {0} s ago: ask the CI for a new one, or look at the clocks")]
    Expired(u64),
    /// Its time has not come.
    #[error("it is good in {0} s only: look at the clocks of this cache and of its issuer")]
    NotYet(u64),
}

/// Something that a stranger said, short and without control characters.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown(String);

impl Shown {
    /// Its first 100 characters.
    pub fn of(text: &str) -> Shown {
        Shown(format!("{:?}", text.chars().take(100).collect::<String>()))
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Algorithms with a public key, all that ring knows; of 2048 bits and more where it is RSA.
const TAKEN: &str = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What the reader must understand, which nothing here does.
    crit: Option<Value>,
}

/// A token that nobody has vouched for yet.
pub struct Unverified<'a> {
    algorithm: String,
    kid: String,
    issuer: String,
    claims: Claims,
    signed: &'a str,
    signature: Vec<u8>,
}

/// What a token must be to be believed.
pub struct Terms<'a> {
    /// Whom it must be for.
    pub audience: &'a str,
    /// By how much clocks may differ, in seconds.
    pub clock_skew_s: u64,
    /// The time, in seconds since 1970.
    pub now: u64,
}

impl<'a> Unverified<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// It is no token, or is signed by an algorithm that is not taken, or names no key.
    pub fn read(text: &'a str) -> Result<Unverified<'a>, Wrong> {
        if text.len() > MAX_JWT_BYTES {
            return Err(Wrong::Form("it is longer than 16 KiB"));
        }
        let three = "it is not three parts with points between them";
        let (signed, signature) = text.rsplit_once('.').ok_or(Wrong::Form(three))?;
        let (header, claims) = signed.split_once('.').ok_or(Wrong::Form(three))?;
        let header: Header = json(header, "its header is no base64url of JSON with alg")?;
        if !TAKEN.split(", ").any(|taken| taken == header.alg) {
            return Err(Wrong::Algorithm(Shown::of(&header.alg)));
        }
        if header.crit.is_some() {
            return Err(Wrong::Form("its header asks for extensions (crit)"));
        }
        let claims: Claims = json(claims, "its claims are no base64url of a JSON object")?;
        let signature = bytes(signature).ok_or(Wrong::Form("its signature is no base64url"))?;
        let issuer = claims.get("iss").and_then(Value::as_str);
        Ok(Unverified {
            kid: header
                .kid
                .ok_or(Wrong::Form("its header names no key (kid)"))?,
            issuer: issuer.ok_or(Wrong::Claim("iss", "text"))?.to_owned(),
            algorithm: header.alg,
            claims,
            signed,
            signature,
        })
    }

    /// Who it says has issued it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Which of the issuer's keys it says has signed it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its claims, if it was signed by `key` and is good on these terms.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verified(self, key: &Key, terms: &Terms<'_>) -> Result<Claims, Wrong> {
        self.check_signature(key)?;
        self.check_audience(terms.audience)?;
        let time = |name| match self.claims.get(name) {
            None => Ok(None),
            Some(time) => match time.as_f64() {
                Some(seconds) => Ok(Some(seconds)),
                None => Err(Wrong::Claim(name, "number of seconds since 1970")),
            },
        };
        let (now, skew) = (terms.now as f64, terms.clock_skew_s as f64);
        let expires = time("exp")?.ok_or(Wrong::Claim("exp", "number of seconds since 1970"))?;
        if expires + skew <= now {
            return Err(Wrong::Expired((now - expires) as u64));
        }
        for begins in [time("nbf")?, time("iat")?].into_iter().flatten() {
            if begins - skew > now {
                return Err(Wrong::NotYet((begins - now).ceil() as u64));
            }
        }
        Ok(self.claims)
    }

    fn check_signature(&self, key: &Key) -> Result<(), Wrong> {
        let other_sort = || Wrong::Sort {
            algorithm: Shown::of(&self.algorithm),
            kid: Shown::of(&self.kid),
        };
        if key
            .algorithm
            .as_ref()
            .is_some_and(|only| *only != self.algorithm)
        {
            return Err(other_sort());
        }
        let (message, signature) = (self.signed.as_bytes(), &self.signature[..]);
        let right = match (&*self.algorithm, &key.sort) {
            (rsa, KeySort::Rsa { n, e }) => {
                let how = match rsa {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return Err(other_sort()),
                };
                let key = signature::RsaPublicKeyComponents { n, e };
                key.verify(how, message, signature)
            }
            ("ES256", KeySort::P256(point)) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            ("ES384", KeySort::P384(point)) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature)
            }
            ("EdDSA", KeySort::Ed25519(point)) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
            }
            _ => return Err(other_sort()),
        };
        right.map_err(|_| Wrong::Signature)
    }

    fn check_audience(&self, ours: &str) -> Result<(), Wrong> {
        let said: Vec<&str> = match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => return Err(Wrong::Claim("aud", "text or list of texts")),
        };
        match said.contains(&ours) {
            true => Ok(()),
            false => Err(Wrong::Audience {
                said: Shown::of(&said.join(", ")),
                ours: Shown::of(ours),
            }),
        }
    }
}

fn json<T: for<'de> Deserialize<'de>>(part: &str, wrong: &'static str) -> Result<T, Wrong> {
    let bytes = bytes(part).ok_or(Wrong::Form(wrong))?;
    serde_json::from_slice(&bytes).map_err(|_| Wrong::Form(wrong))
}

/// Base64url without padding, as all parts of a token and all numbers of a key are.
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
