//! What a client asks before it sends, and says when all is sent.
//!
//! Guarantees: what is said to be here is committed durably. That it stays is promised of NARs
//! only, for their lease; a frame may be collected before it is used, and is then asked for. Never:
//! a word of what was sent to another cache alone.

use std::sync::Arc;

use snowcache_core::path_info::Signed;
use snowcache_core::recipe::FrameId;
use snowcache_core::upstream::Vouched;
use snowcache_nix::NarHash;

use crate::commit::{Change, Outcome};
use crate::depot::{Depot, Published};
use crate::ingest::native_name;
use crate::keys::CacheName;
use crate::{NarReader, Result, tenants};

impl Depot {
    /// Which of these frames are here and were sent to this cache: of others it is not told.
    pub fn has_frames(&self, cache: &CacheName, frames: &[FrameId]) -> Result<Vec<bool>> {
        tenants::known(&*self.shared().index, cache, frames)
    }

    /// The NAR with this hash, if a visible path of the cache has it or it came over the native API
    /// and is under its lease.
    pub fn held_nar(&self, cache: &CacheName, nar: &NarHash) -> Result<Option<NarReader>> {
        match self.uploaded_nar(cache, &native_name(nar))? {
            Some(reader) => Ok(Some(reader)),
            None => self.nar(cache, nar),
        }
    }

    /// Makes paths visible in this order, references first; what is `vouched` for need not be here.
    /// Each is durable, or was refused, when this returns.
    ///
    /// # Errors
    /// Of each path as [`Depot::publish`].
    pub fn publish_all(
        &self,
        cache: &CacheName,
        paths: Vec<Signed>,
        vouched: Vouched,
        subject: &str,
    ) -> Vec<Result<Published>> {
        let vouched = Arc::new(vouched);
        let changes = paths.into_iter().map(|path| Change::Publish {
            cache: cache.clone(),
            info: path.into_info(),
            subject: subject.to_owned(),
            vouched: vouched.clone(),
        });
        let outcomes = self.commit_all(changes).into_iter();
        let published = |outcome| match outcome {
            Outcome::Published(published) => published,
            _ => unreachable!("publications were asked for"),
        };
        outcomes.map(|outcome| outcome.map(published)).collect()
    }
}
