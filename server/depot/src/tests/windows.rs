//! Windows: what is sent of a NAR without being copied is what a copy would be.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use super::collect::{DAY, strict};
use super::*;

/// Bytes of pieces, from memory or from where they lie.
fn bytes_of(chunks: &mut Chunks) -> Vec<u8> {
    bytes_of_windows(|| chunks.window().expect("a window"))
}

/// The same of windows until one is empty.
fn bytes_of_windows(mut next: impl FnMut() -> VecDeque<Piece>) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let window = next();
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

#[test]
fn what_takes_no_wait_is_the_same_bytes_and_only_what_was_checked() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let time = Arc::new(AtomicU64::new(1_700_000_000));
    let clock = time.clone();
    let depot = Depot::open(Options {
        clock: Arc::new(move || clock.load(Ordering::Relaxed)),
        ..Options::new(folder.path())
    });
    let depot = depot.expect("open");
    let mut ingest = depot.ingest().expect("ingest");
    let bytes = nar_with('c', 4, 2_500_000);
    ingest.write(&bytes).expect("write");
    let nar = ingest.finish(upload("1.nar")).expect("finish");
    let publish = || depot.publish(&cache(), signed(path(1, nar, &[]), nar), "tester");
    publish().expect("publish");
    let keep = || {
        let kept = depot
            .keep_nar(&cache(), &nar.nar_hash, None)
            .expect("look up");
        kept.expect("visible")
    };
    let at_once = |reader: &NarReader, range: std::ops::Range<u64>| {
        let mut chunks = reader.encoded(range);
        bytes_of_windows(|| chunks.window_at_once())
    };
    let unknown = keep().made().clone();
    let kept = keep().with_layout().expect("read");
    let reader = kept.made().clone();
    assert!(reader.is_known() && reader.known_bytes() > 0 && !unknown.is_known());
    assert!(
        at_once(&reader, 0..u64::MAX).is_empty(),
        "nothing is checked"
    );

    let encoded = collect(reader.encoded(0..u64::MAX));
    assert!(at_once(&reader, 0..u64::MAX) == encoded);
    assert!(at_once(&reader, 70_000..1_234_567) == encoded[70_000..1_234_567]);
    assert!(
        at_once(&unknown, 0..u64::MAX).is_empty(),
        "it has to be looked up"
    );
    assert!(
        reader.raw(0..u64::MAX).window_at_once().is_empty(),
        "unpacking takes its time"
    );
    assert!(reader.encoded(0..9).afresh().window_at_once().is_empty());

    let hash = path(1, nar, &[]).store_path.hash();
    let removal = depot.remove_paths(&cache(), &[hash], "tester", false);
    assert_eq!(removal.expect("remove").removed.len(), 1);
    while depot
        .nar(&cache(), &nar.nar_hash)
        .expect("look up")
        .is_some()
    {
        time.fetch_add(DAY, Ordering::Relaxed);
        let collected = depot.collect(&strict(), false, &mut |_| {});
        collected.expect("collect");
    }
    assert!(depot.still_nar(&kept).is_none());
    assert!(
        at_once(&reader, 0..u64::MAX).is_empty(),
        "nobody knows where"
    );
}
