//! The lines of a narinfo, each field at most once, parsed where it stands.

use super::error::NarInfoError;
use super::{Compression, MAX_SIGNATURES, MAX_UNKNOWN_FIELDS, url};
use crate::hash::{Hash, NarHash};
use crate::key::Signature;
use crate::quote::quote;
use crate::store_path::StorePath;

/// Whatever fields a text had; what is required is for the caller to say.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub store_path: Option<StorePath>,
    pub url: Option<&'a str>,
    pub compression: Option<Compression>,
    pub file_hash: Option<Hash>,
    pub file_size: Option<u64>,
    pub nar_hash: Option<NarHash>,
    pub nar_size: Option<u64>,
    pub references: Option<Vec<StorePath>>,
    /// The inner nothing is `unknown-deriver`.
    pub deriver: Option<Option<StorePath>>,
    pub signatures: Vec<Signature>,
    pub ca: Option<&'a str>,
    pub unknown: Vec<(&'a str, &'a str)>,
    /// The first field that belongs to a cache's file, and its line.
    pub location: Option<(&'static str, usize)>,
}

/// The field, or the refusal that names it.
pub(super) fn required<T>(field: Option<T>, key: &'static str) -> Result<T, NarInfoError> {
    field.ok_or(NarInfoError::Missing { key })
}

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, NarInfoError> {
        let mut fields = Self::default();
        let mut line = 0;
        for text in text.split_inclusive('\n') {
            line += 1;
            let text = text
                .strip_suffix('\n')
                .ok_or(NarInfoError::CutOff { line })?;
            let (key, value) = split(line, text)?;
            fields.add(line, key, value)?;
        }
        fields.signatures.sort_by_cached_key(Signature::to_string);
        fields.signatures.dedup();
        Ok(fields)
    }

    fn add(&mut self, line: usize, key: &'a str, value: &'a str) -> Result<(), NarInfoError> {
        match key {
            "StorePath" => {
                let path =
                    StorePath::from_absolute(value).map_err(|source| NarInfoError::StorePath {
                        line,
                        key: "StorePath",
                        source,
                    })?;
                once(line, key, &mut self.store_path, path)
            }
            "NarHash" => once(
                line,
                key,
                &mut self.nar_hash,
                sha256(line, "NarHash", value)?,
            ),
            "NarSize" => match number(line, "NarSize", value)? {
                0 => Err(NarInfoError::ZeroNarSize { line }),
                size => once(line, key, &mut self.nar_size, size),
            },
            "References" => once(line, key, &mut self.references, references(line, value)?),
            "Deriver" => once(line, key, &mut self.deriver, deriver(line, value)?),
            "Sig" => self.add_signature(line, value),
            "CA" => once(line, key, &mut self.ca, value),
            "URL" | "Compression" | "FileHash" | "FileSize" => self.add_location(line, key, value),
            _ => self.add_unknown(line, key, value),
        }
    }

    /// The fields about the file at the URL.
    fn add_location(
        &mut self,
        line: usize,
        key: &'a str,
        value: &'a str,
    ) -> Result<(), NarInfoError> {
        let place = |key| Some((key, line));
        match key {
            "URL" => {
                self.location = self.location.or(place("URL"));
                url::check(value).map_err(|problem| NarInfoError::Url {
                    line,
                    url: quote(value),
                    problem,
                })?;
                once(line, key, &mut self.url, value)
            }
            "Compression" => {
                self.location = self.location.or(place("Compression"));
                let codec = match value {
                    "" => Compression::Bzip2,
                    name => name.parse().map_err(|source| NarInfoError::Compression {
                        line,
                        name: quote(name),
                        source,
                    })?,
                };
                once(line, key, &mut self.compression, codec)
            }
            "FileHash" => {
                self.location = self.location.or(place("FileHash"));
                once(
                    line,
                    key,
                    &mut self.file_hash,
                    sha256(line, "FileHash", value)?.into(),
                )
            }
            _ => {
                self.location = self.location.or(place("FileSize"));
                once(
                    line,
                    key,
                    &mut self.file_size,
                    number(line, "FileSize", value)?,
                )
            }
        }
    }

    fn add_signature(&mut self, line: usize, value: &str) -> Result<(), NarInfoError> {
        if self.signatures.len() == MAX_SIGNATURES {
            return Err(NarInfoError::ManySignatures { line });
        }
        let signature = value.parse();
        self.signatures
            .push(signature.map_err(|source| NarInfoError::Signature { line, source })?);
        Ok(())
    }

    fn add_unknown(
        &mut self,
        line: usize,
        key: &'a str,
        value: &'a str,
    ) -> Result<(), NarInfoError> {
        if self.unknown.iter().any(|&(known, _)| known == key) {
            return Err(NarInfoError::Duplicate {
                line,
                key: quote(key),
            });
        }
        if self.unknown.len() == MAX_UNKNOWN_FIELDS {
            return Err(NarInfoError::ManyUnknown { line });
        }
        self.unknown.push((key, value));
        Ok(())
    }
}

/// Splits `Key: value`. An empty value may have lost its space.
fn split(line: usize, text: &str) -> Result<(&str, &str), NarInfoError> {
    let not_a_field = || NarInfoError::NotAField {
        line,
        text: quote(text),
    };
    let (key, value) = text.split_once(':').ok_or_else(not_a_field)?;
    let good_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let value = if value.is_empty() {
        Some("")
    } else {
        value.strip_prefix(' ')
    };
    let value = value.filter(|_| good_key).ok_or_else(not_a_field)?;
    match value.chars().find(|c| c.is_control()) {
        Some(found) => Err(NarInfoError::ControlCharacter {
            line,
            key: quote(key),
            found,
        }),
        None => Ok((key, value)),
    }
}

fn once<T>(line: usize, key: &str, field: &mut Option<T>, value: T) -> Result<(), NarInfoError> {
    match field.replace(value) {
        Some(_) => Err(NarInfoError::Duplicate {
            line,
            key: key.to_owned(),
        }),
        None => Ok(()),
    }
}

fn sha256(line: usize, key: &'static str, value: &str) -> Result<NarHash, NarInfoError> {
    value
        .parse()
        .map_err(|source| NarInfoError::Hash { line, key, source })
}

/// Decimal digits as Nix writes them: no sign, no leading zero.
fn number(line: usize, key: &'static str, value: &str) -> Result<u64, NarInfoError> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit())
        && (value == "0" || !value.starts_with('0'));
    value
        .parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| NarInfoError::Number {
            line,
            key,
            value: quote(value),
        })
}

/// Base names between spaces, in any order.
fn references(line: usize, value: &str) -> Result<Vec<StorePath>, NarInfoError> {
    let mut references: Vec<StorePath> = Vec::new();
    for base in value.split(' ').filter(|base| !base.is_empty()) {
        let reference = base.parse();
        references.push(reference.map_err(|source| NarInfoError::StorePath {
            line,
            key: "References",
            source,
        })?);
    }
    references.sort_unstable();
    match references.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(NarInfoError::DuplicateReference {
            line,
            path: pair[0].to_string(),
        }),
        None => Ok(references),
    }
}

fn deriver(line: usize, value: &str) -> Result<Option<StorePath>, NarInfoError> {
    match value {
        "" | "unknown-deriver" => Ok(None),
        base => base
            .parse()
            .map(Some)
            .map_err(|source| NarInfoError::StorePath {
                line,
                key: "Deriver",
                source,
            }),
    }
}
