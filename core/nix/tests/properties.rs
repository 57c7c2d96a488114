//! Trees, splits and damage by the thousand: what holds for every NAR and every way of cutting it
//! up.

#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use snowcache_nix::ca::HashModulo;
use snowcache_nix::nar::{Event, Limits, NarError, Parser};
use snowcache_nix::{NarHash, StoreHash};

mod support;
use support::{apply, damage, nar_of, rewrite, tree};

/// What the parser says, with data that follows data joined.
fn parse(nar: &[u8], cuts: &[usize]) -> (Vec<String>, Result<u64, NarError>) {
    let mut parser = Parser::with_limits(Limits {
        max_nar_size_bytes: 1 << 20,
    });
    let (mut log, mut data) = (Vec::new(), Vec::new());
    let mut on = |event: Event<'_>| match event {
        Event::Data(bytes) => data.extend_from_slice(bytes),
        event => {
            if !data.is_empty() {
                log.push(format!("{:?}", std::mem::take(&mut data)));
            }
            log.push(format!("{event:?}"));
        }
    };
    let mut rest = nar;
    let mut sizes = cuts.iter().cycle();
    while !rest.is_empty() {
        let size = sizes
            .next()
            .map_or(rest.len(), |&size| size.min(rest.len()));
        let (piece, next) = rest.split_at(size);
        if let Err(error) = parser.feed(piece, &mut on) {
            return (log, Err(error));
        }
        rest = next;
    }
    (log, parser.finish())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..20, 1usize..3000], 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_tree_is_written_and_read_however_it_is_split(tree in tree(), cuts in cuts()) {
        let nar = nar_of(&tree);
        let whole = parse(&nar, &[]);
        prop_assert_eq!(&whole.1, &Ok(nar.len() as u64));
        prop_assert_eq!(&parse(&nar, &cuts), &whole);
        prop_assert_eq!(&parse(&nar, &[1]), &whole);
        prop_assert_eq!(rewrite(&nar), nar);
    }

    #[test]
    fn what_is_accepted_after_damage_is_canonical_too(
        tree in tree(),
        damage in prop::collection::vec(damage(), 1..4),
        cuts in cuts(),
    ) {
        let mut nar = nar_of(&tree);
        damage.iter().for_each(|damage| if nar.len() >= 8 { apply(&mut nar, damage) });
        let whole = parse(&nar, &[]);
        prop_assert_eq!(&parse(&nar, &cuts), &whole);
        if whole.1.is_ok() {
            prop_assert_eq!(rewrite(&nar), nar);
        }
    }

    #[test]
    fn the_offset_of_a_file_is_where_its_bytes_are(tree in tree()) {
        let nar = nar_of(&tree);
        let mut parser = Parser::new();
        let mut places = Vec::new();
        let mut contents: Vec<Vec<u8>> = Vec::new();
        parser.feed(&nar, &mut |event| match event {
            Event::File { size, offset, .. } => {
                places.push((offset as usize, size as usize));
                contents.push(Vec::new());
            }
            Event::Data(bytes) => contents.last_mut().unwrap().extend_from_slice(bytes),
            _ => {}
        }).unwrap();
        for ((offset, size), contents) in places.into_iter().zip(contents) {
            prop_assert_eq!(&nar[offset..offset + size], &contents[..]);
        }
    }

    #[test]
    fn the_hash_modulo_is_the_one_with_everything_in_memory(
        // Few letters, so that the path's own hash begins everywhere and often overlaps itself.
        own in "[ab]{32}",
        parts in prop::collection::vec(prop_oneof!["[ab]{0,40}".prop_map(Some), Just(None)], 0..12),
        cuts in prop::collection::vec(1usize..70, 1..8),
    ) {
        let text: String = parts.iter().map(|part| part.as_deref().unwrap_or(&own)).collect();
        let mut hash = HashModulo::new(own.parse::<StoreHash>().unwrap());
        let (mut rest, mut sizes) = (text.as_bytes(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, next) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            hash.feed(piece).unwrap();
            rest = next;
        }
        prop_assert_eq!(hash.finish(), modulo_in_memory(&text, &own));
    }
}

fn modulo_in_memory(text: &str, own: &str) -> NarHash {
    let places: String = text
        .match_indices(own)
        .map(|(at, _)| format!("|{at}"))
        .collect();
    let zeroed = text.replace(own, &"\0".repeat(own.len()));
    NarHash::from_bytes(
        Sha256::new()
            .chain_update(zeroed)
            .chain_update(places)
            .finalize()
            .into(),
    )
}
