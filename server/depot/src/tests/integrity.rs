//! Bits rot: what is damaged is found, not served, and comes back when it is pushed again.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::*;
use snowcache_core::recipe::FrameId;

use crate::record::Header;
use crate::segments::SegmentId;

/// Everything, as fast as it goes.
const ALL: Scrub = Scrub {
    subset: None,
    rate_bytes_per_s: None,
};

impl Bench {
    pub(super) fn scrub(&self) -> Scrubbed {
        let go_on = &mut |_| ControlFlow::Continue(());
        self.depot.scrub(&ALL, go_on).expect("scrub")
    }

    /// Whether the path number `number` is visible, asked in every way there is.
    pub(super) fn shows(&self, number: u8, nar: Nar) -> bool {
        let hash = path(number, nar, &[]).store_path.hash();
        let depot = &self.depot;
        let listed = depot.paths(&cache(), None, 100).expect("list");
        let answers = [
            depot.path(&cache(), &hash).expect("path").is_some(),
            depot.has(&cache(), &[hash]).expect("has")[0],
            listed.iter().any(|path| path.hash() == hash),
        ];
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "path {number}: narinfo, missing and list disagree: {answers:?}"
        );
        answers[0]
    }

    /// Waits until the path number `number` is gone, by one question at a time: it may fall sick
    /// between two of them.
    pub(super) fn wait_until_gone(&self, number: u8, nar: Nar) {
        let hash = path(number, nar, &[]).store_path.hash();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.depot.has(&cache(), &[hash]).expect("has")[0] {
            assert!(Instant::now() < deadline, "path {number} stays visible");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!self.shows(number, nar));
    }

    /// Where every frame record lies.
    fn frames(&self) -> Vec<(SegmentId, u64, u64)> {
        let frames = self.named_frames();
        frames.into_iter().map(|(_, place)| place).collect()
    }

    pub(super) fn named_frames(&self) -> Vec<(FrameId, (SegmentId, u64, u64))> {
        let mut found = Vec::new();
        for (id, len) in self.segments.list().expect("list") {
            let mut bytes = vec![0; len as usize];
            self.segments.read(id, 0, &mut bytes).expect("read");
            let mut at = 0;
            while at < bytes.len() {
                let header = Header::decode(&bytes[at..]).expect("a header");
                let end = at + header.header_len() + header.body_len() as usize;
                if let Header::Frame(frame) = header {
                    found.push((frame.id, (id, at as u64, end as u64)));
                }
                at = end;
            }
        }
        found
    }
}

/// Two paths that share most of their frames, and one of its own.
fn filled() -> (Bench, Vec<(Nar, Vec<u8>)>) {
    let bench = Bench::new();
    let bytes = [
        nar_with('a', 1, 900_000),
        nar_with('b', 1, 900_000),
        nar_of(b"small"),
    ];
    let mut nars = Vec::new();
    for (number, bytes) in bytes.into_iter().enumerate() {
        let nar = bench.put(&format!("{number}.nar"), &bytes);
        bench
            .publish(path(number as u8, nar, &[]))
            .expect("publish");
        nars.push((nar, bytes));
    }
    (bench, nars)
}

#[test]
fn a_healthy_depot_is_read_to_its_last_byte() {
    let (bench, nars) = filled();
    let scrubbed = bench.scrub();
    assert_eq!(scrubbed.damaged, 0);
    assert_eq!(scrubbed.bytes, bench.total_bytes());
    assert_eq!(scrubbed.frames, bench.frames().len() as u64);
    assert!((0..3).all(|number| bench.shows(number, nars[number as usize].0)));
}

#[test]
fn damage_is_not_served_and_one_push_heals_all_that_lacked_only_it() {
    let (bench, nars) = filled();
    let (id, from, to) = bench.frames()[3];
    bench.segments.damaged(id, (from + to) / 2);
    let scrubbed = bench.scrub();
    assert_eq!(
        (scrubbed.damaged, scrubbed.sick_nars),
        (1, 2),
        "{scrubbed:?}"
    );
    assert_eq!(scrubbed.lost_paths, 2);
    // A restart knows it still; a new index leaves them out by itself.
    let bench = bench.restarted();
    assert_eq!(bench.depot.stats().expect("stats").sick_nars, 2);
    for (number, (nar, _)) in nars.iter().enumerate() {
        assert_eq!(bench.shows(number as u8, *nar), number == 2);
        assert_eq!(bench.raw(nar).is_some(), number == 2);
        let name = format!("{number}.nar");
        let uploaded = bench.depot.uploaded_nar(&cache(), &name).expect("look up");
        assert_eq!(uploaded.is_some(), number == 2);
    }
    let referrer = path(7, nars[2].0, &[0]);
    let refused = bench
        .publish(referrer.clone())
        .expect_err("an open closure");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let refused = bench.publish(path(8, nars[0].0, &[])).expect_err("no NAR");
    assert_eq!(refused.kind(), ErrorKind::Refused);

    bench.put("0.nar", &nars[0].1);
    assert_eq!(bench.depot.stats().expect("stats").sick_nars, 0);
    for (number, (nar, bytes)) in nars.iter().enumerate() {
        assert!(bench.shows(number as u8, *nar), "path {number} is back");
        assert_eq!(bench.raw(nar).as_ref(), Some(bytes));
    }
    bench.publish(referrer).expect("the closure is whole again");
    for bench in [bench.restarted(), Bench::new()].into_iter().take(1) {
        let bench = bench.reopened();
        for (nar, bytes) in &nars {
            assert_eq!(
                bench.raw(nar).as_ref(),
                Some(bytes),
                "from the segments alone"
            );
        }
    }
}

#[test]
fn a_read_that_meets_damage_takes_it_out_of_use_for_everyone() {
    let (bench, nars) = filled();
    let (id, from, _) = bench.frames()[4];
    bench.segments.damaged(id, from + 100);
    let reader = bench.depot.nar(&cache(), &nars[0].0.nar_hash);
    let reader = reader.expect("look up").expect("not known yet");
    let error = reader.encoded(0..u64::MAX).find_map(Result::err);
    assert_eq!(error.expect("an error").kind(), ErrorKind::Corrupt);
    assert!(!bench.shows(0, nars[0].0));
    bench.wait_until_gone(1, nars[1].0);
    bench.put("1.nar", &nars[1].1);
    assert!(bench.shows(0, nars[0].0) && bench.shows(1, nars[1].0));
    assert_eq!(bench.raw(&nars[0].0).as_ref(), Some(&nars[0].1));
}

#[test]
fn another_copy_of_a_frame_is_used_and_found() {
    let content = noise(9, 12_000_000);
    let twins: Vec<Vec<u8>> = ["first", "second"]
        .iter()
        .map(|name| {
            let mut writer = Writer::new(Vec::new());
            writer.directory().expect("folder");
            writer.entry(name.as_bytes()).expect("entry");
            writer.file(false, content.len() as u64).expect("file");
            writer.data(&content).expect("data");
            writer.end_directory().expect("folder");
            writer.finish().expect("finish")
        })
        .collect();
    for victim in [0, 1] {
        let bench = Bench::new();
        // At the same time, so that each stores the frames that they share.
        let mut ingests: Vec<_> = (0..2)
            .map(|_| bench.depot.ingest().expect("ingest"))
            .collect();
        for (ingest, twin) in ingests.iter_mut().zip(&twins) {
            ingest.write(twin).expect("write");
        }
        let nars: Vec<Nar> = ingests
            .into_iter()
            .zip(["a.nar", "b.nar"])
            .map(|(ingest, name)| ingest.finish(upload(name)).expect("finish"))
            .collect();
        for (number, nar) in nars.iter().enumerate() {
            bench
                .publish(path(number as u8, *nar, &[]))
                .expect("publish");
        }
        let frames = bench.named_frames();
        let copies = |id| frames.iter().filter(move |frame| frame.0 == id);
        let twice = frames.iter().find(|frame| copies(frame.0).count() == 2);
        let shared = twice.expect("both stored the frames that they share").0;
        let (id, from, _) = copies(shared).nth(victim).expect("two copies").1;
        bench.segments.damaged(id, from + 80);
        bench.scrub();
        bench.scrub(); // what the first one took out of use, the second finds a copy of
        for (nar, bytes) in nars.iter().zip(&twins) {
            assert_eq!(bench.raw(nar).as_ref(), Some(bytes), "victim {victim}");
        }
    }
}

#[test]
fn wherever_a_byte_is_flipped_it_is_found_and_nothing_wrong_is_served() {
    let (whole, nars) = filled();
    let (id, len) = whole.segments.list().expect("list")[0];
    let mut healed = 0;
    for step in 0..150 {
        let at = (len - 1) * step / 149;
        let bench = Bench::over(whole.segments.copied_up_to(id, len));
        bench.segments.damaged(id, at);
        assert_eq!(bench.scrub().damaged, 1, "byte {at} of {len}");
        for (number, (nar, bytes)) in nars.iter().enumerate() {
            let read = bench.raw(nar);
            assert_eq!(read.is_some(), bench.shows(number as u8, *nar), "byte {at}");
            assert!(read.is_none_or(|read| read == *bytes), "byte {at}");
            bench.put(&format!("{number}.nar"), bytes);
            assert_eq!(
                bench.raw(nar).as_ref(),
                Some(bytes),
                "byte {at}, pushed again"
            );
            healed += u64::from(!bench.shows(number as u8, *nar));
        }
        assert_eq!(bench.depot.stats().expect("stats").sick_nars, 0);
    }
    assert_eq!(healed, 0, "paths that did not come back");
}

#[test]
fn subsets_are_the_whole_and_a_rate_is_kept() {
    let (bench, _) = filled();
    let held: Vec<_> = (0..4)
        .map(|_| bench.depot.ingest().expect("ingest"))
        .collect();
    for (number, mut ingest) in held.into_iter().enumerate() {
        ingest
            .write(&nar_with('c', 40 + number as u64, 300_000))
            .expect("write");
        ingest
            .finish(upload(&format!("h{number}.nar")))
            .expect("finish");
    }
    let whole = bench.scrub();
    let mut parts = (0, 0);
    for part in 1..=3 {
        let subset = Some(format!("{part}/3").parse().expect("a subset"));
        let scrub = Scrub { subset, ..ALL };
        let done = bench
            .depot
            .scrub(&scrub, &mut |_| ControlFlow::Continue(()))
            .expect("scrub");
        parts = (parts.0 + done.segments, parts.1 + done.bytes);
    }
    assert_eq!(parts, (whole.segments, whole.bytes));
    for bad in ["", "0/3", "4/3", "1", "a/b", "1/0"] {
        assert!(bad.parse::<Subset>().is_err(), "{bad:?}");
    }
    let slow = Scrub {
        rate_bytes_per_s: Some(whole.bytes * 4),
        ..ALL
    };
    let began = Instant::now();
    bench
        .depot
        .scrub(&slow, &mut |_| ControlFlow::Continue(()))
        .expect("scrub");
    assert!(
        began.elapsed() >= Duration::from_millis(240),
        "{:?}",
        began.elapsed()
    );
    let crawl = Scrub {
        rate_bytes_per_s: Some(1),
        ..ALL
    };
    let stopped = bench
        .depot
        .scrub(&crawl, &mut |_| ControlFlow::Break(()))
        .expect("scrub");
    assert!(stopped.stopped && stopped.bytes < whole.bytes);
}
