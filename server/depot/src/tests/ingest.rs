//! NARs go in and come out as they were.

use super::*;

#[test]
fn a_nar_comes_back_byte_for_byte_raw_and_encoded() {
    let bench = Bench::new();
    let nars = [
        nar_of(b""),
        nar_of(b"tiny"),
        nar_with('a', 1, 3_000_000),
        nar_of(&[0; 5_000_000]),
    ];
    for (number, bytes) in nars.iter().enumerate() {
        let nar = bench.put(&format!("{number}.nar"), bytes);
        assert_eq!(nar.nar_size_bytes, bytes.len() as u64);
        bench
            .publish(path(number as u8, nar, &[]))
            .expect("publish");
        let reader = bench
            .depot
            .nar(&cache(), &nar.nar_hash)
            .expect("look up")
            .expect("visible");
        assert_eq!(collect(reader.raw(0..u64::MAX)), *bytes);
        let encoded = collect(reader.encoded(0..u64::MAX));
        assert_eq!(encoded.len() as u64, reader.encoding().size_bytes);
        assert_eq!(
            zstd::stream::decode_all(&encoded[..]).expect("zstd"),
            *bytes
        );
    }
}

#[test]
fn any_range_is_a_slice_of_the_whole() {
    let bench = Bench::new();
    let bytes = nar_with('b', 2, 2_500_000);
    let nar = bench.put("x.nar", &bytes);
    let reader = bench
        .depot
        .uploaded_nar(&cache(), "x.nar")
        .expect("look up")
        .expect("there");
    let encoded = collect(reader.encoded(0..u64::MAX));
    let mut random = noise(3, 400).into_iter().map(u64::from);
    while let (Some(a), Some(b), Some(c)) = (random.next(), random.next(), random.next()) {
        let start = (a * 64 + b) * 610;
        let range = start..start + c * c * 20;
        for (whole, part) in [
            (&bytes, collect(reader.raw(range.clone()))),
            (&encoded, collect(reader.encoded(range.clone()))),
        ] {
            let end = (range.end as usize).min(whole.len());
            let start = (range.start as usize).min(end);
            assert_eq!(part, whole[start..end], "{range:?} of {}", whole.len());
        }
    }
    assert_eq!(nar.nar_size_bytes, bytes.len() as u64);
}

#[test]
fn a_rebuild_adds_next_to_nothing() {
    let bench = Bench::new();
    bench.put("1.nar", &nar_with('a', 7, 4_000_000));
    let first = bench.total_bytes();
    bench.put("2.nar", &nar_with('b', 7, 4_000_000));
    let second = bench.total_bytes() - first;
    assert!(
        second < first / 100,
        "the second generation added {second} to {first} bytes"
    );
}

#[test]
fn the_same_nar_again_adds_a_name_only() {
    let bench = Bench::new();
    let bytes = nar_with('c', 8, 1_000_000);
    let nar = bench.put("1.nar", &bytes);
    let before = bench.depot.stats().expect("stats");
    assert_eq!(bench.put("2.nar", &bytes), nar);
    let after = bench.depot.stats().expect("stats");
    assert!(after.segment_bytes - before.segment_bytes < 500);
    assert_eq!((after.nars, after.frames), (before.nars, before.frames));
    assert_eq!(after.uploads, before.uploads + 1);
}

#[test]
fn what_is_no_nar_is_refused_at_once_and_leaves_nothing() {
    let bench = Bench::new();
    bench.put("good.nar", &nar_with('d', 9, 500_000));
    let before = (bench.total_bytes(), bench.depot.stats().expect("stats"));
    let good = nar_with('e', 10, 3_000_000);

    let mut cut = bench.depot.ingest().expect("ingest");
    cut.write(&good[..good.len() - 8])
        .expect("all of it is canonical so far");
    let error = cut
        .finish(upload("cut.nar"))
        .expect_err("it is not complete");
    assert_eq!(error.kind(), ErrorKind::BadNar, "{error}");

    let mut trailing = bench.depot.ingest().expect("ingest");
    trailing.write(&good).expect("write");
    let error = trailing.write(b"x").expect_err("behind the end");
    assert_eq!(error.kind(), ErrorKind::BadNar, "{error}");
    drop(trailing);

    let mut abandoned = bench.depot.ingest().expect("ingest");
    abandoned.write(&good).expect("write");
    drop(abandoned);
    assert_eq!(
        (bench.total_bytes(), bench.depot.stats().expect("stats")),
        before
    );
}

#[test]
fn uploads_at_the_same_time_do_not_mix() {
    let bench = Bench::new();
    let nars: Vec<_> = (0..8)
        .map(|n| nar_with(digit(n % 3), u64::from(n / 2), 1_500_000))
        .collect();
    std::thread::scope(|scope| {
        for (number, bytes) in nars.iter().enumerate() {
            let bench = &bench;
            scope.spawn(move || {
                let nar = bench.put(&format!("{number}.nar"), bytes);
                bench
                    .publish(path(number as u8, nar, &[]))
                    .expect("publish");
            });
        }
    });
    for (number, bytes) in nars.iter().enumerate() {
        let name = format!("{number}.nar");
        let reader = bench
            .depot
            .uploaded_nar(&cache(), &name)
            .expect("look up")
            .expect("there");
        assert!(collect(reader.raw(0..u64::MAX)) == *bytes, "NAR {number}");
    }
}

#[test]
fn damaged_bytes_are_an_error_never_an_answer() {
    let bench = Bench::new();
    let bytes = nar_with('f', 11, 1_000_000);
    let nar = bench.put("1.nar", &bytes);
    bench.publish(path(1, nar, &[])).expect("publish");
    let (id, len) = bench.segments.list().expect("list")[0];
    for at in [200, len / 3, len / 2] {
        let segments = bench.segments.damaged(id, at);
        let reader = bench
            .depot
            .nar(&cache(), &nar.nar_hash)
            .expect("look up")
            .expect("visible");
        let error = reader
            .encoded(0..u64::MAX)
            .find_map(Result::err)
            .expect("an error");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let error = reader
            .raw(0..u64::MAX)
            .find_map(Result::err)
            .expect("an error");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        segments.damaged(id, at); // undoes it
        bench.put("1.nar", &bytes);
    }
}

#[test]
fn the_cost_of_a_nar_counts_every_byte_of_it_once() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_with('g', 12, 2_000_000));
    let reader = bench
        .depot
        .uploaded_nar(&cache(), "1.nar")
        .expect("look up")
        .expect("there");
    let cost = reader.cost().expect("cost");
    let raw = cost.span_bytes + cost.dense_bytes + cost.literal_bytes;
    assert_eq!(raw, nar.nar_size_bytes);
    assert!(cost.literals > 30 && cost.spans > 30, "{cost:?}");
    assert!(cost.frame_bytes + cost.recipe_bytes < bench.total_bytes());
}
