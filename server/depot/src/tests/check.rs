//! A depot that nobody uses is checked, repaired, and its index made anew.

use std::fs;
use std::path::Path;

use super::recompress::recompress;
use super::*;
use crate::check::{Checked, Finding, Recovering, check, recover};
use crate::former;
use crate::index::rocks::RocksIndex;
use crate::index::{Batch, Index, Row, Table};
use crate::layout::Part;

/// A data folder whose depot is closed.
struct Data(tempfile::TempDir);

impl Data {
    /// Three paths, the third referring to the others, a document, and an upload without path.
    fn filled() -> Data {
        let data = Data(tempfile::tempdir().expect("a folder"));
        let depot = data.open();
        for (number, bytes) in contents().iter().enumerate() {
            let mut ingest = depot.ingest().expect("ingest");
            ingest.write(bytes).expect("write");
            let nar = ingest
                .finish(upload(&format!("{number}.nar")))
                .expect("finish");
            let references: &[u8] = if number == 2 { &[0, 1] } else { &[] };
            let info = path(number as u8, nar, references);
            depot
                .publish(&cache(), signed(info, nar), "tester")
                .expect("publish");
        }
        let document = (Document::Log, "x.drv", b"a log");
        depot
            .put_document(&cache(), document.0, document.1, document.2, "tester")
            .expect("put");
        let mut ingest = depot.ingest().expect("ingest");
        ingest.write(&nar_of(b"no narinfo yet")).expect("write");
        ingest.finish(upload("later.nar")).expect("finish");
        data
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// One path that was compressed again, with what its URL named before.
    fn recompressed() -> (Data, Nar, String) {
        let data = Data(tempfile::tempdir().expect("a folder"));
        let mut options = Options::new(data.path().join("depot"));
        options.zstd_level = 1;
        let depot = Depot::open(options).expect("open");
        let mut ingest = depot.ingest().expect("ingest");
        ingest.write(&words()).expect("write");
        let nar = ingest.finish(upload("words.nar")).expect("finish");
        let info = path(7, nar, &[]);
        let published = depot.publish(&cache(), signed(info, nar), "tester");
        published.expect("publish");
        let encoding = || {
            let reader = depot.nar(&cache(), &nar.nar_hash).expect("look up");
            reader.expect("is there").encoding().name.clone()
        };
        let former = encoding();
        recompress(&depot, 0);
        assert_ne!(encoding(), former);
        drop(depot);
        (data, nar, former)
    }

    /// What is served under the URL with this encoding: its name, and the NAR.
    fn served(&self, nar: &Nar, name: &str) -> (String, Vec<u8>) {
        let reader = self.open().nar_as(&cache(), &nar.nar_hash, name);
        let reader = reader.expect("look up").expect("is there");
        let encoded = collect(reader.encoded(0..u64::MAX));
        let unpacked = zstd::stream::decode_all(&encoded[..]).expect("zstd");
        (reader.encoding().name.clone(), unpacked)
    }

    fn open(&self) -> Depot {
        Depot::open(Options::new(self.path().join("depot"))).expect("open")
    }

    fn segment(&self) -> std::path::PathBuf {
        self.path().join("depot/segments/0000000001.seg")
    }

    /// Flips a bit of the first segment.
    fn flip(&self, at: usize) {
        flip(&self.segment(), at);
    }

    /// What a check says, and what it came to.
    fn check(&self, repair: bool) -> (Vec<Finding>, Checked) {
        let mut told = Vec::new();
        let checked = check(self.path(), repair, &mut |finding| match finding {
            Finding::Progress(..) => {}
            finding => told.push(finding),
        });
        (told, checked.expect("it can be checked"))
    }

    /// Changes the index as no program of ours would.
    fn with_index(&self, change: impl FnOnce(&RocksIndex, &mut Batch)) {
        let index = RocksIndex::open(&self.path().join("depot/index")).expect("open");
        let mut batch = Batch::default();
        change(&index, &mut batch);
        index.write(batch).expect("write");
        index.checkpoint().expect("checkpoint");
    }

    fn assert_whole(&self) {
        let depot = self.open();
        for (number, bytes) in contents().into_iter().enumerate() {
            let name = format!("{number}.nar");
            let reader = depot.uploaded_nar(&cache(), &name).expect("look up");
            assert!(collect(reader.expect("there").raw(0..u64::MAX)) == bytes);
        }
        assert_eq!(depot.paths(&cache(), None, 100).expect("list").len(), 3);
    }
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("read");
    bytes[at] ^= 1;
    fs::write(file, bytes).expect("write");
}

/// A NAR that a harder level makes smaller.
fn words() -> Vec<u8> {
    nar_of(&text(1, 300_000))
}

fn contents() -> [Vec<u8>; 3] {
    [
        nar_with('a', 1, 900_000),
        nar_with('b', 1, 900_000),
        nar_of(b"small"),
    ]
}

fn problems(told: &[Finding]) -> String {
    let sentences = told.iter().filter_map(|finding| match finding {
        Finding::Problem(sentence) => Some(sentence.as_str()),
        _ => None,
    });
    sentences.collect::<Vec<_>>().join("; ")
}

#[test]
fn a_healthy_folder_is_clean_and_stays_as_it_is() {
    let data = Data::filled();
    let before = fs::read(data.segment()).expect("read");
    let (told, checked) = data.check(false);
    assert_eq!(told, []);
    assert_eq!((checked.problems, checked.notes, checked.paths), (0, 0, 3));
    assert_eq!(
        checked.bytes,
        data.open().stats().expect("stats").segment_bytes
    );
    assert_eq!(fs::read(data.segment()).expect("read"), before);
    data.assert_whole();
}

#[test]
fn what_was_collected_is_no_problem() {
    let data = Data::filled();
    let depot = data.open();
    let hash = |number| path(number, nar_for_names(), &[]).store_path.hash();
    let removal = depot
        .remove_paths(&cache(), &[hash(2)], "tester", false)
        .expect("remove");
    assert_eq!(removal.removed.len(), 1);
    let policy = Policy {
        grace_s: 0,
        max_age_s: None,
        sweep_grace_s: 0,
        max_garbage_percent: 10,
        caches: Default::default(),
    };
    depot.collect(&policy, false, &mut |_| {}).expect("collect");
    drop(depot);
    let (told, checked) = data.check(false);
    assert_eq!(problems(&told), "");
    assert_eq!(checked.paths, 2);
}

fn nar_for_names() -> Nar {
    Nar {
        nar_hash: snowcache_nix::NarHash::from_bytes([9; 32]),
        nar_size_bytes: 120,
    }
}

#[test]
fn whatever_the_index_says_wrongly_is_noticed_and_made_anew() {
    let first = |index: &RocksIndex, table| {
        let rows = index.scan(table, &[], None, 1).expect("scan");
        rows.into_iter().next().expect("a row")
    };
    type Change<'a> = &'a dyn Fn(&RocksIndex, &mut Batch);
    let changes: [(&str, Change<'_>); 6] = [
        ("lacks", &|index, batch| {
            batch.delete(Table::Paths, first(index, Table::Paths).0)
        }),
        ("which no segment has", &|index, batch| {
            let (mut key, row) = first(index, Table::Paths);
            key = [&key[..key.len() - 1], b"!"].concat().into();
            batch.put(Table::Paths, key, row);
        }),
        ("where it is not", &|index, batch| {
            let (_, row) = first(index, Table::Frames);
            batch.put(Table::Frames, [7; 32], row);
        }),
        ("is not here", &|index, batch| {
            let layouts = index.scan(Table::Layouts, &[], None, 100).expect("scan");
            layouts
                .into_iter()
                .for_each(|(key, _)| batch.delete(Table::Layouts, key));
        }),
        ("is not visible", &|index, batch| {
            batch.delete(Table::Visible, first(index, Table::Visible).0)
        }),
        ("no such record", &|index, batch| {
            let (key, _) = first(index, Table::Documents);
            let (_, other) = first(index, Table::Frames);
            batch.put(Table::Documents, key, other);
        }),
    ];
    for (says, change) in changes {
        let data = Data::filled();
        data.with_index(change);
        let (told, checked) = data.check(false);
        assert!(problems(&told).contains(says), "{says}: {told:?}");
        assert!(checked.problems > 0);
        let (told, checked) = data.check(true);
        assert_eq!(
            (checked.problems, checked.repaired),
            (0, 1),
            "{says}: {told:?}"
        );
        data.assert_whole();
        assert_eq!(data.check(false).0, [], "{says}");
    }
}

#[test]
fn damage_is_named_with_what_it_costs() {
    let data = Data::filled();
    let len = fs::read(data.segment()).expect("read").len();
    data.flip(len / 3);
    let (told, _) = data.check(false);
    assert!(problems(&told).contains("is damaged"), "{told:?}");
    let (told, checked) = data.check(true);
    assert!(checked.problems > 0, "what is lost cannot be repaired");
    assert!(problems(&told).contains("quarantined"), "{told:?}");
    // A push can.
    let depot = data.open();
    for (number, bytes) in contents().iter().enumerate() {
        let mut ingest = depot.ingest().expect("ingest");
        ingest.write(bytes).expect("write");
        ingest
            .finish(upload(&format!("{number}.nar")))
            .expect("finish");
    }
    drop(depot);
    let (told, checked) = data.check(false);
    assert_eq!(
        (problems(&told).as_str(), checked.notes),
        ("", 1),
        "{told:?}"
    );
    data.assert_whole();
}

#[test]
fn damaged_records_that_the_index_knows_are_written_again() {
    let data = Data::filled();
    let bytes = fs::read(data.segment()).expect("read");
    let path2 = path(2, nar_for_names(), &[]).store_path.to_string();
    let at = bytes
        .windows(path2.len())
        .position(|window| window == path2.as_bytes())
        .expect("its record");
    data.flip(at);
    let (told, checked) = data.check(true);
    assert_eq!(
        (problems(&told).rsplit("; ").count() > 0, checked.problems),
        (true, 0),
        "{told:?}"
    );
    fs::remove_dir_all(data.path().join("depot/index")).expect("lose the index");
    data.assert_whole();
}

#[test]
fn leftovers_are_removed_and_strangers_are_not() {
    let data = Data::filled();
    let at = |name: &str| data.path().join(name);
    fs::create_dir_all(at("depot/index.damaged")).expect("create");
    fs::write(at("push.token.new"), "half").expect("write");
    fs::create_dir_all(at("tokens")).expect("create");
    fs::write(at("tokens/0123456789abcdef.json"), "a token").expect("write");
    fs::write(at("tokens/0123456789abcdef.json.new"), "half").expect("write");
    fs::write(at("notes.txt"), "mine").expect("write");
    let whole = fs::read(data.segment()).expect("read");
    fs::write(data.segment(), [&whole[..], b"never committed"].concat()).expect("write");
    let (told, checked) = data.check(false);
    assert_eq!((checked.problems, checked.notes), (1, 4), "{told:?}");
    assert!(problems(&told).contains("notes.txt"), "{told:?}");
    let (told, checked) = data.check(true);
    assert_eq!(
        (checked.problems, checked.notes, checked.repaired),
        (1, 0, 4),
        "{told:?}"
    );
    assert!(at("tokens/0123456789abcdef.json").exists());
    assert!(at("notes.txt").exists() && !at("push.token.new").exists());
    assert!(!at("depot/index.damaged").exists());
    assert_eq!(fs::read(data.segment()).expect("read"), whole);
    data.assert_whole();
}

#[test]
fn recovery_needs_nothing_but_segments_and_names_what_is_lost() {
    let data = Data::filled();
    for damage in [None, Some("depot/index")] {
        if let Some(index) = damage {
            fs::remove_dir_all(data.path().join(index)).expect("remove");
        }
        let recovered = recover(data.path(), &mut |_| {}).expect("recover");
        assert_eq!(
            (recovered.paths, recovered.documents, recovered.lost),
            (3, 1, 0)
        );
        assert!(!data.path().join("depot/index.aside").exists());
        assert_eq!(data.check(false).0, []);
        data.assert_whole();
    }
    data.flip(400); // in the first frame, which two of the paths need
    let mut lost = Vec::new();
    let recovered = recover(data.path(), &mut |told| {
        if let Recovering::Lost(sentence) = told {
            lost.push(sentence);
        }
    });
    let recovered = recovered.expect("recover");
    assert_eq!((recovered.paths, recovered.lost), (1, 2), "{lost:?}");
    assert!(
        lost[0].contains("-path0") && lost[1].contains("-path1"),
        "{lost:?}"
    );
}

#[test]
fn former_encodings_that_are_not_what_their_urls_promise_are_let_go() {
    type Change<'a> = &'a dyn Fn(&[Row], &RocksIndex, &mut Batch);
    let changes: [(&str, Change<'_>); 5] = [
        ("no beginning", &|rows, _, batch| {
            batch.delete(Table::Formers, rows[0].0.clone());
        }),
        ("block 0 is missing", &|rows, _, batch| {
            batch.delete(Table::Formers, rows[1].0.clone());
        }),
        ("does not read", &|rows, _, batch| {
            batch.put(Table::Formers, rows[0].0.clone(), &rows[0].1[..5]);
        }),
        ("another one", &|rows, _, batch| {
            let key = [&rows[0].0[..former::KEY_BYTES - 1], b"!"].concat();
            batch.put(Table::Formers, key, rows[0].1.clone());
        }),
        // The right frames, and other bytes.
        ("not what it promises", &|rows, index, batch| {
            let key = [&rows[0].0[..32], &[0; 4]].concat();
            let block = index
                .get(Table::Layouts, &key)
                .expect("get")
                .expect("is there");
            batch.put(Table::Formers, rows[1].0.clone(), block);
        }),
    ];
    let (whole, nar, name) = Data::recompressed();
    let (told, checked) = whole.check(false);
    assert_eq!(told, []);
    assert_eq!(checked.former_encodings, 1);
    assert_eq!(whole.served(&nar, &name), (name.clone(), words()));
    for (says, change) in changes {
        let (data, nar, name) = Data::recompressed();
        data.with_index(|index, batch| {
            let rows = index.scan(Table::Formers, nar.nar_hash.as_bytes(), None, 100);
            let rows = rows.expect("scan");
            change(&rows, index, batch);
        });
        let (told, checked) = data.check(false);
        assert!(problems(&told).contains(says), "{says}: {told:?}");
        assert_eq!(checked.problems, 1, "{told:?}");
        let (told, checked) = data.check(true);
        assert_eq!(
            (checked.problems, checked.repaired),
            (0, 1),
            "{says}: {told:?}"
        );
        let (served, bytes) = data.served(&nar, &name);
        assert!(bytes == words());
        assert_eq!(
            served == name,
            says == "another one",
            "{says}: that one was a stranger"
        );
    }
}

#[test]
fn damage_that_only_a_former_encoding_needs_costs_no_path() {
    let (data, nar, name) = Data::recompressed();
    let mut place = None;
    data.with_index(|index, _| {
        let formers: Result<Vec<_>> = former::all(index, nar.nar_hash.as_bytes()).collect();
        let former = formers.expect("they read").remove(0);
        let block = former.layout.block(index, &former.nar, 0).expect("reads");
        place = block
            .expect("is there")
            .into_iter()
            .find_map(|part| match part {
                Part::Extent(extent) => Some((extent.segment, extent.offset)),
                Part::Literal(_) => None,
            });
    });
    let (segment, offset) = place.expect("it has a frame");
    let file = data.path().join(format!("depot/segments/{segment}.seg"));
    flip(&file, offset as usize + 100);
    let (told, checked) = data.check(false);
    assert_eq!(checked.problems, 1, "{told:?}");
    assert!(problems(&told).contains("is damaged"), "{told:?}");
    let (told, checked) = data.check(true);
    assert_eq!((checked.problems, checked.notes), (0, 1), "{told:?}");
    let let_go = |finding: &Finding| match finding {
        Finding::Repaired(what) => what.contains("1 former encodings let go"),
        _ => false,
    };
    assert!(told.iter().any(let_go), "{told:?}");
    let (served, bytes) = data.served(&nar, &name);
    assert!(served != name && bytes == words());
}

#[test]
fn a_recovered_index_keeps_present_urls_and_knows_no_former_one() {
    let (data, nar, former) = Data::recompressed();
    let present = || {
        let reader = data.open().nar(&cache(), &nar.nar_hash).expect("look up");
        reader.expect("is there").encoding().name.clone()
    };
    let before = present();
    recover(data.path(), &mut |_| {}).expect("recover");
    assert_eq!(present(), before);
    assert_eq!(data.served(&nar, &former), (before, words()));
    assert_eq!(data.check(false).1.former_encodings, 0);
}
