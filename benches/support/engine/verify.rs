//! The verification pass: every NAR of a catalog is fetched once, unpacked and hashed, so that no
//! figure is about wrong bytes.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::super::harness::nar::base32;
use super::catalog::{Catalog, Item};
use super::target::Target;
use super::wire::Wire;

/// Fetches and hashes everything, and checks each narinfo's hash against its NAR; says how many
/// NAR bytes there were, or what was wrong first.
pub fn verify(target: &Target, catalog: &Catalog) -> Result<u64, String> {
    super::block_on(async {
        let unreachable = |error: io::Error| format!("{}: {error}", target.url);
        let mut wire = target.connect().await.map_err(unreachable)?;
        for item in &catalog.items {
            let named = |why: String| format!("{}/{}: {why}", target.url, item.url);
            one(target, &mut wire, item).await.map_err(named)?;
        }
        Ok(catalog.nar_bytes())
    })
}

async fn one(target: &Target, wire: &mut Wire, item: &Item) -> Result<(), String> {
    let mut unpacked = Unpacked::of(&item.compression)?;
    let mut failure = None;
    let sent = wire.send(&target.request("GET", &item.url, "")).await;
    sent.map_err(|error| error.to_string())?;
    let answer = wire.receive(false, |piece| {
        if failure.is_none() {
            failure = unpacked.write(piece).err();
        }
    });
    let answer = answer.await.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("answered with {}", answer.status));
    }
    if let Some(error) = failure {
        return Err(format!("does not unpack: {error}"));
    }
    if item
        .body_bytes()
        .is_some_and(|expected| expected != answer.body_bytes)
    {
        return Err(format!(
            "{} bytes, the narinfo says {:?}",
            answer.body_bytes, item.file_size
        ));
    }
    let (hash, size) = unpacked.finish().map_err(|error| error.to_string())?;
    if (base32(&hash), size) != (item.nar_hash.clone(), item.nar_size) {
        return Err(format!(
            "unpacks to {size} bytes with SHA-256 {}, the narinfo says {} and {}",
            base32(&hash),
            item.nar_size,
            item.nar_hash
        ));
    }
    if answer.closes {
        *wire = target.connect().await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Hashes what it is given, unpacked.
enum Unpacked {
    Plain(Hashed),
    Zstd(Box<zstd::stream::write::Decoder<'static, Hashed>>),
}

#[derive(Default)]
struct Hashed(Sha256, u64);

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        self.1 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Unpacked {
    fn of(compression: &str) -> Result<Unpacked, String> {
        match compression {
            "none" => Ok(Unpacked::Plain(Hashed::default())),
            "zstd" => {
                let decoder = zstd::stream::write::Decoder::new(Hashed::default());
                Ok(Unpacked::Zstd(Box::new(
                    decoder.map_err(|error| error.to_string())?,
                )))
            }
            other => Err(format!(
                "compression {other}: only zstd and none are verified here"
            )),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Unpacked::Plain(hashed) => hashed.write_all(bytes),
            Unpacked::Zstd(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<([u8; 32], u64)> {
        let hashed = match self {
            Unpacked::Plain(hashed) => hashed,
            Unpacked::Zstd(mut decoder) => {
                decoder.flush()?;
                decoder.into_inner()
            }
        };
        Ok((hashed.0.finalize().into(), hashed.1))
    }
}
