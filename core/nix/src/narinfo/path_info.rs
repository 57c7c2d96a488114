//! What is known about a path, whichever cache it is in.

use super::fields::{Fields, required};
use super::{Location, NarInfo, NarInfoError, Subject, write_text};
use crate::hash::NarHash;
use crate::key::Signature;
use crate::store_path::StorePath;

/// A narinfo without the half that is about one cache's file: owned, and fit to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path that this is about.
    pub store_path: StorePath,
    /// SHA-256 of the NAR.
    pub nar_hash: NarHash,
    /// Size of the NAR in bytes.
    pub nar_size: u64,
    /// The paths that this one refers to (perhaps itself), sorted.
    pub references: Vec<StorePath>,
    /// The derivation that built it.
    pub deriver: Option<StorePath>,
    /// The content address as it was written.
    pub ca: Option<String>,
    /// Sorted, each once.
    pub signatures: Vec<Signature>,
    /// Fields that this version does not know, in their order.
    pub unknown: Vec<(String, String)>,
}

impl From<&NarInfo<'_>> for PathInfo {
    fn from(info: &NarInfo<'_>) -> Self {
        Self {
            store_path: info.store_path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.clone(),
            deriver: info.deriver.clone(),
            ca: info.ca.map(str::to_owned),
            signatures: info.signatures.clone(),
            unknown: info
                .unknown
                .iter()
                .map(|&(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        }
    }
}

impl PathInfo {
    /// Adds a signature, in its place; one that is already there stays there once.
    pub fn add_signature(&mut self, signature: Signature) {
        if let Err(place) = self.signatures.binary_search(&signature) {
            self.signatures.insert(place, signature);
        }
    }

    /// The narinfo of a cache that holds the NAR at `url`, `file_size` bytes in the codec
    /// `compression`.
    pub fn to_narinfo(&self, url: &str, compression: &str, file_size: Option<u64>) -> String {
        let location = Location {
            url,
            compression,
            file_hash: None,
            file_size,
        };
        self.to_text(Some(&location))
    }

    /// The same text without the lines about a cache's file.
    pub fn to_record(&self) -> String {
        self.to_text(None)
    }

    /// Reads what [`Self::to_record`] wrote.
    pub fn from_record(text: &str) -> Result<Self, NarInfoError> {
        let fields = Fields::parse(text)?;
        if let Some((key, line)) = fields.location {
            return Err(NarInfoError::NotInRecord { line, key });
        }
        Ok(Self {
            store_path: required(fields.store_path, "StorePath")?,
            nar_hash: required(fields.nar_hash, "NarHash")?,
            nar_size: required(fields.nar_size, "NarSize")?,
            references: fields.references.unwrap_or_default(),
            deriver: fields.deriver.flatten(),
            ca: fields.ca.filter(|ca| !ca.is_empty()).map(str::to_owned),
            signatures: fields.signatures,
            unknown: fields
                .unknown
                .iter()
                .map(|&(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        })
    }

    fn to_text(&self, location: Option<&Location<'_>>) -> String {
        let mut text = String::new();
        write_text(&mut text, &Subject::from(self), location)
            .expect("invariant: writing into a String does not fail");
        text
    }
}
