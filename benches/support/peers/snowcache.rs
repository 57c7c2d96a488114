//! snowcached, filled as a builder would fill it: NARs, then narinfos, what is referred to first.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::super::corpus::read_item;
use super::super::engine::ask::Ask;
use super::super::engine::closed::{Closed, closed};
use super::super::engine::tally::Tally;
use super::super::engine::target::Target;
use super::super::harness::server::Snowcached;

/// As many as snowcached works on at once on a small machine; more would only wait.
const UPLOADS_AT_ONCE: usize = 8;
/// Bytes of NARs that are held in memory on their way (256 MiB).
const BATCH_BYTES: u64 = 256 << 20;

/// A server, with a configuration of the bench's where the default is too small.
pub fn start(arguments: &[&str]) -> Snowcached {
    Snowcached::start_with(super::super::harness::folder_on_disk(), "info", arguments)
}

/// Pushes these paths out of a binary cache's folder, in this order.
pub fn push(server: &Snowcached, folder: &Path, hashes: &[String]) -> Result<Tally, String> {
    let (target, token) = (Target::plain(&server.url()), server.push_token());
    let items: Vec<_> = hashes.iter().map(|hash| read_item(folder, hash)).collect();
    let mut total = Tally::default();
    let mut rest = items.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|item| {
            bytes += item.body_bytes().unwrap_or(item.nar_size);
            bytes <= BATCH_BYTES
        });
        let (batch, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let asks = batch.iter().map(|item| {
            let body = fs::read(folder.join(&item.url)).expect("a file of the corpus");
            Ask::put(&target, &format!("push/{}", item.url), &token, body.into())
        });
        all_of(&target, asks.collect(), &mut total)?;
    }
    // A narinfo is taken when all that it refers to is there: level by level.
    let mut levels: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_level: BTreeMap<usize, Vec<Ask>> = BTreeMap::new();
    for item in &items {
        let below = item.references.iter();
        let below = below.filter_map(|hash| levels.get(hash.as_str())).max();
        let level = below.map_or(0, |level| level + 1);
        levels.insert(&item.hash, level);
        let path = format!("push/{}", item.narinfo_path());
        let ask = Ask::put(&target, &path, &token, Arc::clone(&item.narinfo));
        by_level.entry(level).or_default().push(ask);
    }
    for asks in by_level.into_values() {
        all_of(&target, asks.into(), &mut total)?;
    }
    Ok(total)
}

fn all_of(target: &Target, asks: Arc<[Ask]>, total: &mut Tally) -> Result<(), String> {
    let tally = closed(target, &asks, Closed::once(UPLOADS_AT_ONCE, &asks, None));
    total.add(&tally);
    tally.flaw().map_or(Ok(()), Err)
}

/// All blocks of the depot, with everything flushed by a stop; the server runs again afterwards.
pub fn disk_bytes(server: &mut Snowcached) -> u64 {
    server.stop();
    let bytes = blocks(&server.depot());
    server.start_again();
    bytes
}

fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    let below = match metadata.is_dir() {
        true => fs::read_dir(path).into_iter().flatten().flatten().collect(),
        false => Vec::new(),
    };
    let below: u64 = below.iter().map(|entry| blocks(&entry.path())).sum();
    metadata.blocks() * 512 + below
}
