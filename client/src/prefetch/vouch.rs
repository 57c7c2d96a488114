//! The last step: what was there before is verified too, and all of it is put on a receipt.
//!
//! ```text
//!   fetched now, and registered so          its NarHash was verified on the way in
//!   on an earlier receipt, unchanged, and
//!   not found damaged since                 as it was verified then
//!   anything else that was there before     read through the daemon and hashed, once
//! ```
//! So a node pays once, about a second a GB and core, for what it had before it knew of receipts.
//!
//! Guarantees: each line of a receipt was hashed by this program, of bytes that went to or came
//! from the store. A damaged path is named, with how to mend it.

use super::{Event, Prefetch};
use crate::damage;
use crate::node::NodeError;
use crate::receipt::{Line, Receipt, ReceiptError, Stamp};
use futures::{StreamExt, TryStreamExt, stream};
use snowcache_core::cache::{Cache, Narinfo};
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_nix::daemon::ValidPath;
use snowcache_nix::{Compression, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Why there is no receipt.
#[derive(Debug, Error)]
enum Unverified {
    #[error("{0} is not valid any more: something invalidated it just now; run the same again")]
    Gone(StorePath),
    #[error("{0} cannot be looked at: {1}")]
    Stamp(StorePath, io::Error),
    #[error("{0} was changed while it was verified; run the same again")]
    Changing(StorePath),
    #[error(
        "{0} is damaged on this node's disk: {1}; mend it with: nix-store --repair-path {path}",
        path = .0.absolute()
    )]
    Damaged(StorePath, Error),
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
}

impl Unverified {
    fn because(self, kind: Kind) -> Error {
        Error::new(kind, Blame::Client, self)
    }
}

impl Prefetch<'_> {
    /// A receipt for each of the roots, over all of the closure.
    pub(super) async fn vouch(
        &self,
        roots: &[StorePath],
        closure: &[Narinfo],
        fetched: &BTreeSet<StorePath>,
    ) -> Result<(), Error> {
        let earlier = damage::sound_lines(self.node)
            .map_err(|error| Unverified::from(error).because(Kind::Invalid))?;
        let (mut lines, mut to_hash, mut registered) = (Vec::new(), Vec::new(), BTreeMap::new());
        let paths = closure.iter().map(|it| it.info.store_path.clone());
        let paths: Vec<StorePath> = paths.collect();
        let known = self.store.path_infos(&paths).await?;
        for (narinfo, known) in closure.iter().zip(known) {
            let path = &narinfo.info.store_path;
            let known =
                known.ok_or_else(|| Unverified::Gone(path.clone()).because(Kind::Unavailable))?;
            registered.insert(path.clone(), known.registration_time_s);
            let stamp = stamp(path)?;
            let line = Line {
                path: path.clone(),
                nar_hash: known.info.nar_hash,
                stamp,
            };
            let came = fetched.contains(path) && known.info.nar_hash == narinfo.info.nar_hash;
            match came || earlier.get(path) == Some(&line) {
                true => lines.push(line),
                false => to_hash.push((known, line)),
            }
        }
        lines.extend(self.hash(to_hash).await?);
        lines.sort_by(|a, b| a.path.cmp(&b.path));
        for root in roots {
            self.write(root, closure, &lines, registered[root])?;
        }
        self.forget_what_is_gone()
            .map_err(|error| Unverified::from(ReceiptError::from(error)).because(Kind::Invalid))
    }

    /// Receipts of roots that were collected say nothing any more.
    fn forget_what_is_gone(&self) -> Result<(), NodeError> {
        for root in self.node.receipts_of()? {
            let gone = Stamp::of(&root).is_err_and(|it| it.kind() == io::ErrorKind::NotFound);
            if gone {
                self.node.remove_receipt(&root)?;
            }
        }
        Ok(())
    }

    /// Reads paths back through the daemon.
    async fn hash(&self, paths: Vec<(ValidPath, Line)>) -> Result<Vec<Line>, Error> {
        if !paths.is_empty() {
            let sizes = paths.iter().map(|(known, _)| known.info.nar_size);
            (self.on)(Event::Rehashing {
                paths: paths.len(),
                nar_size_bytes: sizes.fold(0, u64::saturating_add),
            });
        }
        let hashed = stream::iter(paths).map(|(known, line)| async move {
            let path = known.info.store_path.clone();
            let narinfo = Narinfo {
                url: path.absolute(),
                compression: Compression::None,
                file_size_bytes: None,
                info: known.info,
            };
            let mut nar = self.store.nar(&narinfo).await?;
            while let Some(chunk) = nar.next().await {
                chunk.map_err(|error| match error.kind() {
                    Kind::Corrupt => {
                        Unverified::Damaged(path.clone(), error).because(Kind::Corrupt)
                    }
                    _ => error,
                })?;
            }
            match stamp(&path)? == line.stamp {
                true => {
                    damage::mended(self.node, &path).map_err(|error| {
                        Unverified::from(ReceiptError::from(error)).because(Kind::Invalid)
                    })?;
                    Ok(line)
                }
                false => Err(Unverified::Changing(path).because(Kind::Unavailable)),
            }
        });
        hashed.buffer_unordered(self.jobs).try_collect().await
    }

    fn write(
        &self,
        root: &StorePath,
        closure: &[Narinfo],
        lines: &[Line],
        registered_s: u64,
    ) -> Result<(), Error> {
        let wanted = closure_of(root, closure);
        let paths = lines.iter().filter(|line| wanted.contains(&line.path));
        let receipt = Receipt {
            root: root.clone(),
            registered_s,
            time_s: now_s(),
            boot: crate::system::boot_id(),
            keys: self.sources.vouching_keys(),
            paths: paths.cloned().collect(),
        };
        let cannot = |error| Unverified::Receipt(ReceiptError::Node(error)).because(Kind::Invalid);
        let key = self.node.key().map_err(cannot)?;
        let text = receipt.to_signed(&key);
        self.node.write_receipt(root, &text).map_err(cannot)
    }
}

/// What belongs to one root, of the closure of several, references first.
fn closure_of(root: &StorePath, closure: &[Narinfo]) -> BTreeSet<StorePath> {
    let mut wanted = BTreeSet::from([root.clone()]);
    for narinfo in closure.iter().rev() {
        if wanted.contains(&narinfo.info.store_path) {
            wanted.extend(narinfo.info.references.iter().cloned());
        }
    }
    wanted
}

fn stamp(path: &StorePath) -> Result<Stamp, Error> {
    let cannot = |error| Unverified::Stamp(path.clone(), error).because(Kind::Unavailable);
    Stamp::of(path).map_err(cannot)
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
