//! Streams as they come from caches: whole, split anywhere, joined, cut, damaged, and bombs.

use super::*;
use futures::TryStreamExt;
use futures::stream::iter;
use std::io::Write;

async fn unpacked(codec: Compression, packed: &[u8], piece: usize) -> Result<Vec<u8>, Error> {
    let pieces: Vec<_> = packed
        .chunks(piece)
        .map(|it| Ok(Bytes::copy_from_slice(it)))
        .collect();
    let chunks: Vec<Bytes> = unpack("u".to_owned(), codec, iter(pieces))?
        .try_collect()
        .await?;
    let bounded = chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES);
    assert!(bounded || codec == Compression::None);
    Ok(chunks.concat())
}

fn packed(codec: Compression, content: &[u8]) -> Vec<u8> {
    match codec {
        Compression::Zstd => zstd::bulk::compress(content, 3).expect("packs"),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(content).expect("packs");
            encoder.finish().expect("packs")
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(content).expect("packs");
            encoder.finish().expect("packs")
        }
        _ => content.to_vec(),
    }
}

const CODECS: [Compression; 3] = [Compression::Zstd, Compression::Xz, Compression::Bzip2];

fn content() -> Vec<u8> {
    (0..700_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8)
        .collect()
}

#[tokio::test]
async fn any_split_gives_the_same_bytes() {
    let content = content();
    for codec in CODECS.into_iter().chain([Compression::None]) {
        let packed = packed(codec, &content);
        for piece in [packed.len(), 65_536, 4_099] {
            let unpacked = unpacked(codec, &packed, piece).await.expect("whole");
            assert!(unpacked == content, "{codec} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn streams_one_after_another_are_one() {
    let (one, two) = (b"one, ".as_slice(), b"two".as_slice());
    for codec in CODECS {
        let joined = [packed(codec, one), packed(codec, two)].concat();
        for piece in [joined.len(), 1] {
            assert_eq!(
                unpacked(codec, &joined, piece).await.expect("whole"),
                b"one, two"
            );
        }
    }
}

#[tokio::test]
async fn what_is_cut_or_damaged_is_an_error() {
    let content = content();
    for codec in CODECS {
        let whole = packed(codec, &content);
        let cut = unpacked(codec, &whole[..whole.len() - 9], 5_000)
            .await
            .expect_err("cut");
        assert_eq!(cut.kind(), Kind::Corrupt, "{cut}");
        let empty = unpacked(codec, &[], 1)
            .await
            .expect_err("nothing is no stream");
        assert!(empty.to_string().contains("cut short"), "{codec}: {empty}");
        let mut damaged = whole.clone();
        damaged[2] ^= 0xff;
        let damaged = unpacked(codec, &damaged, 5_000).await.expect_err("damaged");
        assert!(
            damaged.to_string().contains("damaged"),
            "{codec}: {damaged}"
        );
        let trailing = [whole, b"and then some".to_vec()].concat();
        assert!(
            unpacked(codec, &trailing, 5_000).await.is_err(),
            "{codec}: trailing bytes"
        );
    }
}

#[tokio::test]
async fn a_codec_that_we_do_not_have_is_named() {
    let error = unpacked(Compression::Lzip, b"x", 1)
        .await
        .expect_err("not there");
    assert!(
        error.to_string().contains("does not unpack lzip"),
        "{error}"
    );
}
