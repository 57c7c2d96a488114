//! Small store paths made in memory, the same every time.

use crate::cache::NarStream;
use crate::error::{Blame, Error, Kind};
use crate::path_info::Claimed;
use bytes::Bytes;
use futures::stream;
use sha2::{Digest, Sha256};
use snowcache_nix::PathInfo;
use snowcache_nix::key::SecretKey;
use snowcache_nix::nar::Writer;
use snowcache_nix::{NarHash, StoreHash, StorePath, fingerprint};

/// A store path with its NAR.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What is true of it.
    pub info: PathInfo,
    /// Its NAR.
    pub nar: Bytes,
}

/// A path with one file of this content, signed by an uploader's key. Its hash part is derived from
/// its name alone, so that two samples can be rivals for one path.
pub fn sample(name: &str, content: &[u8], references: &[&StorePath]) -> Sample {
    let nar = nar_of(content);
    let mut references: Vec<StorePath> = references.iter().copied().cloned().collect();
    references.sort();
    let mut info = PathInfo {
        store_path: path_named(name),
        nar_hash: NarHash::from_bytes(Sha256::digest(&nar).into()),
        nar_size: nar.len() as u64,
        references,
        deriver: Some(path_named(&format!("{name}.drv"))),
        ca: None,
        signatures: Vec::new(),
        unknown: Vec::new(),
    };
    let uploader = uploader_key("uploader-1");
    info.add_signature(uploader.sign(&fingerprint(&info)));
    Sample { info, nar }
}

pub(super) fn uploader_key(name: &str) -> SecretKey {
    SecretKey::generate(name, [42; 32]).expect("invariant: the suite's names are valid")
}

pub(super) fn path_named(name: &str) -> StorePath {
    let mut hash = [0; 20];
    hash.copy_from_slice(&Sha256::digest(name)[..20]);
    let base_name = format!("{}-{name}", StoreHash::from_bytes(hash));
    base_name
        .parse()
        .expect("invariant: the suite's names are valid")
}

fn nar_of(content: &[u8]) -> Bytes {
    const WHY: &str = "invariant: this tree is canonical and writing to memory does not fail";
    let mut writer = Writer::new(Vec::new());
    writer.directory().expect(WHY);
    writer.entry(b"content").expect(WHY);
    writer.file(false, content.len() as u64).expect(WHY);
    writer.data(content).expect(WHY);
    writer.entry(b"link").expect(WHY);
    writer.symlink(b"content").expect(WHY);
    writer.end_directory().expect(WHY);
    Bytes::from(writer.finish().expect(WHY))
}

impl Sample {
    /// The claim that an uploader makes of it.
    pub fn claimed(&self) -> Claimed {
        Claimed::new(self.info.clone())
    }

    /// Its NAR, in chunks of uneven sizes.
    pub fn stream(&self) -> NarStream {
        let (nar, mut chunks) = (&self.nar, Vec::new());
        let (mut start, mut length) = (0, 1);
        while start < nar.len() {
            let end = nar.len().min(start + length);
            chunks.push(Ok(nar.slice(start..end)));
            (start, length) = (end, length * 3 + 1);
        }
        let chunks = stream::iter(chunks);
        NarStream::new(
            self.info.nar_hash,
            self.info.nar_size,
            Blame::Client,
            chunks,
        )
    }
}

/// The first half of a NAR, then a connection that breaks.
pub fn broken_stream(sample: &Sample) -> NarStream {
    let half = sample.nar.slice(..sample.nar.len() / 2);
    let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let chunks = [
        Ok(half),
        Err(Error::new(Kind::Unavailable, Blame::Client, cut)),
    ];
    NarStream::new(
        sample.info.nar_hash,
        sample.info.nar_size,
        Blame::Client,
        stream::iter(chunks),
    )
}
