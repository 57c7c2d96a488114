//! A system that never was, from a seed: sizes, references and rebuilds as nixpkgs has them.
//!
//! ```text
//!   packages  0 (libc-like) … n-1, then the system itself, which refers to whatever nobody needs
//!   sizes     log-normal: half below 60 KB, most of the bytes in a few dozen packages
//!   refers    to 1 to 12 earlier ones, the low-level ones far more often
//!   rebuild   one low-level library changes: it and everything above it get new hashes, and the
//!             same content with new hashes in it; besides, one package in 25 has a new version
//! ```
//!
//! The same seed gives the same bytes, whatever machine.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::super::harness::nar::{Nar, base32};
use super::super::harness::random::Random;
use super::Corpus;
use super::content::content;
use super::folder::Writer;

/// The middle of the sizes of NARs and how far they spread: exp(MEDIAN +- SPREAD).
const MEDIAN_BYTES: f64 = 60_000.0;
const SPREAD: f64 = 2.2;
const SMALLEST_BYTES: f64 = 200.0;
/// The largest: twice this would be one package for half of the bytes.
const LARGEST_BYTES: f64 = 32e6;
const MOST_REFERENCES: u64 = 12;
/// One package in so many has a new version in the next generation.
const BUMPED: u64 = 25;

/// What a package is in every generation.
struct Package {
    name: String,
    seed: u64,
    size: usize,
    references: Vec<usize>,
    refers_to_itself: bool,
    /// Counts the versions of its own content.
    version: u64,
}

/// The corpus of this seed; made once.
pub fn corpus(seed: u64, packages: usize, generations: usize) -> Corpus {
    let name = format!("synthetic-{seed}-{packages}x{generations}");
    let folder = super::folder_for(&name);
    if let Some(corpus) = Corpus::load(&folder) {
        return corpus;
    }
    eprintln!("writing the synthetic corpus {name} (once)");
    let writer = Writer::new(&folder);
    let mut random = Random::seeded(seed);
    let mut system = system(&mut random, packages);
    let (mut written, mut tops) = (BTreeSet::new(), Vec::new());
    for generation in 0..generations {
        if generation > 0 {
            rebuild(&mut system, &mut random);
        }
        let names = names(&system, seed);
        for (package, name) in system.iter().zip(&names) {
            if written.insert(name.clone()) {
                let mut references: Vec<String> = package
                    .references
                    .iter()
                    .map(|&below| names[below].clone())
                    .collect();
                if package.refers_to_itself {
                    references.push(name.clone());
                }
                writer.path(name, &nar(package, &references), &references);
            }
        }
        tops.push(format!("/nix/store/{}", names[names.len() - 1]));
    }
    let what = format!(
        "synthetic: seed {seed}, {packages} packages, {generations} generations, sizes, \
         references and rebuilds like nixpkgs"
    );
    Corpus::finish(&folder, &what, &tops)
}

fn system(random: &mut Random, packages: usize) -> Vec<Package> {
    let mut system: Vec<Package> = Vec::with_capacity(packages + 1);
    let mut needed: BTreeSet<usize> = BTreeSet::new();
    for number in 0..packages {
        let count = match number {
            0 => 0,
            _ => (1 + random.below(MOST_REFERENCES) * random.below(MOST_REFERENCES) / 12)
                .min(number as u64),
        };
        let below: BTreeSet<usize> = (0..count).map(|_| low(random, number)).collect();
        needed.extend(&below);
        system.push(Package {
            name: format!("{}-{number}.0", WORDS[number % WORDS.len()]),
            seed: random.next(),
            size: size(random),
            references: below.into_iter().collect(),
            refers_to_itself: random.below(3) == 0,
            version: 0,
        });
    }
    system.push(Package {
        name: "system-26.05".to_owned(),
        seed: random.next(),
        size: 4_000,
        references: (0..packages)
            .filter(|number| !needed.contains(number))
            .collect(),
        refers_to_itself: false,
        version: 0,
    });
    system
}

const WORDS: [&str; 12] = [
    "libbase",
    "libtls",
    "shell",
    "coreutils",
    "units",
    "python",
    "perl",
    "compiler-lib",
    "fonts",
    "daemon",
    "tools",
    "locale",
];

/// An earlier package, the low-level ones more often: the square of an even chance.
fn low(random: &mut Random, number: usize) -> usize {
    let even = unit(random);
    (even * even * number as f64) as usize
}

fn size(random: &mut Random) -> usize {
    // Twelve even chances make a normal one (Irwin-Hall), the same on every machine but for exp().
    let normal = (0..12).map(|_| unit(random)).sum::<f64>() - 6.0;
    let size = MEDIAN_BYTES * (SPREAD * normal).exp();
    size.clamp(SMALLEST_BYTES, LARGEST_BYTES) as usize
}

fn unit(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

/// What changes between two generations: a library whose change rebuilds about 40 % of the paths,
/// and a few versions.
fn rebuild(system: &mut [Package], random: &mut Random) {
    let packages = system.len() - 1;
    let wanted = packages * 2 / 5;
    let above = |number: usize| {
        let mut above = BTreeSet::from([number]);
        for (other, package) in system.iter().enumerate() {
            if package.references.iter().any(|below| above.contains(below)) {
                above.insert(other);
            }
        }
        above.len()
    };
    let library = (0..packages).min_by_key(|&number| above(number).abs_diff(wanted));
    system[library.unwrap_or(0)].version += 1;
    for _ in 0..(packages as u64 / BUMPED).max(1) {
        // The upper ones: what applications are.
        let upper = packages - 1 - low(random, packages);
        system[upper].version += 1;
    }
}

/// `<hash>-<name>` of each: the hash depends on its versions and on the hashes below it.
fn names(system: &[Package], seed: u64) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(system.len());
    for package in system {
        let mut hash = Sha256::new();
        hash.update(format!("{seed} {} {} ", package.name, package.version));
        for &below in &package.references {
            hash.update(&names[below]);
        }
        let hash = base32(&hash.finalize()[..20]);
        names.push(format!("{hash}-{}", package.name));
    }
    names
}

/// The files of a package: one when it is small, else a few folders.
fn nar(package: &Package, references: &[String]) -> Vec<u8> {
    let bytes = content(package.seed, package.version, package.size, references);
    if package.size < 4_096 {
        return Nar::of_file(&bytes).0;
    }
    let files = (package.size / 40_000).clamp(2, 200);
    let each = bytes.len().div_ceil(files);
    let folder = |nar: Nar, name: &str, files: &[(usize, &[u8])]| {
        nar.entry(name.as_bytes(), |nar| {
            let folder = files.iter().fold(nar.directory(), |nar, (number, bytes)| {
                nar.entry(format!("file-{number:04}").as_bytes(), |nar| {
                    nar.file(bytes)
                })
            });
            folder.end()
        })
    };
    let files: Vec<(usize, &[u8])> = bytes.chunks(each).enumerate().collect();
    let (bin, share) = files.split_at(files.len() / 2);
    let nar = folder(Nar::new().directory(), "bin", bin);
    let nar = folder(nar, "share", share);
    nar.end().0
}
