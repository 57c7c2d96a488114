//! What a cache has: its narinfos, as it serves them, and where it says that the NARs are.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use snowcache_nix::NarInfo;

use super::target::Target;
use super::wire::Wire;

/// One path of a cache.
#[derive(Clone)]
pub struct Item {
    /// The 32 characters.
    pub hash: String,
    /// `<hash>-<name>`
    pub base_name: String,
    pub narinfo: Arc<[u8]>,
    pub url: String,
    pub compression: String,
    pub file_size: Option<u64>,
    /// Base32, without `sha256:`.
    pub nar_hash: String,
    pub nar_size: u64,
    /// Hash parts, itself not among them.
    pub references: Vec<String>,
}

/// Paths of a cache.
#[derive(Clone, Default)]
pub struct Catalog {
    pub items: Vec<Item>,
}

impl Catalog {
    /// The narinfos of these hash parts.
    pub fn read(target: &Target, hashes: &[String]) -> io::Result<Catalog> {
        super::block_on(async {
            let mut wire = target.connect().await?;
            let mut items = Vec::with_capacity(hashes.len());
            for hash in hashes {
                items.push(item(target, &mut wire, hash).await?);
            }
            Ok(Catalog { items })
        })
    }

    /// The narinfos of the closure of these hash parts.
    pub fn walk(target: &Target, roots: &[String]) -> io::Result<Catalog> {
        super::block_on(async {
            let mut wire = target.connect().await?;
            let (mut items, mut next) = (Vec::new(), roots.to_vec());
            let mut seen: BTreeSet<String> = roots.iter().cloned().collect();
            while let Some(hash) = next.pop() {
                let item = item(target, &mut wire, &hash).await?;
                let references = item.references.iter();
                next.extend(
                    references
                        .filter(|hash| seen.insert((*hash).clone()))
                        .cloned(),
                );
                items.push(item);
            }
            Ok(Catalog { items })
        })
    }

    pub fn nar_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.nar_size).sum()
    }

    pub fn file_bytes(&self) -> u64 {
        self.items.iter().filter_map(|item| item.file_size).sum()
    }

    /// As if the cache named uncompressed NARs: Snowcache serves each as `nar/<NarHash>.nar`.
    pub fn uncompressed(mut self) -> Catalog {
        for item in &mut self.items {
            item.url = format!("nar/{}.nar", item.nar_hash);
            item.compression = "none".to_owned();
            item.file_size = Some(item.nar_size);
        }
        self
    }
}

impl Item {
    pub fn narinfo_path(&self) -> String {
        format!("{}.narinfo", self.hash)
    }

    /// The bytes that a fetch of the NAR must bring, where that is known.
    pub fn body_bytes(&self) -> Option<u64> {
        match self.compression.as_str() {
            "none" => Some(self.nar_size),
            _ => self.file_size,
        }
    }

    pub fn parse(narinfo: &[u8]) -> Result<Item, String> {
        let text = str::from_utf8(narinfo).map_err(|error| error.to_string())?;
        let info = NarInfo::parse(text).map_err(|error| error.to_string())?;
        let base = |absolute: String| absolute["/nix/store/".len()..].to_owned();
        let base_name = base(info.store_path.absolute());
        let references = info.references.iter();
        let references = references.map(|path| base(path.absolute())[..32].to_owned());
        let hash = base_name[..32].to_owned();
        Ok(Item {
            references: references.filter(|other| *other != hash).collect(),
            hash,
            base_name,
            narinfo: narinfo.into(),
            url: info.url.to_owned(),
            compression: info.compression.to_string(),
            file_size: info.file_size,
            nar_hash: info.nar_hash.base32(),
            nar_size: info.nar_size,
        })
    }
}

async fn item(target: &Target, wire: &mut Wire, hash: &str) -> io::Result<Item> {
    let refused = |why: String| io::Error::other(format!("{}/{hash}.narinfo: {why}", target.url));
    let (status, body) = get(target, wire, &format!("{hash}.narinfo")).await?;
    if status != 200 {
        return Err(refused(format!("answered with {status}")));
    }
    let item = Item::parse(&body).map_err(refused)?;
    match item.hash == hash {
        true => Ok(item),
        false => Err(refused(format!("is about {}", item.base_name))),
    }
}

/// A whole small answer. A connection that the server closes is made again.
pub async fn get(target: &Target, wire: &mut Wire, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut body = Vec::new();
    wire.send(&target.request("GET", path, "")).await?;
    let answer = wire
        .receive(false, |piece| body.extend_from_slice(piece))
        .await?;
    if answer.closes {
        *wire = target.connect().await?;
    }
    Ok((answer.status, body))
}
