//! Realisations: which store path an output of a content-addressed derivation came to.
//!
//! Two spellings are in use:
//!
//! ```text
//!   realisations/sha256:<hex>!out.doi
//!     {"dependentRealisations":{},"id":"sha256:<hex>!out","outPath":"<base name>",
//!      "signatures":["<key name>:<base64>"]}
//!
//!   build-trace-v2/<drv>/out.doi
//!     {"outPath":"<base name>","signatures":[{"keyName":"<key name>","sig":"<base64>"}]}
//! ```
//!
//! Guarantees: what parses writes itself again with the same meaning, and byte for byte if Nix
//! wrote it; fields that are not known here are kept. Never checks that the path exists or the
//! signatures are good. Source: Nix, `src/libstore/realisation.cc` (2.8 and 2.36).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::hash::{Hash, HashError};
use crate::key::{KeyError, Signature};
use crate::narinfo::MAX_SIGNATURES;
use crate::quote::quote;
use crate::store_path::{StorePath, StorePathError};

/// Why a text is no realisation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RealisationError {
    /// Not a JSON object.
    #[error("a realisation is a JSON object: {reason}")]
    Json {
        /// What the JSON parser says, with line and column.
        reason: String,
    },
    /// A field that must be there and is not.
    #[error("{key} is missing in a realisation")]
    Missing {
        /// The field.
        key: &'static str,
    },
    /// A field of another type.
    #[error("{key} of a realisation must be {expected}")]
    Type {
        /// The field.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// Not `<hash>!<output>`.
    #[error("{text} names no output of a derivation: expected '<algorithm>:<hash>!<output>'")]
    Id {
        /// What was found.
        text: String,
    },
    /// The hash in an id is none.
    #[error("bad hash in a realisation's id: {0}")]
    Hash(#[from] HashError),
    /// Not a store path.
    #[error("{key} of a realisation: {source}")]
    StorePath {
        /// The field.
        key: &'static str,
        /// Why not.
        source: StorePathError,
    },
    /// Not a signature.
    #[error("signatures of a realisation: {0}")]
    Signature(#[from] KeyError),
    /// More than [`MAX_SIGNATURES`].
    #[error("a realisation has more than {MAX_SIGNATURES} signatures")]
    ManySignatures,
    /// A number that JSON readers do not agree on.
    #[error("{key} of a realisation holds a number that is not whole, or too large")]
    Number {
        /// The field.
        key: String,
    },
}

/// An output of a derivation: `<hash of the derivation>!<output>`, the hash in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvOutput {
    /// Hash of the derivation, modulo its fixed outputs.
    pub drv_hash: Hash,
    /// `out`, `dev` ...
    pub output: String,
}

impl FromStr for DrvOutput {
    type Err = RealisationError;

    fn from_str(text: &str) -> Result<Self, RealisationError> {
        let (hash, output) = text
            .split_once('!')
            .filter(|&(_, output)| is_output_name(output))
            .ok_or_else(|| RealisationError::Id { text: quote(text) })?;
        Ok(Self {
            drv_hash: hash.parse()?,
            output: output.to_owned(),
        })
    }
}

impl fmt::Display for DrvOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}!{}", self.drv_hash.to_hex(), self.output)
    }
}

/// Output names become parts of store path names, so they have the same characters.
fn is_output_name(name: &str) -> bool {
    (1..=crate::store_path::MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte))
}

/// One realisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Realisation {
    /// What was realised; only in the older spelling, the newer has it in the file's name.
    pub id: Option<DrvOutput>,
    /// What it came to.
    pub out_path: StorePath,
    /// Sorted, each once.
    pub signatures: Vec<Signature>,
    /// The realisations that this one was built from; only in the older spelling.
    pub dependent: Option<BTreeMap<DrvOutput, StorePath>>,
    /// Fields that this version does not know.
    pub rest: Map<String, Value>,
}

impl Realisation {
    /// Reads either spelling.
    pub fn parse(json: &str) -> Result<Self, RealisationError> {
        let mut rest: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| RealisationError::Json {
                reason: error.to_string(),
            })?;
        let id = match rest.remove("id") {
            Some(id) => Some(string(&id, "id")?.parse()?),
            None => None,
        };
        let out_path = rest
            .remove("outPath")
            .ok_or(RealisationError::Missing { key: "outPath" })?;
        let out_path = store_path(&out_path, "outPath")?;
        let signatures = rest
            .remove("signatures")
            .map(|list| signatures(&list))
            .transpose()?;
        let dependent = rest
            .remove("dependentRealisations")
            .map(|map| dependent(&map));
        if let Some((key, _)) = rest.iter().find(|(_, value)| !is_exact(value)) {
            return Err(RealisationError::Number { key: quote(key) });
        }
        Ok(Self {
            id,
            out_path,
            signatures: signatures.unwrap_or_default(),
            dependent: dependent.transpose()?,
            rest,
        })
    }

    /// The JSON as Nix writes it: sorted keys, no spaces. With an [`Self::id`] in the older
    /// spelling, without one in the newer.
    pub fn to_json(&self) -> String {
        let mut fields: BTreeMap<&str, Value> = self
            .rest
            .iter()
            .map(|(key, value)| (key.as_str(), sorted(value)))
            .collect();
        if let Some(id) = &self.id {
            fields.insert("id", id.to_string().into());
        }
        fields.insert("outPath", self.out_path.to_string().into());
        let write = |signature: &Signature| match self.id {
            Some(_) => signature.to_string().into(),
            None => object_of(signature),
        };
        fields.insert("signatures", self.signatures.iter().map(write).collect());
        if let Some(dependent) = &self.dependent {
            let text =
                |(id, path): (&DrvOutput, &StorePath)| (id.to_string(), path.to_string().into());
            let sorted: BTreeMap<String, Value> = dependent.iter().map(text).collect();
            fields.insert("dependentRealisations", sorted.into_iter().collect());
        }
        let fields: Vec<String> = fields
            .iter()
            .map(|(key, value)| format!("{}:{value}", Value::from(*key)))
            .collect();
        format!("{{{}}}", fields.join(","))
    }
}

fn string<'a>(value: &'a Value, key: &'static str) -> Result<&'a str, RealisationError> {
    value.as_str().ok_or(RealisationError::Type {
        key,
        expected: "a string",
    })
}

fn store_path(value: &Value, key: &'static str) -> Result<StorePath, RealisationError> {
    let base = string(value, key)?;
    base.parse()
        .map_err(|source| RealisationError::StorePath { key, source })
}

fn dependent(value: &Value) -> Result<BTreeMap<DrvOutput, StorePath>, RealisationError> {
    const KEY: &str = "dependentRealisations";
    let map = value.as_object().ok_or(RealisationError::Type {
        key: KEY,
        expected: "an object",
    })?;
    map.iter()
        .map(|(id, path)| Ok((id.parse()?, store_path(path, KEY)?)))
        .collect()
}

/// Signatures as texts, or as objects of a key's name and base64.
fn signatures(value: &Value) -> Result<Vec<Signature>, RealisationError> {
    const KEY: &str = "signatures";
    let list = value.as_array().ok_or(RealisationError::Type {
        key: KEY,
        expected: "an array",
    })?;
    if list.len() > MAX_SIGNATURES {
        return Err(RealisationError::ManySignatures);
    }
    let mut signatures = Vec::with_capacity(list.len());
    for entry in list {
        let text = match (entry.get("keyName"), entry.get("sig")) {
            (Some(name), Some(sig)) => format!("{}:{}", string(name, KEY)?, string(sig, KEY)?),
            _ => string(entry, KEY)?.to_owned(),
        };
        signatures.push(text.parse()?);
    }
    signatures.sort_by_cached_key(Signature::to_string);
    signatures.dedup();
    Ok(signatures)
}

fn object_of(signature: &Signature) -> Value {
    let text = signature.to_string();
    let base64 = text.rsplit(':').next().unwrap_or_default();
    let name = Value::from(signature.key_name());
    [
        ("keyName".to_owned(), name),
        ("sig".to_owned(), base64.into()),
    ]
    .into_iter()
    .collect()
}

/// Whether a value has no numbers but whole ones of 64 bits, which come back as they were.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(values) => values.iter().all(is_exact),
        Value::Object(fields) => fields.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// The same value with sorted keys at every depth, whichever order this build's JSON library keeps.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(sorted).collect(),
        Value::Object(fields) => {
            let sorted: BTreeMap<String, Value> = fields
                .iter()
                .map(|(key, value)| (key.clone(), self::sorted(value)))
                .collect();
            sorted.into_iter().collect()
        }
        other => other.clone(),
    }
}
