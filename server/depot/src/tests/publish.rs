//! Paths become visible when they may, and stay as they were.

use super::*;

#[test]
fn a_nar_is_invisible_until_a_path_has_it() {
    let bench = Bench::new();
    let bytes = nar_with('a', 1, 100_000);
    let nar = bench.put("1.nar", &bytes);
    assert_eq!(bench.raw(&nar), None);
    let info = path(1, nar, &[]);
    let hash = info.store_path.hash();
    assert!(
        bench
            .depot
            .path(&cache(), &hash)
            .expect("look up")
            .is_none()
    );
    assert_eq!(
        bench.publish(info.clone()).expect("publish"),
        Published::New
    );
    assert_eq!(bench.raw(&nar), Some(bytes));
    let entry = bench
        .depot
        .path(&cache(), &hash)
        .expect("look up")
        .expect("visible");
    assert_eq!(entry.info.store_path, info.store_path);
    assert_eq!(entry.info.signatures.len(), 1);
    let other: CacheName = "other".parse().expect("a name");
    assert!(
        bench
            .depot
            .nar(&other, &nar.nar_hash)
            .expect("look up")
            .is_none()
    );
}

#[test]
fn references_come_first() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_of(b"one"));
    let error = bench
        .publish(path(1, nar, &[1, 2, 3, 4, 5, 6]))
        .expect_err("open closure");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error.to_string().contains("-path2") && error.to_string().contains("and 2 more"),
        "{error}"
    );
    for leaf in 2..=6 {
        bench.publish(path(leaf, nar, &[])).expect("a leaf");
    }
    assert_eq!(
        bench
            .publish(path(1, nar, &[1, 2, 3, 4, 5, 6]))
            .expect("now"),
        Published::New
    );
}

#[test]
fn a_path_without_its_nar_is_refused() {
    let bench = Bench::new();
    let nar = Nar {
        nar_hash: snowcache_nix::NarHash::from_bytes([9; 32]),
        nar_size_bytes: 120,
    };
    let error = bench.publish(path(1, nar, &[])).expect_err("no such NAR");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("upload it first"), "{error}");
}

#[test]
fn the_first_commit_wins_for_everybody() {
    let bench = Bench::new();
    let nars: Vec<Nar> = (0..4u8)
        .map(|n| bench.put(&format!("{n}.nar"), &nar_of(&[n; 500])))
        .collect();
    for round in 0..20u8 {
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let offer = |nar: &Nar| (nar.nar_hash, bench.publish(path(round, *nar, &[])));
            let offers: Vec<_> = nars
                .iter()
                .map(|nar| scope.spawn(move || offer(nar)))
                .collect();
            offers
                .into_iter()
                .map(|offer| offer.join().expect("thread"))
                .collect()
        });
        let hash = path(round, nars[0], &[]).store_path.hash();
        let stays = bench
            .depot
            .path(&cache(), &hash)
            .expect("look up")
            .expect("visible");
        for (nar, outcome) in outcomes {
            let want = if nar == stays.info.nar_hash {
                Published::New
            } else {
                Published::Conflict {
                    winner: stays.info.nar_hash,
                }
            };
            assert_eq!(outcome.expect("answered"), want);
        }
    }
}

#[test]
fn signatures_are_added_to_the_same_content_only() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_of(b"one"));
    let mut info = path(1, nar, &[]);
    bench.publish(info.clone()).expect("publish");
    let theirs = SecretKey::generate("theirs-1", [2; 32])
        .expect("a key")
        .sign("anything");
    info.signatures.push(theirs.clone());
    assert_eq!(
        bench.publish(info.clone()).expect("again"),
        Published::Known
    );
    let hash = info.store_path.hash();
    let entry = |bench: &Bench| {
        bench
            .depot
            .path(&cache(), &hash)
            .expect("read")
            .expect("there")
    };
    assert_eq!(entry(&bench).info.signatures.len(), 2);
    let bench = bench.reopened();
    assert!(
        entry(&bench).info.signatures.contains(&theirs),
        "it survives a lost index"
    );
    info.deriver = None;
    info.references = vec![info.store_path.clone()];
    info.signatures = vec![
        SecretKey::generate("more-1", [3; 32])
            .expect("a key")
            .sign("x"),
    ];
    let conflict = bench.publish(info).expect("other references");
    assert_eq!(
        conflict,
        Published::Conflict {
            winner: nar.nar_hash
        }
    );
    assert_eq!(entry(&bench).info.signatures.len(), 2);
}

#[test]
fn of_documents_logs_change_and_the_others_stay() {
    let bench = Bench::new();
    let put = |kind, key: &str, body: &str| {
        bench
            .depot
            .put_document(&cache(), kind, key, body.as_bytes(), "tester")
            .expect("put")
    };
    assert_eq!(put(Document::Log, "x.drv", "first"), Stored::New);
    assert_eq!(put(Document::Log, "x.drv", "second"), Stored::New);
    assert_eq!(put(Document::Log, "x.drv", "second"), Stored::Same);
    assert_eq!(put(Document::Realisation, "x.drv", "first"), Stored::New);
    assert_eq!(
        put(Document::Realisation, "x.drv", "second"),
        Stored::Conflict
    );
    let bench = bench.reopened();
    let get = |kind, key| bench.depot.document(&cache(), kind, key).expect("get");
    assert_eq!(get(Document::Log, "x.drv").as_deref(), Some(&b"second"[..]));
    assert_eq!(
        get(Document::Realisation, "x.drv").as_deref(),
        Some(&b"first"[..])
    );
    assert_eq!(get(Document::BuildTrace, "x.drv"), None);
}

#[test]
fn paths_are_listed_in_pages() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_of(b"one"));
    for number in 0..25 {
        bench.publish(path(number, nar, &[])).expect("publish");
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = bench.depot.paths(&cache(), after, 10).expect("page");
        let Some(last) = page.last() else { break };
        after = Some(last.hash());
        seen.extend(page);
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by_key(|path| *path.hash().as_bytes()));
    let mut hashes: Vec<_> = seen.iter().map(|path| path.hash()).collect();
    hashes.push(path(30, nar, &[]).store_path.hash());
    let has = bench.depot.has(&cache(), &hashes).expect("has");
    assert!(has[..25].iter().all(|has| *has) && !has[25]);
}
