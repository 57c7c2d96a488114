//! Walks over caches that lie: what Nix itself would never make.

use super::{Limits, walk};
use crate::cache::{Cache, NarStream, Narinfo};
use crate::contract::{Sample, sample};
use crate::error::{Error, Kind};
use crate::path_info::Claimed;
use futures::FutureExt;
use futures::executor::block_on;
use futures::future::{BoxFuture, ready};
use snowcache_nix::{Compression, StoreHash, StorePath};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Narinfos that were never checked; counts how often it was asked.
#[derive(Default)]
struct Told {
    narinfos: Vec<Narinfo>,
    asked: AtomicUsize,
}

impl Told {
    fn tell(mut self, path: &Sample, references: &[&StorePath]) -> Told {
        let mut info = path.info.clone();
        info.references = references.iter().copied().cloned().collect();
        let (url, compression) = ("nar/x.nar".to_owned(), Compression::None);
        self.narinfos.push(Narinfo {
            info,
            url,
            compression,
            file_size_bytes: None,
        });
        self
    }
}

impl Cache for Told {
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let found = self
            .narinfos
            .iter()
            .find(|it| it.info.store_path.hash() == hash);
        ready(Ok(found.cloned())).boxed()
    }

    fn nar<'a>(&'a self, _: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>> {
        unreachable!("a walk reads no NAR")
    }

    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>> {
        let there = |hash| {
            self.narinfos
                .iter()
                .any(|it| it.info.store_path.hash() == hash)
        };
        let missing = hashes
            .iter()
            .copied()
            .filter(|&hash| !there(hash))
            .collect();
        ready(Ok(missing)).boxed()
    }

    fn put(&self, _: Claimed, _: NarStream) -> BoxFuture<'_, Result<(), Error>> {
        unreachable!("a walk writes nothing")
    }
}

fn path(name: &str) -> Sample {
    sample(name, name.as_bytes(), &[])
}

#[test]
fn a_cycle_is_refused_and_a_self_reference_is_not() {
    let (a, b, c) = (path("a"), path("b"), path("c"));
    let [pa, pb, pc] = [&a, &b, &c].map(|it| &it.info.store_path);
    let honest = Told::default().tell(&a, &[pa, pb]).tell(&b, &[pb]);
    let closure = block_on(walk(&honest, None, &[pa.hash()], Limits::default())).expect("closed");
    assert_eq!(closure.paths.len(), 2);

    let liar = Told::default()
        .tell(&a, &[pb])
        .tell(&b, &[pc])
        .tell(&c, &[pa]);
    let error = block_on(walk(&liar, None, &[pa.hash()], Limits::default())).expect_err("cycle");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("through other paths"), "{error}");
}

#[test]
fn a_closure_without_end_stops_at_the_limit() {
    let names: Vec<Sample> = (0..50).map(|n| path(&format!("chain-{n}"))).collect();
    let mut told = Told::default();
    for pair in names.windows(2) {
        told = told.tell(&pair[0], &[&pair[1].info.store_path]);
    }
    let limits = Limits {
        max_paths: 10,
        concurrency: 4,
    };
    let root = [names[0].info.store_path.hash()];
    let error = block_on(walk(&told, None, &root, limits)).expect_err("too many");
    assert_eq!(error.kind(), Kind::TooMuch);
    assert!(
        told.asked.load(Ordering::Relaxed) <= 11,
        "stops as soon as it knows"
    );
}

#[test]
fn a_reference_that_the_cache_has_under_another_name_is_refused() {
    let (a, b) = (path("a"), path("b"));
    let other = StorePath::new(b.info.store_path.hash(), "not-b").expect("a good name");
    let liar = Told::default().tell(&a, &[&other]).tell(&b, &[]);
    let root = [a.info.store_path.hash()];
    let error = block_on(walk(&liar, None, &root, Limits::default())).expect_err("other name");
    assert!(error.to_string().contains("under that hash"), "{error}");
}

#[test]
fn what_is_held_already_is_not_asked_for_and_absences_name_who_needs_them() {
    let (top, left, right, gone) = (path("top"), path("left"), path("right"), path("gone"));
    let [pt, pl, pr, pg] = [&top, &left, &right, &gone].map(|it| &it.info.store_path);
    let from = Told::default()
        .tell(&top, &[pl, pr])
        .tell(&left, &[pg])
        .tell(&right, &[]);
    let held = Told::default().tell(&right, &[]);
    let roots = [pt.hash(), pt.hash()];
    let closure = block_on(walk(&from, Some(&held), &roots, Limits::default())).expect("walked");
    let names: Vec<_> = closure
        .paths
        .iter()
        .map(|it| it.info.store_path.name())
        .collect();
    assert_eq!(names, ["left", "top"]);
    assert_eq!(
        from.asked.load(Ordering::Relaxed),
        3,
        "top, left and gone, each once"
    );
    let needed = closure.absent[0].needed.as_ref().expect("is no root");
    assert_eq!((&needed.path, &needed.by), (pg, pl));
    assert_eq!(
        closure.nar_size_bytes(),
        top.info.nar_size + left.info.nar_size
    );
}

#[test]
fn many_references_to_one_path_are_one_request() {
    let leaf = path("leaf");
    let tops: Vec<Sample> = (0..200).map(|n| path(&format!("top-{n}"))).collect();
    let mut told = Told::default().tell(&leaf, &[]);
    for top in &tops {
        told = told.tell(top, &[&leaf.info.store_path]);
    }
    let roots: Vec<StoreHash> = tops.iter().map(|it| it.info.store_path.hash()).collect();
    let closure = block_on(walk(&told, None, &roots, Limits::default())).expect("closed");
    assert_eq!(closure.paths.len(), 201);
    assert_eq!(
        closure.paths[0].info.store_path, leaf.info.store_path,
        "the leaf comes first"
    );
    assert_eq!(told.asked.load(Ordering::Relaxed), 201);
}
