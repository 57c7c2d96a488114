//! The power fails while eight clients push and a collector removes, on ext4 and on xfs: what was
//! acknowledged before is so afterwards, everything else is whole or absent.
//!
//! ```text
//!   8 pushers --PUT--> snowcached --> loop-mounted filesystem <--shut down, log not flushed-- cut
//!       '--2xx, stamped--> oracle: counts if stamped before the cut
//!   then: kill -9, unmount, mount, start, ask for everything
//! ```
//!
//! `SNOWCACHE_CUTS` (or `make test-power`) asks for more cuts. Needs root, for the mounts.

mod support;

use std::fs;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use support::disk::{self, Disk};
use support::oracle::{EndWith, Oracle, quick_collections, setting, small_upload};
use support::random::Random;
use support::server::Snowcached;

const PUSHERS: u64 = 8;
/// Of each filesystem.
const CUTS: u64 = 2;
/// A disk is thrown away after so many cuts, so that judging everything stays quick.
const CUTS_A_DISK: u64 = 20;
/// How long an upload without a narinfo stays.
const LEASE_S: u64 = 5;
const DISK_MIB: u64 = 1024;
const READY_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn a_power_cut_loses_nothing_on_ext4() {
    power_cuts("ext4");
}

#[test]
fn a_power_cut_loses_nothing_on_xfs() {
    power_cuts("xfs");
}

fn power_cuts(kind: &'static str) {
    if !disk::can_be_had() {
        return;
    }
    let mut random = Random::announced(&format!("power cuts on {kind}"));
    let cuts = setting("SNOWCACHE_CUTS", CUTS);
    let (mut done, mut tried, mut kept, mut collected) = (0, 0, 0, 0);
    let mut slowest = Duration::ZERO;
    while done < cuts {
        let mut life = Life::begins(Disk::of(kind, DISK_MIB), &mut random);
        for _ in 0..CUTS_A_DISK.min(cuts - done) {
            life.one_cut(&mut random);
            slowest = slowest.max(life.server.ready_in);
            done += 1;
        }
        life.ends(&mut random);
        collected += life.oracle.collected();
        tried += life.oracle.tried();
        kept += life.oracle.acknowledged().len();
    }
    println!(
        "{kind}: {done} cuts; {tried} uploads, {collected} collections; {kept} paths acknowledged \
         before a cut and not removed, all there; slowest start {slowest:?}"
    );
}

/// One disk and the server on it.
struct Life {
    oracle: Oracle,
    token: String,
    admin_token: String,
    // Dropped before the disk.
    server: Snowcached,
    disk: Disk,
    _configured: tempfile::TempDir,
}

impl Life {
    /// The first start too must survive a cut right behind it.
    fn begins(disk: Disk, random: &mut Random) -> Life {
        let configured = support::folder_on_disk();
        let [flag, config] = quick_collections(configured.path(), LEASE_S);
        let mut server = Snowcached::stopped(disk.folder(), "warn", &[&flag, &config]);
        server.start_again();
        let mut life = Life {
            oracle: Oracle::default(),
            token: server.push_token(),
            admin_token: server.admin_token(),
            server,
            disk,
            _configured: configured,
        };
        life.oracle.leases_end.store(true, Ordering::Relaxed);
        let switch = life.disk.switch();
        thread::sleep(Duration::from_millis(random.below(20)));
        switch.cut();
        life.power_returns();
        assert_eq!(life.server.push_token(), life.token);
        life
    }

    fn one_cut(&mut self, random: &mut Random) {
        let (oracle, http, token) = (&self.oracle, self.server.http(), &self.token);
        oracle.over.store(false, Ordering::Relaxed);
        let cut = thread::scope(|scope| {
            let end = EndWith(&oracle.over);
            for _ in 0..PUSHERS {
                scope.spawn(|| oracle.push_until_over(http, token, small_upload));
            }
            scope.spawn(|| oracle.collect_until_over(http, token, &self.admin_token));
            let switch = self.disk.switch();
            thread::sleep(Duration::from_millis(random.below(700)));
            let cut = switch.cut();
            // For a moment it goes on without a disk.
            thread::sleep(Duration::from_millis(random.below(100)));
            drop(end);
            self.server.kill();
            cut
        });
        oracle.assert_no_refusal_before(cut);
        oracle.distrust_since(cut);
        self.power_returns();
        self.judge(random, 40);
    }

    fn power_returns(&mut self) {
        self.server.kill();
        self.disk.unmount();
        self.disk.mount();
        self.server.start_again();
        if self.server.ready_in >= READY_WITHIN {
            // A machine that is busy with other things gets a second try.
            self.server.kill();
            self.server.start_again();
        }
        let ready_in = self.server.ready_in;
        assert!(ready_in < READY_WITHIN, "ready after {ready_in:?}");
    }

    fn judge(&self, random: &mut Random, sample: u64) {
        let http = self.server.http();
        self.oracle
            .judge(http, &self.token, random, sample, small_upload);
    }

    /// Everything once more, and once more without the index.
    fn ends(&mut self, random: &mut Random) {
        self.judge(random, u64::MAX);
        self.server.kill();
        fs::remove_dir_all(self.server.depot().join("index")).expect("DIR/depot/index");
        let begin = Instant::now();
        self.server.start_again();
        println!("index rebuilt in {:?}", begin.elapsed());
        self.judge(random, u64::MAX);
        self.server.kill();
    }
}
