//! A receipt: this node's own word, signed, that a closure is here whole and right.
//!
//! ```text
//!   snowcache-receipt 1
//!   root: <store path>
//!   registered: <when the root became valid, seconds since 1970>
//!   closure: sha256:<over "<store path> <NarHash>\n" of every path, sorted>
//!   time: <seconds since 1970>
//!   boot: <the kernel's boot id>
//!   keys: <trusted public keys, as they were then>
//!   paths: <how many>
//!   <store path> <NarHash> <inode> <ctime, seconds>.<nanoseconds>      one line each, sorted
//!   Sig: <node>:<signature over all lines before>
//! ```
//!
//! Guarantees: what parses was signed by this node's key over exactly these bytes. Void as soon as
//! a path is gone or its top-level inode or ctime is another one, which is what any change to it
//! behind Nix's back leaves (the store is read-only, and ctime cannot be set). Bounded:
//! [`MAX_RECEIPT_BYTES`].
//! Never: believed without its signature; the secret key readable by anybody else.

use crate::node::{Node, NodeError};
use serde::{Deserialize, Serialize};
use snowcache_nix::base32::encode;
use snowcache_nix::{NarHash, PublicKey, SecretKey, Signature, StorePath};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use thiserror::Error;

/// 200,000 paths, the most that a closure may have, at 360 bytes, the longest line there is.
pub const MAX_RECEIPT_BYTES: u64 = 72 << 20;
const MAGIC: &str = "snowcache-receipt 1";

/// What stands in a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it is about.
    pub root: StorePath,
    /// When the root became valid.
    pub registered_s: u64,
    /// When it was written, in seconds since 1970.
    pub time_s: u64,
    /// The boot in which that was.
    pub boot: String,
    /// The keys that were trusted.
    pub keys: Vec<String>,
    /// The closure, sorted.
    pub paths: Vec<Line>,
}

/// One path as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The path.
    pub path: StorePath,
    /// What it was verified to be.
    pub nar_hash: NarHash,
    /// Its top-level file as the file system has it.
    pub stamp: Stamp,
}

/// What a file system says of a file, which changes when the file is changed or replaced.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Stamp {
    inode: u64,
    ctime_s: i64,
    ctime_ns: i64,
}

/// Why there is no valid receipt.
#[derive(Debug, Error)]
pub enum ReceiptError {
    /// There is none.
    #[error("{0} was never made ready on this node; run: snowcache prefetch {0}")]
    None(String),
    /// A line that does not belong there.
    #[error("the receipt of {root} is damaged ({what}); run: snowcache prefetch {root}")]
    Damaged {
        /// What it should be about.
        root: String,
        /// What is wrong.
        what: String,
    },
    /// Somebody else wrote it, or changed it.
    #[error(
        "the receipt of {0} is not signed by this node's key: it was changed, or is another \
         node's; run: snowcache prefetch {0}"
    )]
    Forged(String),
    /// Something is not as it was.
    #[error("{path} {what} since it was verified; run: snowcache prefetch {root}")]
    Void {
        /// Of which closure.
        root: String,
        /// The path.
        path: StorePath,
        /// What happened to it.
        what: String,
    },
    /// It was read again, and is not what it was.
    #[error(
        "{path} was found damaged on this node's disk, {when}: {what}; mend it with: nix-store \
         --repair-path {path}, and then run: snowcache prefetch {root}", path = .path.absolute()
    )]
    Rotten {
        /// Of which closure.
        root: String,
        /// The path.
        path: StorePath,
        /// When it was found.
        when: String,
        /// How.
        what: String,
    },
    /// A key was taken out of those that are trusted.
    #[error(
        "the key {key} was trusted when {root} was verified and is not any more; run: snowcache \
         prefetch {root}"
    )]
    Revoked {
        /// Of which closure.
        root: String,
        /// The key.
        key: String,
    },
    /// The node's folder.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl Stamp {
    /// Of a path of the store.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(path: &StorePath) -> io::Result<Stamp> {
        let metadata = fs::symlink_metadata(path.absolute())?;
        Ok(Stamp {
            inode: metadata.ino(),
            ctime_s: metadata.ctime(),
            ctime_ns: metadata.ctime_nsec(),
        })
    }
}

impl Receipt {
    /// Signs it.
    pub fn to_signed(&self, key: &SecretKey) -> String {
        let text = self.to_text();
        let signature = key.sign(&text);
        format!("{text}Sig: {signature}\n")
    }

    fn to_text(&self) -> String {
        const WHY: &str = "invariant: a String can be written to";
        let mut text = format!("{MAGIC}\nroot: {}\n", self.root);
        writeln!(text, "registered: {}", self.registered_s).expect(WHY);
        writeln!(text, "closure: {}", self.closure()).expect(WHY);
        writeln!(text, "time: {}\nboot: {}", self.time_s, self.boot).expect(WHY);
        writeln!(text, "keys: {}", self.keys.join(" ")).expect(WHY);
        writeln!(text, "paths: {}", self.paths.len()).expect(WHY);
        for Line {
            path,
            nar_hash,
            stamp,
        } in &self.paths
        {
            let hash = nar_hash.base32();
            let Stamp {
                inode,
                ctime_s,
                ctime_ns,
            } = stamp;
            writeln!(text, "{path} {hash} {inode} {ctime_s}.{ctime_ns}").expect(WHY);
        }
        text
    }

    /// What the whole closure is, in one hash.
    pub fn closure(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut digest = Sha256::new();
        for line in &self.paths {
            digest.update(format!("{} {}\n", line.path, line.nar_hash));
        }
        format!("sha256:{}", encode(&digest.finalize()))
    }

    /// Reads what [`Self::to_signed`] wrote.
    ///
    /// # Errors
    /// When it is not signed by this key, or is no receipt of this root.
    pub fn from_signed(
        text: &str,
        root: &StorePath,
        key: &PublicKey,
    ) -> Result<Receipt, ReceiptError> {
        let damaged = |what: &str| ReceiptError::Damaged {
            root: root.absolute(),
            what: what.to_owned(),
        };
        let (signed, signature) = text
            .rsplit_once("Sig: ")
            .ok_or_else(|| damaged("no signature"))?;
        let signature: Signature = signature
            .trim_end()
            .parse()
            .map_err(|_| damaged("no signature"))?;
        if !key.verify(signed, &signature) {
            return Err(ReceiptError::Forged(root.absolute()));
        }
        let receipt = Receipt::parse(signed).ok_or_else(|| damaged("a line that is no line"))?;
        match receipt.root == *root {
            true => Ok(receipt),
            false => Err(damaged("it is about another path")),
        }
    }

    fn parse(text: &str) -> Option<Receipt> {
        let mut lines = text.lines();
        (lines.next()? == MAGIC).then_some(())?;
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(": ");
        let root = field("root")?.parse().ok()?;
        let registered_s = field("registered")?.parse().ok()?;
        // The signature vouches for it; computing it anew would take as long as all the rest.
        field("closure")?;
        let time_s = field("time")?.parse().ok()?;
        let boot = field("boot")?.to_owned();
        let keys = field("keys")?.split_whitespace().map(str::to_owned);
        let keys = keys.collect();
        let count: usize = field("paths")?.parse().ok()?;
        let paths: Vec<Line> = lines.map(Line::parse).collect::<Option<_>>()?;
        let receipt = Receipt {
            root,
            registered_s,
            time_s,
            boot,
            keys,
            paths,
        };
        (receipt.paths.len() == count).then_some(receipt)
    }

    /// Whether every path is still as it was verified, and every key still trusted.
    ///
    /// # Errors
    /// With the first thing that is not.
    pub fn check(&self, trusted: &[PublicKey]) -> Result<(), ReceiptError> {
        let root = || self.root.absolute();
        let trusted: Vec<String> = trusted.iter().map(ToString::to_string).collect();
        if let Some(key) = self.keys.iter().find(|key| !trusted.contains(key)) {
            let key = key.split(':').next().unwrap_or_default().to_owned();
            return Err(ReceiptError::Revoked { root: root(), key });
        }
        for line in &self.paths {
            let what = match Stamp::of(&line.path) {
                Ok(stamp) if stamp == line.stamp => continue,
                Ok(stamp) if stamp.inode != line.stamp.inode => "was replaced".to_owned(),
                Ok(_) => "was changed".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone".to_owned(),
                Err(error) => format!("cannot be looked at ({error})"),
            };
            let path = line.path.clone();
            let root = root();
            return Err(ReceiptError::Void { root, path, what });
        }
        Ok(())
    }
}

impl Line {
    fn parse(line: &str) -> Option<Line> {
        let mut words = line.split(' ');
        let path = words.next()?.parse().ok()?;
        let nar_hash = NarHash::from_base32(words.next()?).ok()?;
        let inode = words.next()?.parse().ok()?;
        let (ctime_s, ctime_ns) = words.next()?.split_once('.')?;
        let stamp = Stamp {
            inode,
            ctime_s: ctime_s.parse().ok()?,
            ctime_ns: ctime_ns.parse().ok()?,
        };
        words.next().is_none().then_some(Line {
            path,
            nar_hash,
            stamp,
        })
    }
}

/// The receipt of this root, if this node signed it.
///
/// # Errors
/// When there is none, or it is not good.
pub fn read(node: &Node, root: &StorePath) -> Result<Receipt, ReceiptError> {
    let key = node.key_if_any()?;
    let text = node.receipt(root, MAX_RECEIPT_BYTES)?;
    match (text, key) {
        (Some(text), Some(key)) => Receipt::from_signed(&text, root, &key.public()),
        (Some(_), None) => Err(ReceiptError::Forged(root.absolute())),
        (None, _) => Err(ReceiptError::None(root.absolute())),
    }
}

/// What all of this node's receipts say of paths that lie there as they did. A receipt that is not
/// good says nothing.
///
/// # Errors
/// When the node's folder cannot be read.
pub fn lines_of_all(node: &Node) -> Result<BTreeMap<StorePath, Line>, ReceiptError> {
    let mut lines = BTreeMap::new();
    for root in node.receipts_of()? {
        match read(node, &root) {
            Ok(receipt) => {
                let holds = |line: &Line| Stamp::of(&line.path).ok() == Some(line.stamp);
                let holding = receipt.paths.into_iter().filter(holds);
                lines.extend(holding.map(|line| (line.path.clone(), line)));
            }
            Err(ReceiptError::Node(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests;
