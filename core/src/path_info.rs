//! What is known of a store path, and how far it can be trusted, as three types.
//!
//! ```text
//!   PathInfo -new-> Claimed -verify(hash, size)-> Verified -sign(keys)-> Signed -> publish
//!                      |
//!                      +-- Mismatch: claimed X, computed Y
//! ```
//!
//! Guarantees: a [`Signed`] carries a NarHash and NarSize that were computed from bytes, because
//! the only way to it leads through [`Claimed::verify`]. Nothing here reads bytes: whoever hashed
//! them passes the result in.
//! Never: a `Verified` or a `Signed` made out of anything but the step before it.

use snowcache_nix::PathInfo;
use snowcache_nix::key::SecretKey;
use snowcache_nix::{NarHash, StorePath, fingerprint};
use thiserror::Error;

/// What an uploader or another cache says of a path: not to be believed yet.
#[derive(Clone, Debug)]
pub struct Claimed(PathInfo);

/// A path whose NarHash and NarSize were computed from its bytes and are what was claimed.
#[derive(Clone, Debug)]
pub struct Verified(PathInfo);

/// A verified path with this cache's signatures on it: the only thing that may be published.
#[derive(Clone, Debug)]
pub struct Signed(PathInfo);

/// The bytes are not what the narinfo says they are. The uploader's mistake, never the cache's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{store_path}: the narinfo claims {claimed_hash} and NarSize {claimed_size_bytes}, but the \
     bytes are {computed_hash} and {computed_size_bytes} bytes long; upload the NAR again, or a \
     narinfo that describes it"
)]
pub struct Mismatch {
    /// The path that was claimed.
    pub store_path: StorePath,
    /// `NarHash` of the narinfo.
    pub claimed_hash: NarHash,
    /// `NarSize` of the narinfo.
    pub claimed_size_bytes: u64,
    /// SHA-256 of the bytes.
    pub computed_hash: NarHash,
    /// How many bytes there were.
    pub computed_size_bytes: u64,
}

impl Claimed {
    /// Somebody's word for it.
    pub fn new(info: PathInfo) -> Claimed {
        Claimed(info)
    }

    /// What was claimed.
    pub fn info(&self) -> &PathInfo {
        &self.0
    }

    /// Compares the claim with what hashing the NAR gave.
    ///
    /// # Errors
    /// [`Mismatch`] when hash or size differ.
    pub fn verify(self, computed_hash: NarHash, computed_size: u64) -> Result<Verified, Mismatch> {
        if self.0.nar_hash == computed_hash && self.0.nar_size == computed_size {
            return Ok(Verified(self.0));
        }
        Err(Mismatch {
            claimed_hash: self.0.nar_hash,
            claimed_size_bytes: self.0.nar_size,
            store_path: self.0.store_path,
            computed_hash,
            computed_size_bytes: computed_size,
        })
    }
}

impl Verified {
    /// What was verified.
    pub fn info(&self) -> &PathInfo {
        &self.0
    }

    /// Adds one signature per key and keeps those that came with the path - except one that bears
    /// the name of one of `keys`: ours is computed here, so another under that name is forged.
    pub fn sign(self, keys: &[SecretKey]) -> Signed {
        let mut info = self.0;
        let message = fingerprint(&info);
        let ours: Vec<_> = keys.iter().map(|key| key.sign(&message)).collect();
        info.signatures
            .retain(|theirs| ours.iter().all(|our| our.key_name() != theirs.key_name()));
        for our in ours {
            info.add_signature(our);
        }
        Signed(info)
    }
}

impl Signed {
    /// What was signed.
    pub fn info(&self) -> &PathInfo {
        &self.0
    }

    /// What was signed, leaving the promise behind: publishing takes a `Signed`.
    pub fn into_info(self) -> PathInfo {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snowcache_nix::Signature;

    fn key(name: &str, seed: u8) -> SecretKey {
        SecretKey::generate(name, [seed; 32]).expect("a good name")
    }

    fn info(signed_by: &SecretKey) -> PathInfo {
        let record = format!(
            "StorePath: /nix/store/{}-hello\nNarHash: sha256:{}\nNarSize: 120\nReferences: \n",
            "0".repeat(32),
            "0".repeat(52)
        );
        let mut info = PathInfo::from_record(&record).expect("a record");
        info.add_signature(signed_by.sign("something else"));
        info
    }

    #[test]
    fn a_claim_that_the_bytes_do_not_bear_out_says_both() {
        let uploader = key("uploader-1", 1);
        let claimed = Claimed::new(info(&uploader));
        let zeros = NarHash::from_bytes([0; 32]);
        assert!(claimed.clone().verify(zeros, 120).is_ok());
        let text = claimed
            .clone()
            .verify(zeros, 121)
            .expect_err("size differs")
            .to_string();
        assert!(
            text.contains("NarSize 120") && text.contains("121 bytes"),
            "{text}"
        );
        let ones = NarHash::from_bytes([1; 32]);
        let text = claimed
            .verify(ones, 120)
            .expect_err("hash differs")
            .to_string();
        assert!(
            text.contains(&zeros.to_string()) && text.contains(&ones.to_string()),
            "{text}"
        );
    }

    #[test]
    fn signing_keeps_the_uploaders_signature_and_replaces_a_forgery_under_our_name() {
        let (ours, uploader) = (key("cache-1", 2), key("ci-1", 3));
        let forger = key("cache-1", 4);
        let mut claim = info(&uploader);
        claim.add_signature(forger.sign(&fingerprint(&claim)));
        let (hash, size) = (claim.nar_hash, claim.nar_size);
        let kept = uploader.sign("something else");
        let signed = Claimed::new(claim)
            .verify(hash, size)
            .expect("true")
            .sign(std::slice::from_ref(&ours));
        let info = signed.info();
        assert_eq!(info.signatures.len(), 2);
        assert!(info.signatures.contains(&kept));
        let valid = |it: &&Signature| ours.public().verify(&fingerprint(info), it);
        assert_eq!(info.signatures.iter().filter(valid).count(), 1);
    }
}
