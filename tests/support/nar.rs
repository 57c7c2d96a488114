//! NARs made by hand, good and bad: an independent writer that puts down whatever it is told.

use sha2::{Digest, Sha256};

use super::codec::Codec;

/// The bytes of a NAR, token by token.
#[derive(Clone, Default)]
pub struct Nar(pub Vec<u8>);

impl Nar {
    /// With the magic already written.
    pub fn new() -> Nar {
        Nar::default().text("nix-archive-1")
    }

    /// A length, the bytes, zeros up to the next multiple of eight.
    pub fn string(mut self, bytes: &[u8]) -> Nar {
        self.0
            .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    pub fn text(self, word: &str) -> Nar {
        self.string(word.as_bytes())
    }

    pub fn words(self, words: &[&str]) -> Nar {
        words.iter().fold(self, |nar, word| nar.text(word))
    }

    pub fn file(self, content: &[u8]) -> Nar {
        self.words(&["(", "type", "regular", "contents"])
            .string(content)
            .text(")")
    }

    pub fn symlink(self, target: &[u8]) -> Nar {
        self.words(&["(", "type", "symlink", "target"])
            .string(target)
            .text(")")
    }

    pub fn directory(self) -> Nar {
        self.words(&["(", "type", "directory"])
    }

    /// A directory entry; what it is comes from `node`.
    pub fn entry(self, name: &[u8], node: impl FnOnce(Nar) -> Nar) -> Nar {
        node(
            self.words(&["entry", "(", "name"])
                .string(name)
                .text("node"),
        )
        .text(")")
    }

    pub fn end(self) -> Nar {
        self.text(")")
    }

    /// The NAR of one plain file.
    pub fn of_file(content: &[u8]) -> Nar {
        Nar::new().file(content)
    }

    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }

    /// As narinfos write it.
    pub fn hash(&self) -> String {
        format!("sha256:{}", base32(&self.sha256()))
    }
}

/// A path to push: its NAR as sent, and the lines of its narinfo, each of which a test may change
/// into a lie.
#[derive(Clone)]
pub struct Upload {
    pub store_path: String,
    pub nar: Vec<u8>,
    pub url: String,
    pub body: Vec<u8>,
    pub compression: String,
    pub nar_hash: String,
    pub nar_size: u64,
    pub references: Vec<String>,
    pub more: String,
}

impl Upload {
    /// An honest upload of `nar` under a store path with this name; the hash part is made from
    /// `seed`.
    pub fn honest(seed: u64, name: &str, nar: &Nar, codec: &Codec) -> Upload {
        let body = codec.compress(&nar.0);
        Upload {
            store_path: format!("/nix/store/{}-{name}", hash_part(seed)),
            nar: nar.0.clone(),
            url: format!("nar/{}.nar{}", base32(&Sha256::digest(&body)), codec.suffix),
            body,
            compression: codec.name.to_owned(),
            nar_hash: nar.hash(),
            nar_size: nar.0.len() as u64,
            references: Vec::new(),
            more: String::new(),
        }
    }

    pub fn hash_part(&self) -> &str {
        &self.store_path["/nix/store/".len()..][..32]
    }

    pub fn base_name(&self) -> &str {
        &self.store_path["/nix/store/".len()..]
    }

    pub fn narinfo_path(&self) -> String {
        format!("/push/{}.narinfo", self.hash_part())
    }

    pub fn nar_path(&self) -> String {
        format!("/push/{}", self.url)
    }

    /// FileHash and FileSize may be left out, and are where nobody has kept the body.
    pub fn narinfo(&self) -> String {
        let file = match self.body.as_slice() {
            [] => String::new(),
            body => format!(
                "FileHash: sha256:{}\nFileSize: {}\n",
                base32(&Sha256::digest(body)),
                body.len()
            ),
        };
        format!(
            "StorePath: {}\nURL: {}\nCompression: {}\n{file}NarHash: {}\nNarSize: {}\n\
             References: {}\n{}",
            self.store_path,
            self.url,
            self.compression,
            self.nar_hash,
            self.nar_size,
            self.references.join(" "),
            self.more,
        )
    }
}

/// A hash part that nobody else has: 32 characters of Nix's alphabet.
pub fn hash_part(seed: u64) -> String {
    let digest = Sha256::digest(format!("a store path of the tests: {seed}"));
    base32(&digest[..20])
}

/// Nix's base32, written from its description: five bits at a time, from the end.
pub fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let length = (bytes.len() * 8).div_ceil(5);
    let digit = |n: usize| {
        let (byte, bit) = (n * 5 / 8, n * 5 % 8);
        let low = u16::from(bytes[byte]) >> bit;
        let high = bytes
            .get(byte + 1)
            .map_or(0, |&b| u16::from(b) << (8 - bit));
        char::from(ALPHABET[usize::from((low | high) & 31)])
    };
    (0..length).rev().map(digit).collect()
}
