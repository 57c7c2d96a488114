//! Frames lie in the depot once; a cache hears of those only that were sent to it.

use snowcache_core::recipe::{FrameId, Op};

use super::collect::{DAY, Yard, strict};
use super::*;
use crate::index::{Rows, Table};
use crate::relayout::{frame_id, recipe_at};

fn named(name: &str) -> CacheName {
    name.parse().expect("a name")
}

fn put(depot: &Depot, cache: &CacheName, nar: &[u8]) -> Nar {
    let mut ingest = depot.ingest().expect("ingest");
    ingest.write(nar).expect("write");
    let upload = Upload {
        cache: cache.clone(),
        ..upload("x.nar")
    };
    ingest.finish(upload).expect("finish")
}

/// The frames of a NAR that some cache holds as `x.nar`.
fn frames(depot: &Depot, cache: &CacheName) -> Vec<(FrameId, u32)> {
    let nar = depot.upload(cache, "x.nar").expect("asked").expect("held");
    let shared = depot.shared();
    let layout = crate::layout::Layout::read(&*shared.index, &nar.nar.nar_hash);
    let layout = layout.expect("read").expect("there");
    let recipe = recipe_at(shared, &layout.recipe).expect("a recipe");
    let frame = |op: &Op| Some((frame_id(op)?, op.raw_len()));
    recipe.ops().iter().filter_map(frame).collect()
}

/// Whether the cache is told of all these frames, or of none.
fn knows(depot: &Depot, cache: &CacheName, frames: &[(FrameId, u32)]) -> bool {
    let ids: Vec<FrameId> = frames.iter().map(|(id, _)| *id).collect();
    let told = depot.has_frames(cache, &ids).expect("asked");
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    for (id, raw_len) in frames {
        let mut ingest = depot.ingest().expect("ingest");
        let used = ingest.known(cache, *id, *raw_len);
        // As the beginning of a NAR it is wrong, once it is known.
        assert_eq!(used.ok() == Some(false), !told[0], "told {told:?}");
        // Another length tells no more.
        let other = depot.ingest().expect("ingest").known(cache, *id, 1);
        assert_eq!(other.ok() == Some(false), !told[0]);
    }
    told[0]
}

fn rows(bench: &Bench, table: Table) -> usize {
    Rows::new(&*bench.index, table, &[]).count()
}

#[test]
fn a_cache_knows_what_was_sent_to_it_and_nothing_else() {
    let bench = Bench::new();
    let (depot, root) = (&bench.depot, cache());
    let (a, b) = (named("a"), named("b"));
    let first = nar_of(&noise(1, 900_000));
    put(depot, &a, &first);
    let of_a = frames(depot, &a);
    assert!(of_a.len() > 2);
    assert!(knows(depot, &a, &of_a));
    assert!(!knows(depot, &b, &of_a) && !knows(depot, &root, &of_a));
    // Sent whole it is known, and was stored once.
    let stored = depot.stats().expect("stats").frames;
    put(depot, &b, &first);
    assert!(knows(depot, &b, &of_a) && !knows(depot, &root, &of_a));
    put(depot, &root, &first);
    assert!(knows(depot, &root, &of_a));
    assert_eq!(depot.stats().expect("stats").frames, stored);
    // The other way round.
    put(depot, &root, &nar_of(&noise(2, 900_000)));
    let of_root = frames(depot, &root);
    assert!(knows(depot, &root, &of_root));
    assert!(!knows(depot, &a, &of_root) && !knows(depot, &b, &of_root));
}

#[test]
fn one_cache_alone_has_no_rows_of_this() {
    let bench = Bench::new();
    bench.put("x.nar", &nar_of(&noise(1, 900_000)));
    assert!(knows(
        &bench.depot,
        &cache(),
        &frames(&bench.depot, &cache())
    ));
    assert_eq!(
        (rows(&bench, Table::Sent), rows(&bench, Table::Hidden)),
        (0, 0)
    );
}

#[test]
fn an_index_made_anew_tells_no_cache_more() {
    let bench = Bench::new();
    let (a, b, root) = (named("a"), named("b"), cache());
    put(&bench.depot, &a, &nar_of(&noise(1, 900_000)));
    put(&bench.depot, &root, &nar_of(&noise(2, 900_000)));
    let (of_a, of_root) = (frames(&bench.depot, &a), frames(&bench.depot, &root));
    let bench = bench.reopened();
    let depot = &bench.depot;
    assert!(knows(depot, &a, &of_a) && knows(depot, &root, &of_root));
    for (cache, others) in [(&root, &of_a), (&b, &of_a), (&a, &of_root), (&b, &of_root)] {
        assert!(!knows(depot, cache, others), "{cache}");
    }
}

#[test]
fn what_came_of_a_broken_upload_is_its_cache_s() {
    let bench = Bench::new();
    let depot = &bench.depot;
    let (a, b) = (named("a"), named("b"));
    let raw = noise(1, 2_000_000);
    let mut ingest = depot.ingest().expect("ingest");
    let nar = nar_of(&raw);
    ingest.write(&nar[..nar.len() - 100]).expect("most of it");
    let lease = Lease {
        cache: a.clone(),
        subject: "tester".to_owned(),
        expires_unix_s: u64::MAX,
    };
    assert!(ingest.keep(lease).expect("kept") > 0);
    let keys = Rows::new(&*bench.index, Table::Frames, &[]);
    let kept: Vec<FrameId> = keys
        .map(|row| <[u8; 32]>::try_from(&row.expect("a row").0[..]).expect("an id"))
        .map(FrameId::from_bytes)
        .collect();
    let told = |cache| depot.has_frames(cache, &kept).expect("asked");
    assert!(told(&a).iter().all(|known| *known));
    assert!(!told(&b).contains(&true) && !told(&cache()).contains(&true));
}

#[test]
fn frames_that_are_gone_are_forgotten() {
    let yard = Yard::new();
    let a = named("a");
    put(&yard.bench.depot, &a, &nar_of(&noise(1, 900_000)));
    assert!(rows(&yard.bench, Table::Sent) > 0 && rows(&yard.bench, Table::Hidden) > 0);
    yard.wait(2 * DAY);
    yard.collect(&strict());
    yard.collect(&strict());
    let left = (
        rows(&yard.bench, Table::Sent),
        rows(&yard.bench, Table::Hidden),
    );
    assert_eq!(left, (0, 0));
}
