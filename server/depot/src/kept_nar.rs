//! NARs looked up, with what is made of one to be kept in memory.
//!
//! Guarantees: what was kept comes out only while the NAR is visible as it was then, and its bytes
//! lie where they lay: [`Depot::still_nar`] sees every change of either. Never waits for a disk.

use snowcache_nix::NarHash;

use crate::Result;
use crate::depot::Depot;
use crate::keys::CacheName;
use crate::read::NarReader;
use crate::versions::Version;

/// What was made of a visible NAR.
#[derive(Debug)]
pub struct KeptNar<T> {
    made: T,
    version: Version,
}

impl<T> KeptNar<T> {
    /// What was made of it just now.
    pub fn made(&self) -> &T {
        &self.made
    }

    /// What it was read at.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The same NAR, with what `make` makes of it.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> KeptNar<U> {
        KeptNar {
            made: make(self.made),
            version: self.version,
        }
    }
}

impl Depot {
    /// Reads the NAR of a visible path, in the encoding of this name where there is one and it is
    /// kept; what is made of it may be kept.
    pub fn keep_nar(
        &self,
        cache: &CacheName,
        nar: &NarHash,
        encoding: Option<&str>,
    ) -> Result<Option<KeptNar<NarReader>>> {
        // Read before what it is a version of.
        let version = self.shared().watchers.versions.nar(nar);
        let reader = match encoding {
            Some(encoding) => self.nar_as(cache, nar, encoding)?,
            None => self.nar(cache, nar)?,
        };
        Ok(reader.map(|made| KeptNar { made, version }))
    }

    /// What was kept, if the NAR is still what it was.
    pub fn still_nar<'a, T>(&self, kept: &'a KeptNar<T>) -> Option<&'a T> {
        let versions = &self.shared().watchers.versions;
        versions.holds(kept.version).then_some(&kept.made)
    }
}
