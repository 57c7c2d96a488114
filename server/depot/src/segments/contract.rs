//! What every [`Segments`] must do, as one suite that each implementation runs.

use std::io::ErrorKind;

use super::{SegmentId, Segments};

/// Runs the whole suite; `make` returns a new, empty set of segments each time.
///
/// # Panics
/// Where the implementation breaks the contract, saying how.
pub fn suite(make: impl Fn() -> Box<dyn Segments>) {
    appended_bytes_read_back(&*make());
    what_was_flushed_outlives_its_writer(&*make());
    listing_is_sorted_and_exact(&*make());
    creating_twice_is_refused(&*make());
    a_tail_is_cut_off_and_written_anew(&*make());
    reading_past_the_end_says_so(&*make());
    removed_is_gone(&*make());
}

fn write(segments: &dyn Segments, id: u32, bytes: &[u8]) {
    let mut writer = segments.append(SegmentId(id), 0).expect("create");
    writer.append(bytes).expect("append");
    writer.sync().expect("sync");
}

fn read(segments: &dyn Segments, id: u32, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    segments
        .read(SegmentId(id), offset, &mut buf)
        .expect("read");
    buf
}

fn appended_bytes_read_back(segments: &dyn Segments) {
    let mut writer = segments.append(SegmentId(1), 0).expect("create");
    let big = vec![7u8; 700_000];
    writer.append(b"first ").expect("append");
    writer.append(&big).expect("append");
    writer.sync().expect("sync");
    writer.append(b" last").expect("append");
    writer.sync().expect("sync");
    assert_eq!(read(segments, 1, 0, 6), b"first ");
    assert_eq!(read(segments, 1, 6, big.len()), big);
    assert_eq!(read(segments, 1, 700_006, 5), b" last");
}

fn what_was_flushed_outlives_its_writer(segments: &dyn Segments) {
    let mut writer = segments.append(SegmentId(2), 0).expect("create");
    writer.append(b"flushed").expect("append");
    writer.flush().expect("flush");
    drop(writer);
    assert_eq!(segments.list().expect("list"), [(SegmentId(2), 7)]);
    assert_eq!(read(segments, 2, 0, 7), b"flushed");
}

fn listing_is_sorted_and_exact(segments: &dyn Segments) {
    assert!(
        segments.list().expect("list").is_empty(),
        "a new set must be empty"
    );
    for id in [12, 3, 4_000_000_000] {
        write(segments, id, &vec![0; id as usize % 100]);
    }
    let listed = segments.list().expect("list");
    assert_eq!(
        listed,
        [
            (SegmentId(3), 3),
            (SegmentId(12), 12),
            (SegmentId(4_000_000_000), 0)
        ]
    );
}

fn creating_twice_is_refused(segments: &dyn Segments) {
    write(segments, 5, b"here");
    let error = segments
        .append(SegmentId(5), 0)
        .err()
        .expect("a second creation must fail");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

fn a_tail_is_cut_off_and_written_anew(segments: &dyn Segments) {
    write(segments, 6, b"kept torn");
    let mut writer = segments
        .append(SegmentId(6), 5)
        .expect("append behind 5 bytes");
    writer.append(b"draft").expect("append");
    writer.truncate(7).expect("cut inside what was appended");
    writer.append(b"!").expect("append");
    writer.sync().expect("sync");
    assert_eq!(read(segments, 6, 0, 8), b"kept dr!");
    writer.truncate(2).expect("cut behind what was synced");
    writer.sync().expect("sync");
    assert_eq!(segments.list().expect("list"), [(SegmentId(6), 2)]);
}

fn reading_past_the_end_says_so(segments: &dyn Segments) {
    write(segments, 7, b"short");
    let error = segments
        .read(SegmentId(7), 3, &mut [0; 3])
        .expect_err("3 bytes at 3 of 5");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    let error = segments
        .read(SegmentId(8), 0, &mut [0; 1])
        .expect_err("no such segment");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

fn removed_is_gone(segments: &dyn Segments) {
    write(segments, 9, b"gone");
    assert_eq!(read(segments, 9, 0, 4), b"gone");
    segments.remove(SegmentId(9)).expect("remove");
    assert!(segments.list().expect("list").is_empty());
    assert_eq!(
        segments.remove(SegmentId(9)).expect_err("twice").kind(),
        ErrorKind::NotFound
    );
    let error = segments
        .read(SegmentId(9), 0, &mut [0; 1])
        .expect_err("read after removal");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
