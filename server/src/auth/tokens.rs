//! Tokens that were made: who bears them, what they allow, until when, and which were revoked.
//!
//! ```text
//!   token   snow_<id: 16 hex digits>_<secret: 256 bits, base64url>
//!   kept    DATA/tokens/<id>.json   0600   all about it, and the SHA-256 of the secret
//! ```
//! The files are the truth; what is asked for is in memory. They do not depend on the depot: a
//! token is revoked also while that is full or read-only, and outlives the loss of the index.
//!
//! Guarantees: a token that was given out is durable; a revoked one is refused from the moment of
//! its revocation, after a restart as well; a file that cannot be read is a token that is refused.
//! Whoever reads the files learns no token. Never: a secret compared in a time that tells of it.

use super::subject::{Name, Scopes, Subject};
use crate::files::{SECRET, sync_parent, write_durably};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use snowcache_depot::CacheName;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError, RwLock};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// What every token begins with, so that those who search texts for secrets know one.
const PREFIX: &str = "snow_";

/// Tokens that are kept at most: 10,000 of some 400 bytes are 4 MB of memory, and 40 MB of disk in
/// blocks of 4 KiB. A CI that starts a job every 2 s has 1,800 that hold for an hour.
pub const MAX_TOKENS: usize = 10_000;

/// Tokens in force that one subject may bear: a tenth, so that no job that asks for ever leaves
/// none for others.
pub const MAX_TOKENS_OF_ONE: usize = 1000;

/// So long a token that has expired is listed, and its bearer is told so: a day.
const REMEMBERED_S: u64 = 86_400;

/// A token holds a year at most: 366 days.
pub const MAX_LIFE_S: u64 = 366 * 86_400;

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// What a token is called where it must not be shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(Box<str>);

/// What is no id.
#[derive(Debug, Error)]
#[error("a token's id is 16 hex digits: `snowcache token list` shows them")]
pub struct BadId;

impl FromStr for TokenId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<TokenId, BadId> {
        let good = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.len() == 2 * ID_BYTES && text.bytes().all(good) {
            true => Ok(TokenId(text.into())),
            false => Err(BadId),
        }
    }
}

impl TryFrom<String> for TokenId {
    type Error = BadId;

    fn try_from(text: String) -> Result<TokenId, BadId> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> String {
        id.0.into()
    }
}

/// All about a token but what opens. Times are seconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Token {
    /// What it is called.
    pub id: TokenId,
    /// Who bears it.
    pub subject: Name,
    /// What it allows.
    pub scopes: Scopes,
    /// In which caches; none: see [`Within::of`](super::subject::Within::of).
    #[serde(default)]
    pub caches: Vec<CacheName>,
    /// When it was made.
    pub created: u64,
    /// From when on it is refused.
    pub expires: u64,
    /// Who made it: a subject, or the issuer of the identity that it was exchanged for.
    pub by: String,
    /// When it was revoked.
    #[serde(default)]
    pub revoked: Option<u64>,
}

/// As a file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    token: Token,
    /// Of the secret, in hex.
    secret_sha256: String,
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Who is to bear it.
    pub subject: Name,
    /// What it is to allow.
    pub scopes: Scopes,
    /// In which caches.
    pub caches: Vec<CacheName>,
    /// How long, in seconds.
    pub life_s: u64,
    /// Who makes it.
    pub by: String,
}

/// Why no token was made or revoked.
#[derive(Debug, Error)]
pub enum TokensError {
    /// A file.
    #[error("{}: cannot be read or written", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers for a token")]
    Random(#[source] getrandom::Error),
    /// A life that is none.
    #[error("a token holds for 1 second to {MAX_LIFE_S} (366 days), not for {0}")]
    Life(u64),
    /// There are too many.
    #[error(
        "there are {MAX_TOKENS} tokens in force, the most of a server: revoking does not make \
         room, only their expiry does"
    )]
    TooMany,
    /// One has too many.
    #[error(
        "{0} has {MAX_TOKENS_OF_ONE} tokens in force, the most of one subject: use one of them, or \
         wait until some expire"
    )]
    TooManyOf(Name),
}

/// Why a token that was ours is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Dead {
    /// Its time is over.
    Expired {
        /// Whose it was.
        subject: String,
        /// For so many seconds.
        ago_s: u64,
    },
    /// It was revoked.
    Revoked {
        /// Whose it was.
        subject: String,
    },
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const INSTEAD: &str = "have a new one made (snowcache token create), or exchange the \
                               identity of your CI for one again";
        match self {
            Dead::Expired { subject, ago_s } => {
                write!(f, "the token of {subject} expired {ago_s} s ago: {INSTEAD}")
            }
            Dead::Revoked { subject } => {
                write!(f, "the token of {subject} was revoked: {INSTEAD}")
            }
        }
    }
}

/// All of them.
pub struct Tokens {
    folder: PathBuf,
    kept: RwLock<HashMap<TokenId, Kept>>,
    /// Held by whoever changes files.
    writing: Mutex<()>,
}

impl Tokens {
    /// Those of a data folder. What expired is forgotten.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(data: &Path, now: u64) -> Result<Tokens, TokensError> {
        let folder = data.join("tokens");
        let failed = |source| TokensError::File {
            path: folder.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(failed)?;
        sync_parent(&folder).map_err(failed)?;
        let mut kept = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue; // what a crash left of a token that was never given out
            }
            match read(&path) {
                Ok(token) => drop(kept.insert(token.token.id.clone(), token)),
                Err(error) => {
                    let path = path.display();
                    tracing::error!(%path, %error, "a token cannot be read, and is refused");
                }
            }
        }
        let tokens = Tokens {
            folder,
            kept: RwLock::new(kept),
            writing: Mutex::default(),
        };
        tokens.forget(now, REMEMBERED_S);
        Ok(tokens)
    }

    /// Makes a token. Its text is given out here and nowhere else; it is durable when this returns.
    ///
    /// # Errors
    /// [`TokensError`]
    pub fn make(&self, wish: Wish, now: u64) -> Result<(String, Token), TokensError> {
        if !(1..=MAX_LIFE_S).contains(&wish.life_s) {
            return Err(TokensError::Life(wish.life_s));
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_room(&wish.subject, now)?;
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        getrandom::fill(&mut id).map_err(TokensError::Random)?;
        getrandom::fill(&mut secret).map_err(TokensError::Random)?;
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let id = TokenId(hex(&id).into());
        let text = format!("{PREFIX}{}_{secret}", id.0);
        let token = Token {
            id: id.clone(),
            subject: wish.subject,
            scopes: wish.scopes,
            caches: wish.caches,
            created: now,
            expires: now.saturating_add(wish.life_s),
            by: wish.by,
            revoked: None,
        };
        let kept = Kept {
            token: token.clone(),
            secret_sha256: hex(&Sha256::digest(&secret)),
        };
        self.write(&kept)?;
        self.held_mut(|all| all.insert(id, kept));
        Ok((text, token))
    }

    /// Who bears `text`; nothing where it is no token of this server.
    pub fn bearer(&self, text: &[u8], now: u64) -> Option<Result<Subject, Dead>> {
        let text = std::str::from_utf8(text).ok()?.strip_prefix(PREFIX)?;
        let (id, secret) = text.split_once('_')?;
        let id: TokenId = id.parse().ok()?;
        let digest = hex(&Sha256::digest(secret));
        let all = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let Kept {
            token,
            secret_sha256,
        } = all.get(&id)?;
        if !bool::from(digest.as_bytes().ct_eq(secret_sha256.as_bytes())) {
            return None;
        }
        let subject = || token.subject.to_string();
        Some(match token.revoked {
            Some(_) => Err(Dead::Revoked { subject: subject() }),
            None if token.expires <= now => Err(Dead::Expired {
                subject: subject(),
                ago_s: now - token.expires,
            }),
            None => Ok(Subject::new(&token.subject, token.scopes, &token.caches)),
        })
    }

    /// All, the newest first.
    pub fn list(&self) -> Vec<Token> {
        let all = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<Token> = all.values().map(|kept| kept.token.clone()).collect();
        list.sort_by(|a, b| (b.created, &b.id.0).cmp(&(a.created, &a.id.0)));
        list
    }

    /// Revokes one: from here on it is refused. Nothing where there is none of this id; one that
    /// was revoked before stays as it was.
    ///
    /// # Errors
    /// It cannot be written: then it is refused until the server ends, and is good again when the
    /// next one begins.
    pub fn revoke(&self, id: &TokenId, now: u64) -> Result<Option<Token>, TokensError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let revoked = self.held_mut(|all| {
            let kept = all.get_mut(id)?;
            kept.token.revoked.get_or_insert(now);
            Some(kept.clone())
        });
        match revoked {
            None => Ok(None),
            // Also one that was revoked before: perhaps it could not be written then.
            Some(kept) => self.write(&kept).map(|()| Some(kept.token)),
        }
    }

    fn make_room(&self, subject: &Name, now: u64) -> Result<(), TokensError> {
        let theirs = |kept: &&Kept| kept.token.subject == *subject && kept.token.expires > now;
        let count = self.held_mut(|all| all.values().filter(theirs).count());
        if count >= MAX_TOKENS_OF_ONE {
            return Err(TokensError::TooManyOf(subject.clone()));
        }
        let is_full = || self.held_mut(|all| all.len()) >= MAX_TOKENS;
        self.forget(now, REMEMBERED_S);
        if is_full() {
            self.forget(now, 0);
        }
        match is_full() {
            true => Err(TokensError::TooMany),
            false => Ok(()),
        }
    }

    /// Takes out what expired so many seconds ago.
    fn forget(&self, now: u64, ago_s: u64) {
        let gone = |kept: &Kept| kept.token.expires.saturating_add(ago_s) <= now;
        let gone: Vec<TokenId> = self.held_mut(|all| {
            let gone = all.extract_if(|_, kept| gone(kept));
            gone.map(|(id, _)| id).collect()
        });
        for id in gone {
            let path = self.path(&id);
            if let Err(error) = fs::remove_file(&path) {
                let path = path.display();
                tracing::warn!(%path, %error, "a token that expired cannot be removed");
            }
        }
    }

    fn held_mut<T>(&self, change: impl FnOnce(&mut HashMap<TokenId, Kept>) -> T) -> T {
        change(&mut self.kept.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, kept: &Kept) -> Result<(), TokensError> {
        let json = serde_json::to_vec(kept);
        let mut json = json.expect("invariant: plain structures always become JSON");
        json.push(b'\n');
        let path = self.path(&kept.token.id);
        write_durably(&path, &json, SECRET).map_err(|source| TokensError::File { path, source })
    }

    fn path(&self, id: &TokenId) -> PathBuf {
        self.folder.join(format!("{}.json", id.0))
    }
}

fn read(path: &Path) -> io::Result<Kept> {
    let kept: Kept = serde_json::from_slice(&fs::read(path)?)?;
    match path
        .file_stem()
        .is_some_and(|stem| *stem == *kept.token.id.0)
    {
        true => Ok(kept),
        false => Err(io::Error::other(
            "it is about another token than its name says",
        )),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
