//! Collections beside pushers, readers and pins, over real files: what a reference model says must
//! be there is there, byte for byte, and the space comes back.
//!
//! ```text
//!   8 pushers   put closures, references first          model: last use of each path,
//!   8 readers   narinfo, references, every byte                what each pin holds
//!   1 pinner    moves pins                              judge: used within the grace, or held
//!   1 collector collect, remove by name, over and over         by a pin => must be there
//! ```
//!
//! `SNOWCACHE_OPERATIONS=1000000 cargo test --release -p snowcache-depot --test collector` is the
//! long form; `SNOWCACHE_SEED` starts every thread's dice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use snowcache_core::path_info::Claimed;
use snowcache_depot::{
    CacheName, Depot, ErrorKind, Finding, Nar, Options, PinChange, Policy, Upload,
};
use snowcache_nix::nar::Writer;
use snowcache_nix::{PathInfo, SecretKey, StoreHash};

const PUSHERS: u64 = 8;
const READERS: u64 = 8;
const PATHS: u64 = 256;
/// From here on paths may be removed by name, which no grace prevents; nothing refers to them.
const REMOVABLE: u64 = 224;
/// Everything is timed in hundredths of a second, so that graces end while the test runs.
const GRACE: u64 = 300;
/// However fast the machine is, it goes on until something was collected, or for a minute.
const COLLECTED_WITHIN: u64 = 6_000;
/// What a thread may lose on a busy machine between an answer and the note of it.
const SLACK: u64 = 200;

/// Paths refer to others of their block only, so that whole blocks fall out of use.
const BLOCK: u64 = 16;

struct Yard {
    depot: RwLock<Depot>,
    begin: Instant,
    operations: AtomicU64,
    wanted: u64,
    over: AtomicBool,
    /// When each path was last known to be here.
    seen: Mutex<HashMap<u64, u64>>,
    /// What each pin holds, once that is acknowledged.
    pins: Mutex<HashMap<u64, u64>>,
    reads: AtomicU64,
    removed: AtomicU64,
    refused: AtomicU64,
}

#[test]
fn what_must_be_there_is_there_and_the_space_comes_back() {
    let wanted = number("SNOWCACHE_OPERATIONS", 30_000);
    let seed = number("SNOWCACHE_SEED", 20_261_122);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let begin = Instant::now();
    let options = || {
        let mut options = Options::new(folder.path());
        options.clock = Arc::new(move || 1_000_000 + begin.elapsed().as_millis() as u64 / 10);
        options
    };
    let yard = Yard {
        depot: RwLock::new(Depot::open(options()).expect("open")),
        begin,
        operations: AtomicU64::new(0),
        wanted,
        over: AtomicBool::new(false),
        seen: Mutex::default(),
        pins: Mutex::default(),
        reads: AtomicU64::new(0),
        removed: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let yard = &yard;
        for pusher in 0..PUSHERS {
            scope.spawn(move || yard.until_over(|dice| push(yard, dice), seed ^ pusher));
        }
        for reader in 0..READERS {
            scope.spawn(move || yard.until_over(|dice| read(yard, dice), seed ^ (100 + reader)));
        }
        scope.spawn(move || yard.until_over(|dice| pin(yard, dice), seed ^ 200));
        scope.spawn(move || yard.until_over(|dice| collect(yard, dice), seed ^ 300));
    });
    println!(
        "seed {seed}: {} operations, {} whole reads, {} paths removed, {} pushes refused because \
         a reference went, in {:?}",
        yard.operations.load(Ordering::Relaxed),
        yard.reads.load(Ordering::Relaxed),
        yard.removed.load(Ordering::Relaxed),
        yard.refused.load(Ordering::Relaxed),
        begin.elapsed(),
    );
    assert!(
        yard.removed.load(Ordering::Relaxed) > 0,
        "nothing was ever removed"
    );

    let depot = yard.depot.into_inner().expect("no panic");
    let policy = Policy {
        grace_s: 0,
        max_age_s: None,
        sweep_grace_s: 0,
        max_garbage_percent: 10,
        caches: Default::default(),
    };
    std::thread::sleep(std::time::Duration::from_millis(10 * LEASE));
    let mut collected = depot.collect(&policy, false, &mut |_| {}).expect("collect");
    for _ in 0..2 {
        collected = depot.collect(&policy, false, &mut |_| {}).expect("collect");
    }
    println!("{collected:?}");
    assert!(
        collected.stored_bytes <= collected.live_bytes / 10 * 11 + (1 << 20),
        "{collected:?}"
    );
    let there = all_whole(&depot);
    println!("{} paths are left", there.len());
    drop(depot);
    std::fs::remove_dir_all(folder.path().join("index")).expect("the index");
    let depot = Depot::open(options()).expect("from the segments alone");
    assert_eq!(all_whole(&depot), there);
}

impl Yard {
    fn now(&self) -> u64 {
        1_000_000 + self.begin.elapsed().as_millis() as u64 / 10
    }

    fn depot(&self) -> Depot {
        self.depot.read().expect("no panic").clone()
    }

    fn until_over(&self, mut step: impl FnMut(&mut Dice) -> u64, seed: u64) {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let end = EndAll(&self.over);
        while !self.over.load(Ordering::Relaxed) {
            let steps = step(&mut dice);
            let done = self.operations.fetch_add(steps, Ordering::Relaxed) + steps;
            let had_its_turn = self.removed.load(Ordering::Relaxed) > 0
                || self.now() > 1_000_000 + COLLECTED_WITHIN;
            if done >= self.wanted && had_its_turn {
                self.over.store(true, Ordering::Relaxed);
            }
        }
        std::mem::forget(end);
    }

    fn saw(&self, number: u64, at: u64) {
        let mut seen = self.seen.lock().expect("no panic");
        let last = seen.entry(number).or_default();
        *last = at.max(*last);
    }

    /// A path that is in use these seconds: a window that moves over all of them.
    fn choose(&self, dice: &mut Dice) -> u64 {
        (self.now() / 5 + dice.below(PATHS / 4)) % PATHS
    }

    fn must_be_here(&self, number: u64) -> bool {
        let seen = self.seen.lock().expect("no panic").get(&number).copied();
        let recent = seen.is_some_and(|seen| self.now() + SLACK < seen + GRACE);
        number < REMOVABLE && recent
    }
}

/// Ends the other threads when one panics.
struct EndAll<'a>(&'a AtomicBool);

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// ---- the threads ----

fn push(yard: &Yard, dice: &mut Dice) -> u64 {
    let depot = yard.depot();
    let mut steps = 0;
    for number in closure(yard.choose(dice)) {
        let asked = yard.now();
        let here = depot.has(&cache(), &[hash(number)]).expect("look up")[0];
        if here {
            yard.saw(number, asked);
            continue;
        }
        let bytes = content(number);
        let mut ingest = depot.ingest().expect("ingest");
        ingest.write(&bytes).expect("write");
        let name = format!("{number}-{}.nar", dice.below(4));
        let upload = Upload {
            cache: cache(),
            name,
            codec: "none".to_owned(),
            file_size_bytes: bytes.len() as u64,
            subject: "pusher".to_owned(),
            expires_unix_s: yard.now() + LEASE,
        };
        let nar = ingest.finish(upload).expect("durable");
        let asked = yard.now();
        let signed = Claimed::new(path(number, nar))
            .verify(nar.nar_hash, nar.nar_size_bytes)
            .expect("honest")
            .sign(&[SecretKey::generate("test-1", [1; 32]).expect("a key")]);
        steps += 2;
        match depot.publish(&cache(), signed, "pusher") {
            Ok(_) => yard.saw(number, asked),
            // Between the answer that a reference is here and this, its grace has ended, or the
            // NAR's lease has.
            Err(error) if error.kind() == ErrorKind::Refused => {
                yard.refused.fetch_add(1, Ordering::Relaxed);
                return steps;
            }
            Err(error) => panic!("path {number}: {error}"),
        }
    }
    if steps == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    steps
}

fn read(yard: &Yard, dice: &mut Dice) -> u64 {
    let depot = yard.depot();
    let number = yard.choose(dice);
    let must = yard.must_be_here(number);
    let asked = yard.now();
    let entry = depot.path(&cache(), &hash(number)).expect("look up");
    let Some(entry) = entry else {
        assert!(!must, "path {number} was used within the grace and is gone");
        std::thread::sleep(std::time::Duration::from_millis(1));
        return 0;
    };
    yard.saw(number, asked);
    let references: Vec<StoreHash> = references(number).map(hash).collect();
    let here = depot.has(&cache(), &references).expect("look up");
    assert!(
        here.iter().all(|here| *here) || number >= REMOVABLE,
        "path {number} is here, of its references {here:?}"
    );
    let reader = depot.nar(&cache(), &entry.info.nar_hash).expect("look up");
    let reader = reader.unwrap_or_else(|| panic!("path {number} lost its NAR"));
    let bytes: Vec<u8> = match dice.below(2) {
        0 => concat(reader.raw(0..u64::MAX), number),
        _ => {
            let encoded = concat(reader.encoded(0..u64::MAX), number);
            zstd::stream::decode_all(&encoded[..]).expect("one zstd stream")
        }
    };
    assert!(bytes == content(number), "path {number} has other bytes");
    yard.reads.fetch_add(1, Ordering::Relaxed);
    1
}

fn concat(chunks: snowcache_depot::Chunks, number: u64) -> Vec<u8> {
    let chunks = chunks.map(|chunk| chunk.unwrap_or_else(|e| panic!("path {number}: {e}")));
    chunks.collect::<Vec<_>>().concat()
}

fn pin(yard: &Yard, dice: &mut Dice) -> u64 {
    let depot = yard.depot();
    let (pin, root) = (dice.below(6), dice.below(REMOVABLE));
    let name = format!("pin-{pin}").parse().expect("a name");
    let held = yard.pins.lock().expect("no panic").get(&pin).copied();
    if let Some(held) = held {
        for number in closure(held) {
            let here = depot.path(&cache(), &hash(number)).expect("look up");
            assert!(
                here.is_some(),
                "pin {pin} holds {held}, and {number} is gone"
            );
        }
    }
    let change = PinChange {
        roots: vec![path(root, nothing()).store_path],
        keep: Some("1".parse().expect("a rule")),
        expires: None,
    };
    let must = yard.must_be_here(root);
    match depot.set_pin(&cache(), &name, change, "pinner") {
        Ok(_) => drop(yard.pins.lock().expect("no panic").insert(pin, root)),
        Err(error) if error.kind() == ErrorKind::Refused => {
            assert!(!must, "{error}");
        }
        Err(error) => panic!("{error}"),
    }
    std::thread::sleep(std::time::Duration::from_millis(dice.below(30)));
    1
}

fn collect(yard: &Yard, dice: &mut Dice) -> u64 {
    let depot = yard.depot();
    if dice.below(3) == 0 {
        let number = REMOVABLE + dice.below(PATHS - REMOVABLE);
        let removal = depot.remove_paths(&cache(), &[hash(number)], "remover", false);
        let removed = removal.expect("decided").removed.len() as u64;
        yard.removed.fetch_add(removed, Ordering::Relaxed);
    }
    let policy = Policy {
        grace_s: GRACE,
        max_age_s: Some(GRACE + dice.below(200)),
        sweep_grace_s: 100 + dice.below(200),
        max_garbage_percent: 5 + dice.below(20),
        caches: Default::default(),
    };
    let mut removed = 0;
    let mut count = |finding| removed += u64::from(matches!(finding, Finding::Path { .. }));
    depot.collect(&policy, false, &mut count).expect("collect");
    yard.removed.fetch_add(removed, Ordering::Relaxed);
    1
}

// ---- the paths: each is made from its number alone ----

/// How long an upload stays without a narinfo.
const LEASE: u64 = 200;

fn cache() -> CacheName {
    CacheName::default_cache()
}

/// Up to three paths with lower numbers of the same block.
fn references(number: u64) -> impl Iterator<Item = u64> {
    let mut dice = Dice(number.wrapping_mul(0xA076_1D64_78BD_642F) | 1);
    let block = number / BLOCK * BLOCK;
    let count = dice.below(4).min(number - block);
    let mut chosen: Vec<u64> = (0..count)
        .map(|_| block + dice.below(number - block))
        .filter(|reference| *reference < REMOVABLE)
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen.into_iter()
}

/// A path and all that it refers to, references first.
fn closure(number: u64) -> Vec<u64> {
    let (mut order, mut stack) = (Vec::new(), vec![(number, false)]);
    while let Some((number, ready)) = stack.pop() {
        if ready {
            order.push(number);
        } else if !order.contains(&number) {
            stack.push((number, true));
            stack.extend(references(number).map(|reference| (reference, false)));
        }
    }
    let mut seen = std::collections::HashSet::new();
    order.retain(|number| seen.insert(*number));
    order
}

fn content(number: u64) -> Vec<u8> {
    let mut dice = Dice(number.wrapping_mul(0xE703_7ED1_A0B4_28DB) | 1);
    let mut file = Vec::new();
    for _ in 0..1 + dice.below(4) {
        // Some of it is shared with every eighth path.
        let seed = if dice.below(2) == 0 {
            number % 8
        } else {
            1000 + number
        };
        let mut noise = Dice(seed.wrapping_mul(0x8EBC_6AF0_9C88_C6E3) | 1);
        file.extend((0..5_000 + seed % 7 * 9_000).map(|_| noise.below(64) as u8));
        file.extend(format!("/nix/store/{}-dependency\n", hash(number)).into_bytes());
    }
    let mut writer = Writer::new(Vec::new());
    writer.file(false, file.len() as u64).expect("file");
    writer.data(&file).expect("data");
    writer.finish().expect("finish")
}

fn hash(number: u64) -> StoreHash {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    StoreHash::from_bytes(bytes)
}

fn nothing() -> Nar {
    Nar {
        nar_hash: snowcache_nix::NarHash::from_bytes([0; 32]),
        nar_size_bytes: 1,
    }
}

fn path(number: u64, nar: Nar) -> PathInfo {
    let name = |number: u64| format!("{}-path-{number}", hash(number));
    let references: Vec<String> = references(number).map(name).collect();
    let record = format!(
        "StorePath: /nix/store/{}\nNarHash: {}\nNarSize: {}\nReferences: {}\n",
        name(number),
        nar.nar_hash,
        nar.nar_size_bytes,
        references.join(" ")
    );
    PathInfo::from_record(&record).expect("a record")
}

/// The numbers of all visible paths, after every byte of them was compared.
fn all_whole(depot: &Depot) -> Vec<u64> {
    let is_here = |number: &u64| depot.has(&cache(), &[hash(*number)]).expect("look up")[0];
    let there: Vec<u64> = (0..PATHS).filter(is_here).collect();
    for number in &there {
        let entry = depot.path(&cache(), &hash(*number)).expect("look up");
        let entry = entry.expect("was there just now");
        let open = references(*number).find(|reference| !there.contains(reference));
        assert_eq!(open, None, "path {number} refers to what is not here");
        let reader = depot.nar(&cache(), &entry.info.nar_hash).expect("look up");
        let reader = reader.expect("a path's NAR");
        assert!(concat(reader.raw(0..u64::MAX), *number) == content(*number));
    }
    there
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}
