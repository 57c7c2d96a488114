//! `.ls`: the listing of a NAR as JSON, made from the parser's events.
//!
//! ```text
//!   {"root":{"entries":{"bin":{"entries":{"hi":{"executable":true,"narOffset":400,"size":12,
//!   "type":"regular"}},"type":"directory"},"link":{"target":"bin","type":"symlink"}},
//!   "type":"directory"},"version":1}
//! ```
//!
//! Guarantees: the bytes that Nix writes (2.13 to today's 2.31; 2.8 orders the keys otherwise):
//! sorted keys, no spaces, `executable` only where it is true. Memory is the JSON itself, at most
//! [`MAX_LISTING_BYTES`]. Never guesses: names that are not UTF-8 cannot be said in JSON, so such a
//! NAR has no listing (Nix fails to write one, too) and its reader fetches the NAR.

use std::fmt::Write as _;

use thiserror::Error;

use crate::nar::{Event, Quoted};

/// Largest listing: a file takes about 80 bytes, so this is for some 800,000 files in one path. A
/// larger NAR has no listing, its reader fetches the NAR.
pub const MAX_LISTING_BYTES: usize = 64 << 20;

/// Why a NAR has no listing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ListingError {
    /// A name or target that JSON cannot hold.
    #[error("{text} is not UTF-8, so the NAR has no listing")]
    NotUtf8 {
        /// The name or target.
        text: Quoted,
    },
    /// More than [`MAX_LISTING_BYTES`].
    #[error("the NAR's listing would be larger than {MAX_LISTING_BYTES} bytes")]
    TooLarge,
    /// The events ended before the root did.
    #[error("the NAR's events are not complete, so it has no listing yet")]
    Incomplete,
}

/// Builds the listing of one NAR while its events come in.
#[derive(Debug, Clone)]
pub struct Listing {
    json: String,
    /// For each open directory, whether it has an entry already.
    open: Vec<bool>,
    complete: bool,
    failed: Option<ListingError>,
}

impl Default for Listing {
    fn default() -> Self {
        Self::new()
    }
}

impl Listing {
    /// A listing of nothing yet.
    pub fn new() -> Self {
        Self {
            json: String::from("{\"root\":"),
            open: Vec::new(),
            complete: false,
            failed: None,
        }
    }

    /// Takes the next event of the parser.
    pub fn event(&mut self, event: Event<'_>) {
        if self.failed.is_some() || matches!(event, Event::Data(_)) {
            return;
        }
        let mut added = self.add(event);
        if added.is_ok() && self.json.len() > MAX_LISTING_BYTES {
            added = Err(ListingError::TooLarge);
        }
        if let Err(error) = added {
            self.failed = Some(error);
            self.json = String::new();
        }
    }

    /// The whole listing, once the NAR has been parsed to its end.
    pub fn to_json(&self) -> Result<String, ListingError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.complete => Ok(format!("{},\"version\":1}}", self.json)),
            None => Err(ListingError::Incomplete),
        }
    }

    fn add(&mut self, event: Event<'_>) -> Result<(), ListingError> {
        match event {
            Event::Directory => {
                self.json.push_str("{\"entries\":{");
                self.open.push(false);
            }
            Event::Entry { name } => {
                if let Some(has_entries) = self.open.last_mut()
                    && std::mem::replace(has_entries, true)
                {
                    self.json.push(',');
                }
                self.text(name)?;
                self.json.push(':');
            }
            Event::EndDirectory => {
                self.json.push_str("},\"type\":\"directory\"}");
                self.open.pop();
            }
            Event::File {
                executable,
                size,
                offset,
            } => {
                let executable = if executable {
                    "\"executable\":true,"
                } else {
                    ""
                };
                write!(
                    self.json,
                    "{{{executable}\"narOffset\":{offset},\"size\":{size},\"type\":\"regular\"}}"
                )
                .expect("invariant: writing into a String does not fail");
            }
            Event::Symlink { target } => {
                self.json.push_str("{\"target\":");
                self.text(target)?;
                self.json.push_str(",\"type\":\"symlink\"}");
            }
            Event::Data(_) | Event::EndFile => {}
        }
        let node_ends = matches!(
            event,
            Event::EndDirectory | Event::EndFile | Event::Symlink { .. }
        );
        self.complete |= node_ends && self.open.is_empty();
        Ok(())
    }

    /// Appends a JSON string.
    fn text(&mut self, bytes: &[u8]) -> Result<(), ListingError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ListingError::NotUtf8 {
            text: Quoted::new(bytes),
        })?;
        // Nearly every name stands for itself, and a listing may have a million of them.
        let special = |&byte: &u8| byte < b' ' || byte == b'"' || byte == b'\\';
        if bytes.iter().any(special) {
            let escaped = serde_json::Value::from(text).to_string();
            self.json.push_str(&escaped);
        } else {
            self.json.extend(["\"", text, "\""]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_grows_with_the_events_and_is_there_at_the_end() {
        let mut listing = Listing::new();
        listing.event(Event::Directory);
        listing.event(Event::Entry { name: b"a\"\n\x01" });
        listing.event(Event::File {
            executable: true,
            size: 3,
            offset: 200,
        });
        listing.event(Event::Data(b"123"));
        listing.event(Event::EndFile);
        assert_eq!(listing.to_json(), Err(ListingError::Incomplete));
        listing.event(Event::Entry {
            name: "é".as_bytes(),
        });
        listing.event(Event::Symlink { target: b"../b\\" });
        listing.event(Event::EndDirectory);
        let json = concat!(
            r#"{"root":{"entries":{"a\"\n\u0001":{"executable":true,"narOffset":200,"size":3,"#,
            r#""type":"regular"},"é":{"target":"../b\\","type":"symlink"}},"type":"directory"},"#,
            r#""version":1}"#
        );
        assert_eq!(listing.to_json().as_deref(), Ok(json));
    }

    #[test]
    fn a_name_beyond_utf8_leaves_no_listing() {
        let mut listing = Listing::new();
        listing.event(Event::Directory);
        listing.event(Event::Entry { name: b"a\xff" });
        listing.event(Event::Symlink { target: b"b" });
        listing.event(Event::EndDirectory);
        let refusal = listing.to_json().expect_err("not UTF-8").to_string();
        assert_eq!(refusal, r"'a\xff' is not UTF-8, so the NAR has no listing");
    }

    #[test]
    fn a_listing_stays_within_its_limit() {
        let mut listing = Listing::new();
        listing.event(Event::Directory);
        let name = [b'n'; 255];
        for _ in 0..MAX_LISTING_BYTES / 255 {
            listing.event(Event::Entry { name: &name });
            listing.event(Event::Symlink { target: b"x" });
        }
        listing.event(Event::EndDirectory);
        assert_eq!(listing.to_json(), Err(ListingError::TooLarge));
    }
}
