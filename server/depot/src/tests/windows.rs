//! Windows: what is sent of a NAR without being copied is what a copy would be.

use super::*;

/// Bytes of pieces, from memory or from where they lie.
fn bytes_of(chunks: &mut Chunks) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let window = chunks.window().expect("a window");
        if window.is_empty() {
            return bytes;
        }
        for piece in window {
            assert!(!piece.is_empty());
            match piece {
                Piece::Bytes(some) => bytes.extend_from_slice(&some),
                Piece::Run(run) => {
                    let before = bytes.len();
                    bytes.resize(before + run.len() as usize, 0);
                    run.read(&mut bytes[before..]).expect("read");
                    assert_eq!(run.cached_len(run.len()), run.len(), "just written");
                }
            }
        }
    }
}

#[test]
fn windows_over_files_are_slices_of_the_whole() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let depot = Depot::open(Options::new(folder.path())).expect("open");
    let nars = [
        nar_with('c', 4, 2_500_000),
        nar_of(&[0; 3_000_000]),
        nar_of(b"tiny"),
    ];
    for (number, bytes) in nars.iter().enumerate() {
        let name = format!("{number}.nar");
        let mut ingest = depot.ingest().expect("ingest");
        ingest.write(bytes).expect("write");
        ingest.finish(upload(&name)).expect("finish");
        let reader = depot.uploaded_nar(&cache(), &name).expect("look up");
        let reader = reader.expect("there");
        let encoded = collect(reader.encoded(0..u64::MAX));
        let mut random = noise(5, 300).into_iter().map(u64::from);
        let mut ranges = Vec::from([0..u64::MAX, 0..1]);
        while let (Some(a), Some(b), Some(c)) = (random.next(), random.next(), random.next()) {
            let start = (a * 64 + b) * 610;
            ranges.push(start..start + c * c * 20);
        }
        for range in ranges {
            for (whole, mut chunks) in [
                (bytes, reader.raw(range.clone())),
                (&encoded, reader.encoded(range.clone())),
                (&encoded, reader.encoded(range.clone()).lean()),
                (&encoded, reader.encoded(range.clone()).afresh()),
            ] {
                let end = usize::try_from(range.end)
                    .unwrap_or(usize::MAX)
                    .min(whole.len());
                let start = (range.start as usize).min(end);
                assert!(bytes_of(&mut chunks) == whole[start..end], "{range:?}");
            }
        }
    }
}
