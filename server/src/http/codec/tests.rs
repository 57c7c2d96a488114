//! What each codec takes and refuses, by its own encoder and by hand.

use super::decode::{DecodeError, decode};
use super::encode::Encoded;
use super::sniff::{HEAD_BYTES, SniffError, sniff};
use super::*;
use bytes::Bytes;
use std::io::{self, BufReader, Read};

const ALL: [Codec; 8] = [
    Codec::None,
    Codec::Xz,
    Codec::Bzip2,
    Codec::Gzip,
    Codec::Zstd,
    Codec::Brotli,
    Codec::Lzip,
    Codec::Lz4,
];
const MEMORY_BYTES: u64 = 128 << 20;

/// Text that packs, noise that does not, and a long run of zeros: 900 kB beginning like a NAR.
fn sample() -> Vec<u8> {
    let mut bytes = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0".to_vec();
    let mut state = 1_u64;
    for number in 0..30_000_u64 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(number);
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"and the same words again");
    }
    bytes.extend(vec![0; 30_000]);
    bytes
}

fn pack(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    let chunks = bytes
        .chunks(100_000)
        .map(|chunk| Ok::<_, io::Error>(Bytes::copy_from_slice(chunk)));
    let packed: Result<Vec<Bytes>, _> = Encoded::new(codec, chunks).expect("an encoder").collect();
    packed.expect("packs").concat()
}

fn unpack_by(
    capacity: usize,
    codec: Codec,
    packed: &[u8],
) -> Result<Vec<u8>, DecodeError<io::Error>> {
    let mut unpacked = Vec::new();
    let mut input = BufReader::with_capacity(capacity, packed);
    decode(codec, &mut input, MEMORY_BYTES, &mut |bytes| {
        unpacked.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(unpacked)
}

fn unpack(codec: Codec, packed: &[u8]) -> Result<Vec<u8>, DecodeError<io::Error>> {
    unpack_by(8 << 10, codec, packed)
}

#[test]
fn what_was_packed_unpacks_however_the_input_is_split() {
    let sample = sample();
    for codec in ALL {
        let packed = pack(codec, &sample);
        assert!(
            codec == Codec::None || packed.len() < sample.len(),
            "{codec} packs"
        );
        for capacity in [7, 4096, 1 << 20] {
            let unpacked = unpack_by(capacity, codec, &packed).expect("unpacks");
            assert!(unpacked == sample, "{codec} by {capacity} bytes");
        }
    }
}

#[test]
fn the_first_bytes_tell_the_codec_and_the_name_must_agree() {
    for codec in ALL {
        let packed = pack(codec, &sample());
        let head = &packed[..HEAD_BYTES];
        let suffix = match codec {
            Codec::None | Codec::Gzip => "",
            Codec::Xz => ".xz",
            Codec::Bzip2 => ".bz2",
            Codec::Zstd => ".zst",
            Codec::Brotli => ".br",
            Codec::Lzip => ".lzip",
            _ => ".lz4",
        };
        assert_eq!(sniff(head, &format!("x.nar{suffix}")), Ok(codec));
        if codec != Codec::Brotli {
            assert_eq!(sniff(head, "x.nar"), Ok(codec), "the name need not say it");
            let wrong = if codec == Codec::Xz {
                "x.nar.zst"
            } else {
                "x.nar.xz"
            };
            assert!(
                matches!(sniff(head, wrong), Err(SniffError::Contradicts { .. })),
                "{codec}"
            );
        }
    }
    assert_eq!(sniff(b"", "x.nar"), Err(SniffError::Empty));
    assert_eq!(sniff(b"<html>not found", "x.nar"), Err(SniffError::Unknown));
    assert_eq!(
        sniff(b"\x53\x2a\x4d\x18\x00\x00", "x.nar.zst"),
        Ok(Codec::Zstd)
    );
}

#[test]
fn members_in_a_row_are_one_stream() {
    let sample = sample();
    for codec in [
        Codec::Xz,
        Codec::Bzip2,
        Codec::Gzip,
        Codec::Zstd,
        Codec::Lzip,
        Codec::Lz4,
    ] {
        let packed = [pack(codec, &sample[..5000]), pack(codec, &sample[5000..])].concat();
        assert!(
            unpack(codec, &packed).expect("unpacks") == sample,
            "{codec}"
        );
    }
}

#[test]
fn garbage_behind_the_end_is_refused() {
    for codec in ALL.into_iter().filter(|&codec| codec != Codec::None) {
        for garbage in [
            &b"\0"[..],
            b"x",
            b"garbage that is long enough to be something",
        ] {
            let packed = [&pack(codec, &sample()), garbage].concat();
            assert!(
                unpack(codec, &packed).is_err(),
                "{codec} followed by {garbage:?}"
            );
        }
    }
}

#[test]
fn a_stream_cut_anywhere_is_refused() {
    for codec in ALL.into_iter().filter(|&codec| codec != Codec::None) {
        let packed = pack(codec, &sample()[..3000]);
        for kept in 0..packed.len() {
            assert!(
                unpack(codec, &packed[..kept]).is_err(),
                "{codec} cut to {kept} of {}",
                packed.len()
            );
        }
    }
}

#[test]
fn a_flipped_bit_never_panics() {
    for codec in ALL {
        let packed = pack(codec, &sample()[..3000]);
        for place in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[place] ^= 0x55;
            // Some flips go unseen by codecs without a checksum; the NarHash is what notices those.
            drop(unpack(codec, &damaged));
        }
    }
}

#[test]
fn streams_that_ask_for_too_much_memory_are_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(28).expect("a window of 256 MiB");
    io::copy(&mut io::repeat(0).take(1000), &mut encoder).expect("packs");
    let packed = encoder.finish().expect("packs");
    assert!(matches!(
        unpack(Codec::Zstd, &packed),
        Err(DecodeError::Stream(Codec::Zstd, _))
    ));

    // lzip codes its dictionary size in the sixth byte: 2^29 bytes here.
    let header_only = [&b"LZIP\x01"[..], &[29], &[0; 64]].concat();
    assert!(matches!(
        unpack(Codec::Lzip, &header_only),
        Err(DecodeError::Stream(Codec::Lzip, _))
    ));
}

#[test]
fn a_sink_that_has_enough_stops_a_bomb_at_once() {
    let zeros = vec![0; 8 << 20];
    for codec in ALL {
        let packed = pack(codec, &zeros);
        let mut seen = 0;
        let stopped = decode(
            codec,
            &mut &packed[..],
            MEMORY_BYTES,
            &mut |bytes: &[u8]| {
                seen += bytes.len();
                if seen > 1 << 20 {
                    Err("enough")
                } else {
                    Ok(())
                }
            },
        );
        assert!(
            matches!(stopped, Err(DecodeError::Sink("enough"))),
            "{codec}"
        );
        assert!(
            codec == Codec::None || seen <= 2 << 20,
            "{codec} gave {seen} bytes"
        );
    }
}
