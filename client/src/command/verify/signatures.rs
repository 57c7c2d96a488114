//! Whose signatures count.

use crate::failure::Failure;
use crate::remote::Remote;
use snowcache_nix::{PathInfo, PublicKey, fingerprint};

/// Keys of which one must have signed each path.
pub(super) struct Trusted(Vec<PublicKey>);

impl Trusted {
    /// The keys given, or those that the cache shows; `None` when there are neither.
    pub(super) async fn of(remote: &Remote, given: &[String]) -> Result<Option<Trusted>, Failure> {
        let given: Vec<&String> = given.iter().filter(|key| !key.is_empty()).collect();
        let keys: Vec<PublicKey> = if given.is_empty() {
            // Only a snowcache shows its keys; whatever another cache says there is no error.
            remote.public_keys().await.unwrap_or_default()
        } else {
            let wrong = |error| Failure::usage(format!("--trusted-public-keys: {error}"));
            given
                .iter()
                .map(|key| key.parse())
                .collect::<Result<_, _>>()
                .map_err(wrong)?
        };
        Ok((!keys.is_empty()).then_some(Trusted(keys)))
    }

    /// What is wrong with the signatures of a path: a key that is trusted must have signed it, and
    /// whoever signs under a trusted name must have signed this.
    pub(super) fn problem(&self, info: &PathInfo) -> Option<String> {
        let message = fingerprint(info);
        let named = |key: &PublicKey| {
            let of_key = info
                .signatures
                .iter()
                .filter(|it| it.key_name() == key.name());
            of_key
                .map(|it| key.verify(&message, it))
                .collect::<Vec<bool>>()
        };
        let verdicts: Vec<bool> = self.0.iter().flat_map(named).collect();
        let names: Vec<&str> = self.0.iter().map(PublicKey::name).collect();
        let names = names.join(", ");
        if verdicts.is_empty() {
            return Some(format!("not signed by {names}"));
        }
        let all_wrong = verdicts.iter().all(|valid| !valid);
        all_wrong.then(|| format!("the signature of {names} is not valid for this path"))
    }
}
