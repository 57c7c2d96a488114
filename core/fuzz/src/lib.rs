//! The law of each fuzz target: what must hold for any bytes. The targets run it, and so do the
//! crate's ordinary tests, over everything the fuzzers start from and ever broke.

use bytes::Bytes;
use snowcache_core::cut::{Cutter, Params, Sizes};
use snowcache_core::delta::{self, Delta, patch, script};
use snowcache_core::frame;
use snowcache_core::recipe::{Blocks, Recipe};
use snowcache_core::upload::{self, MAGIC, Reader};

/// A recipe or an error with a reason; and what decodes is the one encoding of what it says.
pub fn recipe(bytes: &[u8]) {
    match Recipe::decode(bytes) {
        Ok(recipe) => {
            assert_eq!(recipe.encode(), bytes);
            assert!(recipe.ops().len() <= bytes.len() / 2);
            let blocks = Blocks::open(bytes).expect("it decoded");
            assert_eq!(blocks.nar_size_bytes(), recipe.nar_size_bytes());
            assert_eq!(blocks.find(recipe.nar_size_bytes()), None);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// So small that a few hundred bytes see every rule at work.
const SMALL: Params = Params {
    literal_max_bytes: 120,
    span_min_bytes: 48,
    file_min_bytes: 300,
    span: Sizes {
        min: 96,
        avg: 256,
        max: 900,
    },
    dense: Sizes {
        min: 64,
        avg: 128,
        max: 500,
    },
};

/// However the bytes come, the pieces are the same, and together they are the bytes. The first two
/// bytes say how the rest is split and where a file lies.
pub fn cut(bytes: &[u8]) {
    let [step, file, nar @ ..] = bytes else {
        return;
    };
    let file = (u64::from(*file) * 3, 400);
    let whole = pieces(nar, nar.len().max(1), file);
    assert_eq!(pieces(nar, usize::from(*step) + 1, file), whole);
    assert_eq!(whole.concat(), nar);
    assert!(whole.iter().all(|piece| (1..=900).contains(&piece.len())));
}

fn pieces(nar: &[u8], step: usize, file: (u64, u64)) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut cutter = Cutter::new(SMALL);
    cutter.file(file.0, file.1);
    for bytes in nar.chunks(step) {
        cutter.push(bytes, &mut |piece| pieces.push(piece.raw().to_vec()));
    }
    cutter.finish(&mut |piece| pieces.push(piece.raw().to_vec()));
    pieces
}

/// Bytes are no stream, or one whose records are written as they were read; sealed as the payload
/// of one record (the first byte is its kind) the same holds; and as a frame they have a length.
pub fn upload(bytes: &[u8]) {
    read(bytes);
    if let [kind, payload @ ..] = bytes
        && payload.len() <= upload::RECORD_MAX_BYTES
    {
        let mut record = vec![*kind];
        record.extend((payload.len() as u32).to_le_bytes());
        record.extend(payload);
        let checksum = blake3::hash(&record);
        read(&[&MAGIC[..], &record, &checksum.as_bytes()[..8]].concat());
    }
    if let Some((raw_len, stored)) = bytes.split_first_chunk::<4>() {
        let raw_len = u32::from_le_bytes(*raw_len);
        match frame::check(stored, raw_len) {
            Ok(()) => assert!(stored.len() <= frame::stored_max_bytes(raw_len as usize)),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    if let Ok(ids) = upload::asked(bytes) {
        assert_eq!(upload::question(&ids), bytes);
    }
}

/// A question that is one is asked again by the same bytes; an answer holds no more deltas than
/// were asked for, in its own bytes; and a delta makes the NAR that it says (its size is in the
/// first four bytes) or is refused with a reason. A patch's runs rise, its pieces are bounded; a
/// script makes as much as it was asked for, and what it was made for.
pub fn delta(bytes: &[u8]) {
    if let Ok((runs, begin)) = patch::runs(bytes) {
        assert!(runs.len() * 2 < begin as usize && begin <= bytes.len() as u64);
        assert!(runs.is_sorted_by(|a, b| a.end <= b.start));
    }
    if let Ok((head, taken)) = patch::Head::decode(bytes) {
        assert_eq!(head.encode(), &bytes[..taken]);
        assert!(head.raw_len <= patch::MAX_PIECE_BYTES);
        assert!(head.script_len <= patch::MAX_SCRIPT_BYTES);
        assert!(head.old.end - head.old.start <= patch::MAX_OLD_BYTES);
    }
    match delta::asked(bytes) {
        Ok(pairs) => assert_eq!(delta::question(&pairs), bytes),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let answer = Bytes::copy_from_slice(bytes);
    match delta::answered(&answer, 3) {
        Ok(deltas) => {
            assert_eq!(deltas.len(), 3);
            let sum: usize = deltas.iter().flatten().map(Bytes::len).sum();
            assert!(sum < bytes.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let Some((size, encoded)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let size = u64::from(u32::from_le_bytes(*size));
    let (old, new) = encoded.split_at(encoded.len() / 2);
    let some = size.min(1 << 20) as usize;
    match script::apply(new, old, some) {
        Ok(made) => assert_eq!(made.len(), some),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let script = script::Old::new(old.to_vec()).script(new);
    assert!(script.len() as u64 <= new.len() as u64 + script::MAX_MORE_BYTES);
    assert_eq!(script::apply(&script, old, new.len()).as_deref(), Ok(new));
    match Delta::decode(&answer.slice(4..), size) {
        Ok(delta) => {
            assert_eq!(delta.encode(), encoded);
            assert_eq!(delta.parts.iter().map(|part| part.len()).sum::<u64>(), size);
            assert!(delta.parts.len() * 2 <= encoded.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn read(bytes: &[u8]) {
    let (mut reader, mut written) = (Reader::new(bytes), MAGIC.to_vec());
    loop {
        match reader.read() {
            Ok(record) => record.put(&mut written),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        }
        assert!(bytes.starts_with(&written));
    }
}
