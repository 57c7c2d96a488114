//! What most rows are measured on: one corpus in snowcached, in nginx, and in whatever else was
//! given, every NAR of each verified before anything counts. Beside them hyper with fixed answers,
//! for the rows that its limit is of.

use super::super::corpus::Corpus;
use super::super::engine::block_on;
use super::super::engine::catalog::{Catalog, get};
use super::super::engine::target::Target;
use super::super::engine::verify::verify;
use super::super::harness::attic::CACHE as ATTIC_CACHE;
use super::super::harness::server::Snowcached;
use super::super::peers::least::{Fixed, LEAST, Least};
use super::super::peers::nginx::Nginx;
use super::super::peers::{OURS, Running, Served, Subject, YARDSTICK, attic, harmonia, snowcache};
use super::super::report::Row;
use super::super::settings::Settings;

/// Servers that run and hold the corpus.
pub struct Stage {
    pub settings: Settings,
    pub corpus: Corpus,
    pub subjects: Vec<Subject>,
    pub ours: Snowcached,
    pub nginx: Option<Nginx>,
    /// harmonia and attic, as far as they were given.
    peers: Vec<Running>,
    least: Option<(Least, Subject)>,
    /// The depot's blocks: empty, with the first generation, with the second.
    pub disk_bytes: [u64; 3],
    /// What was not given, or was wrong.
    pub remarks: Vec<Row>,
}

impl Stage {
    pub fn set(settings: Settings) -> Stage {
        // A mistake there is told before an hour was spent.
        others(&settings);
        let corpus = Corpus::of(&settings);
        let (ours, disk_bytes) = filled(&corpus);
        let mut stage = Stage {
            settings,
            corpus,
            subjects: Vec::new(),
            ours,
            nginx: None,
            peers: Vec::new(),
            least: None,
            disk_bytes,
            remarks: Vec::new(),
        };
        stage.add_ours();
        stage.add_least();
        stage.add_nginx();
        stage.add_harmonia();
        stage.add_attic();
        stage.add_others();
        for subject in &stage.subjects {
            for served in [Some(&subject.packed), subject.plain.as_ref()]
                .into_iter()
                .flatten()
            {
                for catalog in &served.generations {
                    verify(&served.target, catalog)
                        .unwrap_or_else(|why| panic!("{} serves wrong bytes: {why}", subject.name));
                }
            }
        }
        stage
    }

    /// All subjects, and the least that hyper costs.
    pub fn with_least(&self) -> Vec<Subject> {
        let least = self.least.iter().map(|(_, subject)| subject);
        self.subjects.iter().chain(least).cloned().collect()
    }

    /// What generation 1 has, and what generation 2 has besides.
    fn parts(&self) -> [Vec<String>; 2] {
        [self.corpus.added(0), self.corpus.added(1)]
    }

    /// Stops and starts ours: what it then holds is what a start needs.
    pub fn restart_ours(&mut self) {
        self.ours.stop();
        self.ours.start_again();
        let pid = self.ours.pid();
        let ours = self
            .subjects
            .iter_mut()
            .filter(|subject| subject.name == OURS);
        ours.for_each(|subject| subject.pid = pid);
    }

    fn add_ours(&mut self) {
        let packed = Served::read(Target::plain(&self.ours.url()), &self.parts());
        let generations = packed.generations.iter().cloned();
        let plain = Served {
            target: packed.target.clone(),
            generations: generations.map(|catalog| catalog.uncompressed()).collect(),
        };
        self.subjects.push(Subject {
            name: OURS.to_owned(),
            pid: self.ours.pid(),
            absent: packed.target.clone(),
            packed,
            plain: Some(plain),
        });
    }

    /// It answers with a narinfo of ours of middling length, and as ours does to what it has not.
    fn add_least(&mut self) {
        let ours = &self.subjects[0].packed;
        let mut narinfos: Vec<_> = ours.generations[0]
            .items
            .iter()
            .map(|item| item.narinfo.clone())
            .collect();
        narinfos.sort_by_key(|narinfo| narinfo.len());
        let narinfo = narinfos[narinfos.len() / 2].clone();
        let missing = block_on(async {
            let mut wire = ours.target.connect().await?;
            get(
                &ours.target,
                &mut wire,
                &format!("{}.narinfo", "0".repeat(32)),
            )
            .await
        });
        let (status, missing) = missing.expect("an answer");
        let fixed = [
            Fixed {
                status: 200,
                content_type: "text/x-nix-narinfo",
                body: narinfo.to_vec(),
            },
            Fixed {
                status,
                content_type: "text/plain; charset=utf-8",
                body: missing,
            },
        ];
        let least = match Least::start(&fixed) {
            Ok(least) => least,
            Err(why) => {
                self.remarks.push(Row::untold("P1", LEAST, why));
                return;
            }
        };
        let same = |catalog: &Catalog| {
            let mut catalog = catalog.clone();
            for item in &mut catalog.items {
                item.narinfo = narinfo.clone();
            }
            catalog
        };
        let [here, absent] =
            [0, 1].map(|number| Target::plain(&format!("http://127.0.0.1:{}", least.port(number))));
        let subject = Subject {
            name: LEAST.to_owned(),
            pid: least.pid(),
            packed: Served {
                target: here,
                generations: ours.generations.iter().map(same).collect(),
            },
            plain: None,
            absent,
        };
        self.least = Some((least, subject));
    }

    fn add_nginx(&mut self) {
        let nginx = match Nginx::start(&self.corpus.folder, None) {
            Ok(nginx) => nginx,
            Err(why) => {
                self.remarks.push(Row::untold("all", YARDSTICK, why));
                return;
            }
        };
        let read = |folder| {
            let target = Target::plain(&format!("{}/{folder}", nginx.url()));
            Served::read(target, &self.parts())
        };
        let packed = read("zst");
        self.subjects.push(Subject {
            name: YARDSTICK.to_owned(),
            pid: nginx.pid(),
            absent: packed.target.clone(),
            packed,
            plain: Some(read("raw")),
        });
        self.nginx = Some(nginx);
    }

    fn add_harmonia(&mut self) {
        let Some(binary) = self.settings.harmonia.clone() else {
            let why = "not given (SNOWCACHE_BENCH_HARMONIA=path of its binary)";
            self.remarks.push(Row::untold("all", "harmonia", why));
            return;
        };
        let started = harmonia::start(&binary);
        self.add_peer("harmonia", "", started);
    }

    fn add_attic(&mut self) {
        let Some(binary) = self.settings.attic.clone() else {
            let why = "not given (SNOWCACHE_BENCH_ATTIC=path of atticd, with atticadm beside it)";
            self.remarks.push(Row::untold("all", "attic", why));
            return;
        };
        let started = attic::start(&binary, &self.corpus);
        self.add_peer("attic", ATTIC_CACHE, started);
    }

    fn add_peer(&mut self, name: &str, cache: &str, started: Result<Running, String>) {
        match started {
            Ok(peer) => {
                let target = Target::plain(&format!("{}/{cache}", peer.url()));
                self.add_running(name, target, peer.pid());
                self.peers.push(peer);
            }
            Err(why) => self.remarks.push(Row::untold("all", name, why)),
        }
    }

    /// `NAME=URL@PID`: whatever else holds the corpus already.
    fn add_others(&mut self) {
        for (name, target, pid) in others(&self.settings) {
            self.add_running(&name, target, pid);
        }
    }

    fn add_running(&mut self, name: &str, target: Target, pid: u32) {
        let packed = Served::read(target, &self.parts());
        self.subjects.push(Subject {
            name: name.to_owned(),
            pid,
            absent: packed.target.clone(),
            packed,
            plain: None,
        });
    }
}

/// The caches that run already.
fn others(settings: &Settings) -> Vec<(String, Target, u32)> {
    let parse = |other: &String| {
        let (name, rest) = other.split_once('=')?;
        let (url, pid) = rest.rsplit_once('@')?;
        Some((
            name.to_owned(),
            Target::parse(url, None).ok()?,
            pid.parse().ok()?,
        ))
    };
    let parsed = settings.others.iter().map(|other| {
        let refused = || panic!("SNOWCACHE_BENCH_OTHERS: `{other}` is not NAME=URL@PID");
        parse(other).unwrap_or_else(refused)
    });
    parsed.collect()
}

fn filled(corpus: &Corpus) -> (Snowcached, [u64; 3]) {
    eprintln!("filling snowcached");
    let mut ours = snowcache::start(&[]);
    let mut disk_bytes = [snowcache::disk_bytes(&mut ours), 0, 0];
    for generation in 0..2 {
        snowcache::push(&ours, &corpus.zst(), &corpus.added(generation))
            .unwrap_or_else(|why| panic!("the corpus cannot be pushed: {why}"));
        disk_bytes[generation + 1] = snowcache::disk_bytes(&mut ours);
    }
    (ours, disk_bytes)
}
