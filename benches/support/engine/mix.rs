//! What is asked, in which shares: hits, misses, NARs small and big.

use std::str::FromStr;
use std::sync::Arc;

use super::super::harness::nar::base32;
use super::super::harness::random::Random;
use super::ask::{Ask, Expect};
use super::catalog::{Catalog, Item};
use super::target::Target;

/// NARs below this are small (64 KiB): two thirds of a system's paths.
pub const SMALL_BYTES: u64 = 64 << 10;
/// NARs from this on are big (4 MiB): most of a system's bytes.
pub const BIG_BYTES: u64 = 4 << 20;
/// Different requests in a prepared mix: enough for no cache line to be asked twice in a row.
const PREPARED: usize = 4096;

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NarinfoHit,
    /// What nix asks with when it only wants to know: `nix copy` does.
    NarinfoHead,
    NarinfoMiss,
    Nar,
    NarSmall,
    NarBig,
}

const KINDS: [(&str, Kind); 6] = [
    ("narinfo-hit", Kind::NarinfoHit),
    ("narinfo-head", Kind::NarinfoHead),
    ("narinfo-miss", Kind::NarinfoMiss),
    ("nar", Kind::Nar),
    ("nar-small", Kind::NarSmall),
    ("nar-big", Kind::NarBig),
];

/// Kinds of requests and their weights: `narinfo-hit=70,narinfo-miss=20,nar-small=10`.
#[derive(Debug, Clone)]
pub struct Mix(Vec<(Kind, u64)>);

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let known = || KINDS.map(|(name, _)| name).join(", ");
        let parts = text.split(',').map(|part| {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = KINDS.iter().find(|(known, _)| *known == name.trim());
            let kind = kind.ok_or_else(|| format!("`{name}` is none of {}", known()))?;
            let weight = weight.trim().parse();
            Ok((
                kind.1,
                weight.map_err(|_| format!("`{part}`: the weight is no number"))?,
            ))
        });
        parts.collect::<Result<_, _>>().map(Mix)
    }
}

impl Mix {
    pub fn only(kind: Kind) -> Mix {
        Mix(vec![(kind, 1)])
    }

    /// Requests in these shares, in an order that depends on the seed only.
    pub fn asks(&self, target: &Target, catalog: &Catalog, seed: u64) -> Arc<[Ask]> {
        let mut random = Random::seeded(seed);
        let of = |kind| items(catalog, kind);
        let pools: Vec<(Kind, u64, Vec<&Item>)> = self
            .0
            .iter()
            .map(|&(kind, weight)| (kind, weight, of(kind)))
            .filter(|(kind, _, items)| *kind == Kind::NarinfoMiss || !items.is_empty())
            .collect();
        let sum: u64 = pools.iter().map(|(_, weight, _)| weight).sum();
        if sum == 0 {
            return Arc::new([]);
        }
        let one = |_| {
            let mut at = random.below(sum);
            let pool = pools.iter().find(|(_, weight, _)| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            });
            let (kind, _, items) = pool.expect("invariant: below the sum of weights");
            match items.len() {
                0 => miss(target, &mut random),
                length => ask(target, *kind, items[random.below(length as u64) as usize]),
            }
        };
        (0..PREPARED).map(one).collect()
    }
}

/// The items that such a request can be about.
fn items(catalog: &Catalog, kind: Kind) -> Vec<&Item> {
    let fits = |item: &&Item| match kind {
        Kind::NarinfoMiss => false,
        Kind::NarSmall => item.nar_size < SMALL_BYTES,
        Kind::NarBig => item.nar_size >= BIG_BYTES,
        _ => true,
    };
    catalog.items.iter().filter(fits).collect()
}

fn ask(target: &Target, kind: Kind, item: &Item) -> Ask {
    match kind {
        Kind::NarinfoHead => Ask::head(target, &item.narinfo_path(), Expect::status(200)),
        Kind::NarinfoHit => {
            let expect = Expect::body(Arc::clone(&item.narinfo));
            Ask::get(target, &item.narinfo_path(), expect)
        }
        Kind::NarinfoMiss => Ask::get(target, &item.narinfo_path(), Expect::status(404)),
        Kind::Nar | Kind::NarSmall | Kind::NarBig => nar(target, item),
    }
}

/// The NAR as the narinfo names it.
pub fn nar(target: &Target, item: &Item) -> Ask {
    Ask::get(target, &item.url, Expect::length(item.body_bytes()))
}

/// Every NAR once, in the catalog's order.
pub fn every_nar(target: &Target, catalog: &Catalog) -> Arc<[Ask]> {
    catalog.items.iter().map(|item| nar(target, item)).collect()
}

/// Narinfos that are not there, each another one.
pub fn misses(target: &Target, count: usize, seed: u64) -> Arc<[Ask]> {
    let mut random = Random::seeded(seed);
    (0..count).map(|_| miss(target, &mut random)).collect()
}

fn miss(target: &Target, random: &mut Random) -> Ask {
    let hash = base32(&random.bytes(20));
    Ask::get(target, &format!("{hash}.narinfo"), Expect::status(404))
}
