//! Links of the spool as indirect roots of Nix's.
//!
//! Nix keeps what a link points to while `gcroots/auto` in its state folder has a link to that
//! link, named by the SHA-1 of its path in base 32 (libstore's `addIndirectRoot`, the same in 2.8
//! and 2.26). A hook is run by whoever owns the store, so it makes that link itself: that works
//! with a daemon and without one, and waits for nobody. Who may not write there asks the daemon.
//!
//! Never: a root of anybody else touched. Roots whose link is gone are Nix's to clear away.

use crate::store::Store;
use sha1::{Digest, Sha1};
use snowcache_nix::base32;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A daemon takes some milliseconds, on a busy machine more; nobody waits for one that hangs.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes roots of these links and syncs them; those of which that may not be done are returned.
pub fn hold_directly(links: &[PathBuf]) -> Vec<PathBuf> {
    let auto = auto();
    // Nix makes this folder with its first indirect root; without its parent there is no Nix.
    drop(std::fs::create_dir(&auto));
    let unrooted = |link: &&PathBuf| hold(&auto, link).is_err();
    let unrooted: Vec<PathBuf> = links.iter().filter(unrooted).cloned().collect();
    let synced = File::open(&auto).and_then(|folder| folder.sync_all());
    drop(synced); // a root that is lost with the power is made again when the queue starts
    unrooted
}

/// Asks the daemon to make roots of these links.
///
/// # Errors
/// With why Nix may collect what they point to.
pub async fn hold_by_daemon(links: &[PathBuf]) -> Result<(), String> {
    if links.is_empty() {
        return Ok(());
    }
    let socket = std::env::var_os("NIX_DAEMON_SOCKET_PATH").map(PathBuf::from);
    let store = Store::at(socket.unwrap_or_else(|| crate::store::DEFAULT_SOCKET.into()));
    let held = tokio::time::timeout(DAEMON_TIMEOUT, store.add_indirect_roots(links));
    match held.await {
        Ok(held) => held.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "the nix-daemon did not answer within {} s",
            DAEMON_TIMEOUT.as_secs()
        )),
    }
}

fn hold(auto: &Path, link: &Path) -> io::Result<()> {
    let name = base32::encode(&Sha1::digest(link.as_os_str().as_bytes()));
    match symlink(link, auto.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn auto() -> PathBuf {
    let state = std::env::var_os("NIX_STATE_DIR").map(PathBuf::from);
    let state = state.unwrap_or_else(|| PathBuf::from("/nix/var/nix"));
    state.join("gcroots/auto")
}
