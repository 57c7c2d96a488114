//! What stands between this node and being ready: the receipt, and whether it still holds.
//!
//! Guarantees: no network; one look at each path's top-level file and one question to the
//! nix-daemon, about the root: a path is valid only while all that it refers to is, so Nix's own
//! record of the root stands for those of its closure. What was found damaged since (`damage`)
//! does not pass.

use crate::damage;
use crate::failure::Failure;
use crate::node::Node;
use crate::receipt::{self, Receipt, ReceiptError};
use crate::store::Store;
use futures::future::join;
use snowcache_core::error::Error;
use snowcache_nix::{PublicKey, StorePath};

/// The receipt of this root, if everything is still as it says.
///
/// # Errors
/// With the first thing that is not.
pub async fn ready(
    node: &Node,
    store: &Store,
    root: &StorePath,
    trusted: &[PublicKey],
) -> Result<Receipt, Failure> {
    // The daemon takes a while to say hello; the receipt is looked at meanwhile.
    let (of_node, of_root, keys) = (node.clone(), root.clone(), trusted.to_vec());
    let looking = tokio::task::spawn_blocking(move || {
        let receipt = receipt::read(&of_node, &of_root)?;
        receipt.check(&keys)?;
        damage::check(&of_node, &receipt).map(|()| receipt)
    });
    let (looked, known) = join(looking, store.path_info(root)).await;
    let receipt = looked
        .map_err(|error| Failure::failed(format!("the look at the receipt died: {error}")))?
        .map_err(Failure::failed)?;
    let known = known.map_err(|error| Failure::from(Error::from(error)))?;
    let of_receipt = receipt.paths.iter().find(|line| line.path == *root);
    let what = match known {
        None => "is not valid any more",
        Some(known) if Some(known.info.nar_hash) != of_receipt.map(|line| line.nar_hash) => {
            "is registered with another NarHash"
        }
        Some(known) if known.registration_time_s != receipt.registered_s => "was registered anew",
        Some(_) => return Ok(receipt),
    };
    Err(Failure::failed(ReceiptError::Void {
        root: root.absolute(),
        path: root.clone(),
        what: what.to_owned(),
    }))
}
