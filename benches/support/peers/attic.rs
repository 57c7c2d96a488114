//! attic, filled with the corpus.

use std::fs::File;
use std::path::Path;

use snowcache_nix::NarInfo;

use super::super::corpus::{Corpus, read_item};
use super::super::harness::attic::Attic;
use super::Running;

/// Starts this `atticd` on a free port, and uploads the corpus.
pub fn start(binary: &Path, corpus: &Corpus) -> Result<Running, String> {
    let attic = Attic::start(binary)?;
    eprintln!("filling attic");
    let raw = corpus.raw();
    for generation in 0..corpus.generations.len() {
        for hash in corpus.added(generation) {
            let item = read_item(&raw, &hash);
            let narinfo = std::str::from_utf8(&item.narinfo);
            let narinfo = narinfo.expect("invariant: parsed as a narinfo");
            let info = NarInfo::parse(narinfo).expect("invariant: parsed before");
            let nar = File::open(raw.join(&item.url)).map_err(|error| error.to_string())?;
            attic.upload(&info, nar)?;
        }
    }
    Ok(attic.running)
}
