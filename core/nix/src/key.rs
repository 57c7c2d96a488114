//! Ed25519 keys and signatures in Nix's spelling, `<key name>:<base64>`.
//!
//! Guarantees: a signature is 64 bytes and a key the right size and on the curve when it parses;
//! the two halves of a secret key agree. `Debug` never shows a secret, and errors never repeat one.
//! Never makes randomness: a seed is passed in. Source: Nix, `src/libutil/signature/local-keys.cc`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::quote::quote;

/// Longest key name: names are like `cache.example.org-1`, and a DNS name has at most 253
/// characters.
const MAX_NAME_BYTES: usize = 255;

/// Seed and public half, as libsodium keeps a secret key.
const SECRET_BYTES: usize = 64;

/// Why a text is no key or signature. Never holds any part of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// No colon between name and base64.
    #[error("a {what} is written '<key name>:<base64>', but there is no ':'")]
    NoColon {
        /// Secret key, public key or signature.
        what: &'static str,
    },
    /// A name that is empty, too long, or would break a line of a narinfo.
    #[error(
        "bad key name in a {what}: expected 1 to {MAX_NAME_BYTES} characters without spaces, ':' \
        or control characters"
    )]
    Name {
        /// Secret key, public key or signature.
        what: &'static str,
    },
    /// Behind the colon is no (canonical, padded) base64.
    #[error("what follows the ':' of a {what} is no base64")]
    Base64 {
        /// Secret key, public key or signature.
        what: &'static str,
    },
    /// Decodes to another size.
    #[error("a {what} has {expected} bytes, found {found}")]
    Size {
        /// Secret key, public key or signature.
        what: &'static str,
        /// Bytes that it must have.
        expected: usize,
        /// Bytes that it has.
        found: usize,
    },
    /// The right size, but not a point on the curve, or the halves of a secret key do not belong
    /// together.
    #[error("the bytes of the {what} {name} are no ed25519 key")]
    NotAKey {
        /// Secret key or public key.
        what: &'static str,
        /// The key's name.
        name: String,
    },
}

/// Splits `<name>:<base64 of N bytes>`.
fn parse<'a, const N: usize>(
    what: &'static str,
    text: &'a str,
) -> Result<(&'a str, [u8; N]), KeyError> {
    let (name, body) = text.split_once(':').ok_or(KeyError::NoColon { what })?;
    check_name(what, name)?;
    let bytes = BASE64.decode(body).map_err(|_| KeyError::Base64 { what })?;
    let found = bytes.len();
    let bytes = bytes.try_into().map_err(|_| KeyError::Size {
        what,
        expected: N,
        found,
    })?;
    Ok((name, bytes))
}

fn check_name(what: &'static str, name: &str) -> Result<(), KeyError> {
    let bad = |c: char| c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(bad) {
        return Err(KeyError::Name { what });
    }
    Ok(())
}

/// A key that signs. Its `Display` is the secret itself, for the key file; its `Debug` is only the
/// name.
#[derive(Clone)]
pub struct SecretKey {
    name: Box<str>,
    key: SigningKey,
}

impl SecretKey {
    const WHAT: &'static str = "secret key";

    /// Makes the key that belongs to `seed`, which must come from a good source of randomness.
    pub fn generate(name: &str, seed: [u8; 32]) -> Result<Self, KeyError> {
        check_name(Self::WHAT, name)?;
        Ok(Self {
            name: name.into(),
            key: SigningKey::from_bytes(&seed),
        })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that checks what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// Signs the bytes of `message`: for a path, its [`crate::fingerprint()`].
    pub fn sign(&self, message: &str) -> Signature {
        let signature = self.key.sign(message.as_bytes());
        Signature {
            name: self.name.clone(),
            bytes: signature.to_bytes(),
        }
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = parse::<SECRET_BYTES>(Self::WHAT, text)?;
        let key = SigningKey::from_keypair_bytes(&bytes).map_err(|_| KeyError::NotAKey {
            what: Self::WHAT,
            name: quote(name),
        })?;
        Ok(Self {
            name: name.into(),
            key,
        })
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}",
            self.name,
            BASE64.encode(self.key.to_keypair_bytes())
        )
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}:…)", self.name)
    }
}

/// A key that checks signatures: what goes into `trusted-public-keys`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: Box<str>,
    key: VerifyingKey,
}

impl PublicKey {
    const WHAT: &'static str = "public key";

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `signature` is this key's over `message`. The names must agree too, and the check is
    /// the strict one: no small-order points, one signature per message and key.
    pub fn verify(&self, message: &str, signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.name == signature.name && self.key.verify_strict(message.as_bytes(), &bytes).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = parse::<32>(Self::WHAT, text)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotAKey {
            what: Self::WHAT,
            name: quote(name),
        })?;
        Ok(Self {
            name: name.into(),
            key,
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signature with the name of its key. It may be anybody's, and wrong: only a [`PublicKey`] can
/// tell. Ordered as its text, which is the order in which Nix writes `Sig` lines.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Signature {
    name: Box<str>,
    bytes: [u8; 64],
}

impl Signature {
    /// The name of the key that made it.
    pub fn key_name(&self) -> &str {
        &self.name
    }

    /// The 64 bytes.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = parse("signature", text)?;
        Ok(Self {
            name: name.into(),
            bytes,
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Ord for Signature {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.name == other.name && self.bytes == other.bytes {
            return Ordering::Equal;
        }
        self.to_string().cmp(&other.to_string())
    }
}

impl PartialOrd for Signature {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::generate("cache.example.org-1", [7; 32]).expect("a good name")
    }

    #[test]
    fn what_a_key_signs_its_public_half_accepts_and_nothing_else() {
        let signature = key().sign("1;/nix/store/x;");
        let public = key().public();
        assert!(public.verify("1;/nix/store/x;", &signature));
        assert!(
            !public.verify("1;/nix/store/y;", &signature),
            "another message"
        );

        let other = SecretKey::generate("cache.example.org-1", [8; 32]).expect("a good name");
        assert!(
            !other.public().verify("1;/nix/store/x;", &signature),
            "another key"
        );

        let renamed = SecretKey::generate("other-1", [7; 32]).expect("a good name");
        assert!(
            !renamed.public().verify("1;/nix/store/x;", &signature),
            "another name"
        );
    }

    #[test]
    fn keys_and_signatures_read_back_as_they_were_written() {
        let secret: SecretKey = key().to_string().parse().expect("we wrote it");
        assert_eq!(secret.to_string(), key().to_string());
        assert_eq!(key().public().to_string().parse(), Ok(key().public()));
        let signature = key().sign("message");
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }

    #[test]
    fn debug_and_errors_never_show_a_secret() {
        let text = key().to_string();
        let body = &text[text.find(':').expect("a colon") + 1..];
        assert_eq!(format!("{:?}", key()), "SecretKey(cache.example.org-1:…)");
        let mut wrong_half = text.clone();
        wrong_half.replace_range(text.len() - 20..text.len() - 19, "_");
        for broken in [&text[..text.len() - 4], wrong_half.as_str(), body] {
            let refusal = broken.parse::<SecretKey>().expect_err("broken");
            let shown = format!("{refusal} {refusal:?}");
            assert!(!shown.contains(&body[..8]), "{shown}");
        }
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let says = |text: &str| text.parse::<Signature>().expect_err(text).to_string();
        assert_eq!(
            says("abc"),
            "a signature is written '<key name>:<base64>', but there is no ':'"
        );
        assert_eq!(
            says("k:!"),
            "what follows the ':' of a signature is no base64"
        );
        assert_eq!(says("k:AAAA"), "a signature has 64 bytes, found 3");
        let name = "bad key name in a signature: expected 1 to 255 characters without spaces, ':' \
        or control characters";
        for text in [":AAAA", "a b:AAAA", "a\n:AAAA"] {
            assert_eq!(says(text), name);
        }
    }
}
