//! What the payloads of state records say: JSON where it is small, so that a segment can be read
//! without this program.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use snowcache_core::recipe::Recipe;
use snowcache_nix::{NarHash, StoreHash};

use crate::keys::CacheName;
use crate::{Error, Result};

/// An upload as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadState {
    /// The cache that it was sent to.
    pub cache: CacheName,
    /// Its name there: what came behind `nar/`.
    pub name: String,
    /// What it was found to hold.
    #[serde(with = "text")]
    pub nar_hash: NarHash,
    /// Length of the NAR in bytes.
    pub nar_size: u64,
    /// The compression it came in, by the narinfo's word for it.
    pub codec: String,
    /// Its length as it came, in bytes.
    pub file_size: u64,
    /// Who sent it.
    pub subject: String,
    /// When its lease ends, in seconds since 1970.
    pub expires: u64,
}

/// For whom the frames of an upload come that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComingState {
    /// The cache that they are sent to.
    pub cache: CacheName,
    /// Who sends them.
    pub subject: String,
    /// For how long they are kept, from the start on that finds them, in seconds.
    pub lease_s: u64,
}

/// What ends a group of records that count together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// Where the commit before it ends in the segment, in bytes.
    pub begins: u64,
}

/// A published path as it is recorded.
#[derive(Debug, Serialize, Deserialize)]
pub struct PathState {
    /// The cache.
    pub cache: CacheName,
    /// Who published it.
    pub subject: String,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The narinfo without what depends on the encoding.
    pub narinfo: String,
}

/// Signatures that were added to a published path.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignaturesState {
    /// The cache.
    pub cache: CacheName,
    /// The path.
    #[serde(with = "text")]
    pub store_hash: StoreHash,
    /// Who added them.
    pub subject: String,
    /// All signatures that the path has now.
    pub signatures: Vec<String>,
}

/// An offer that lost against a published path.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConflictState {
    /// The cache.
    pub cache: CacheName,
    /// The path, as base name.
    pub store_path: String,
    /// The NAR that everyone gets.
    #[serde(with = "text")]
    pub winner: NarHash,
    /// The NAR that was offered.
    #[serde(with = "text")]
    pub loser: NarHash,
    /// Who offered it.
    pub subject: String,
    /// When, in seconds since 1970.
    pub time: u64,
}

/// A path that was removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemovedState {
    /// The cache.
    pub cache: CacheName,
    /// The path.
    #[serde(with = "text")]
    pub store_hash: StoreHash,
    /// Why.
    pub reason: String,
    /// Who removed it.
    pub subject: String,
    /// When, in seconds since 1970.
    pub time: u64,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Document {
    /// `log/<drv>`: the last one counts.
    Log,
    /// `realisations/<id>.doi`: the first one stays.
    Realisation,
    /// `build-trace-v2/<drv>/<output>.doi`: the first one stays.
    BuildTrace,
}

impl Document {
    /// Whether the last one counts; otherwise the first one stays.
    pub fn is_replaced(self) -> bool {
        self == Document::Log
    }
}

/// The head of a document's record; the zstd-compressed body follows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct DocumentState {
    /// The cache.
    pub cache: CacheName,
    /// What it is.
    pub kind: Document,
    /// Its key among documents of that kind.
    pub key: String,
    /// Who sent it.
    pub subject: String,
}

/// A payload as JSON.
pub fn to_json(state: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(state).expect("invariant: plain structures always become JSON")
}

/// A payload from JSON; `what` names it in the error.
pub fn from_json<T: DeserializeOwned>(payload: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(payload)
        .map_err(|error| Error::corrupt(format!("{what} does not read: {error}")))
}

/// A recipe's payload: NarHash (32), NAR size (u64), 0 or 1 for plain or zstd, the recipe.
pub fn recipe_payload(nar: &NarHash, nar_size: u64, recipe: &Recipe) -> Result<Vec<u8>> {
    let plain = recipe.encode();
    let packed =
        zstd::bulk::compress(&plain, 9).map_err(|e| Error::io("compressing a recipe", e))?;
    let (flag, body) = if packed.len() < plain.len() {
        (1, packed)
    } else {
        (0, plain)
    };
    let mut payload = Vec::with_capacity(41 + body.len());
    payload.extend_from_slice(nar.as_bytes());
    payload.extend_from_slice(&nar_size.to_le_bytes());
    payload.push(flag);
    payload.extend_from_slice(&body);
    Ok(payload)
}

/// Reads a recipe's payload.
pub fn recipe_of(payload: &[u8]) -> Result<(NarHash, u64, Recipe)> {
    let bad = || Error::corrupt("a recipe record does not read");
    let (nar, rest) = payload.split_first_chunk::<32>().ok_or_else(bad)?;
    let (size, rest) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
    let (flag, body) = rest.split_first().ok_or_else(bad)?;
    let plain = match flag {
        0 => body.to_vec(),
        1 => zstd::stream::decode_all(body).map_err(|_| bad())?,
        _ => return Err(bad()),
    };
    let recipe = Recipe::decode(&plain)
        .map_err(|error| Error::corrupt(format!("a recipe does not read: {error}")))?;
    Ok((NarHash::from_bytes(*nar), u64::from_le_bytes(*size), recipe))
}

/// A document's payload: length of the head (u32), head as JSON, body as one zstd frame.
pub fn document_payload(head: &DocumentState, body: &[u8]) -> Result<Vec<u8>> {
    let head = to_json(head);
    let mut payload = (head.len() as u32).to_le_bytes().to_vec();
    payload.extend_from_slice(&head);
    payload
        .extend(zstd::bulk::compress(body, 9).map_err(|e| Error::io("compressing a document", e))?);
    Ok(payload)
}

/// Reads a document's payload.
pub fn document_of(payload: &[u8]) -> Result<(DocumentState, Bytes)> {
    let bad = || Error::corrupt("a document record does not read");
    let (len, rest) = payload.split_first_chunk::<4>().ok_or_else(bad)?;
    let head_len = u32::from_le_bytes(*len) as usize;
    let (head, body) = rest.split_at_checked(head_len).ok_or_else(bad)?;
    let body = zstd::stream::decode_all(body).map_err(|_| bad())?;
    Ok((from_json(head, "a document's head")?, body.into()))
}

/// Hashes as the text that Nix writes.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: FromStr>(from: D) -> Result<T, D::Error>
    where
        T::Err: Display,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
