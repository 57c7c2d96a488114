//! Paths to push: small trees, big files, and what describes them.

use crate::client::Cache;
use snowcache_nix::nar::Writer;
use snowcache_nix::{NarHash, NarInfo, PathInfo, StorePath};
use snowcache_server::http::codec::Codec;
use snowcache_server::http::codec::encode::Encoded;
use std::io;

/// A store path with its NAR.
pub struct Sample {
    pub path: StorePath,
    pub nar: Vec<u8>,
    pub references: Vec<StorePath>,
}

/// `<letter> x 32 - name`
pub fn store_path(letter: char, name: &str) -> StorePath {
    let hash: String = std::iter::repeat_n(letter, 32).collect();
    format!("{hash}-{name}").parse().unwrap()
}

/// Noise that no codec packs, the same for the same seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

impl Sample {
    /// A small tree: a script that names its references, a link, and a file of `big` bytes.
    pub fn tree(letter: char, name: &str, big: usize, references: &[StorePath]) -> Sample {
        let path = store_path(letter, name);
        let mut script = format!("#!/bin/sh\necho {name}\n");
        for reference in references {
            script += &format!("exec {}/bin/x\n", reference.absolute());
        }
        let mut nar = Writer::new(Vec::new());
        let data = noise(letter as u64, big);
        nar.directory().unwrap();
        nar.entry(b"bin").unwrap();
        nar.directory().unwrap();
        nar.entry(b"x").unwrap();
        nar.file(true, script.len() as u64).unwrap();
        nar.data(script.as_bytes()).unwrap();
        nar.end_directory().unwrap();
        nar.entry(b"data").unwrap();
        nar.file(false, data.len() as u64).unwrap();
        nar.data(&data).unwrap();
        nar.entry(b"link").unwrap();
        nar.symlink(b"bin/x").unwrap();
        nar.end_directory().unwrap();
        let mut references = references.to_vec();
        references.sort();
        Sample {
            path,
            nar: nar.finish().unwrap(),
            references,
        }
    }

    /// One plain file.
    pub fn file(path: StorePath, content: &[u8]) -> Sample {
        let mut nar = Writer::new(Vec::new());
        nar.file(false, content.len() as u64).unwrap();
        nar.data(content).unwrap();
        Sample {
            path,
            nar: nar.finish().unwrap(),
            references: Vec::new(),
        }
    }

    pub fn hash(&self) -> NarHash {
        nar_hash(&self.nar)
    }

    /// The narinfo that Nix would put for an upload at `url`.
    pub fn narinfo(&self, url: &str, compression: &str) -> String {
        let references: Vec<String> = self.references.iter().map(ToString::to_string).collect();
        format!(
            "StorePath: {}\nURL: {url}\nCompression: {compression}\nNarHash: {}\nNarSize: {}\n\
             References: {}\n",
            self.path.absolute(),
            self.hash(),
            self.nar.len(),
            references.join(" ")
        )
    }

    pub fn narinfo_url(&self) -> String {
        format!("/push/{}.narinfo", self.path.hash())
    }

    /// Pushes NAR and narinfo as Nix does.
    pub fn push(&self, cache: &Cache) {
        let name = format!("nar/{}.nar", self.hash().base32());
        let put = cache.put(&format!("/push/{name}"), &self.nar);
        assert_eq!(put.status, 200, "{}", put.text());
        let put = cache.put(&self.narinfo_url(), self.narinfo(&name, "none").as_bytes());
        assert_eq!(put.status, 200, "{}", put.text());
    }

    /// What the cache says of the path.
    pub fn published(&self, cache: &Cache) -> Published {
        let answer = cache.get(&format!("/{}.narinfo", self.path.hash()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let narinfo = NarInfo::parse(answer.text()).unwrap();
        Published {
            url: format!("/{}", narinfo.url),
            compression: narinfo.compression.to_string(),
            file_size: narinfo.file_size.unwrap(),
            info: PathInfo::from(&narinfo),
        }
    }
}

pub struct Published {
    pub url: String,
    pub compression: String,
    pub file_size: u64,
    pub info: PathInfo,
}

pub fn nar_hash(nar: &[u8]) -> NarHash {
    use sha2::{Digest, Sha256};
    NarHash::from_bytes(Sha256::digest(nar).into())
}

pub fn pack(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    let chunks = bytes
        .chunks(1 << 20)
        .map(|chunk| Ok::<_, io::Error>(bytes::Bytes::copy_from_slice(chunk)));
    let packed: Result<Vec<_>, _> = Encoded::new(codec, chunks).unwrap().collect();
    packed.unwrap().concat()
}

pub fn unpack(codec: Codec, packed: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    let mut input = packed;
    snowcache_server::http::codec::decode::decode(codec, &mut input, 1 << 27, &mut |bytes| {
        unpacked.extend_from_slice(bytes);
        Ok::<_, io::Error>(())
    })
    .unwrap();
    unpacked
}
