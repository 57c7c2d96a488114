//! Every write, fsync, rename and unlink that a server does on its data folder is once the one
//! that fails, or the last before it dies: nothing that was acknowledged is lost, what failed is
//! refused with a sentence, reading goes on, and the next push works.
//!
//! ```text
//!   a stage, counted:  strace -y              which calls, how many, on which files
//!   each point:        a fresh copy of the data folder
//!                      strace -e inject=...   SIGKILL, ENOSPC or EIO at the Nth call
//!                      judge; push again; judge; kill -9, start; judge
//! ```
//!
//! The short form takes a sample that the seed chooses; `SNOWCACHE_LONG=1` (`make test-faults`)
//! takes every point. `SNOWCACHE_FAULT` repeats points whose description contains it.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::http::{Http, Response};
use support::nar::Upload;
use support::oracle::{
    self, assert_whole, assert_whole_or_absent, copy_folder as copy, long, publish, read_until,
    try_publish,
};
use support::random::Random;
use support::server::Snowcached;
use support::strace::{self, Attached, Counted, Fault, Kind};
use support::world::{FILLERS, World};

const REFUSED_WITHIN: Duration = Duration::from_secs(5);
const WORKS_AGAIN_WITHIN: Duration = Duration::from_secs(1);
const READY_WITHIN: Duration = Duration::from_secs(2);
/// Segment bytes that a failed push and its repetition may leave: records of uploads and the
/// heads of new segments, a few hundred bytes each.
const LEFT_BYTES_AT_MOST: u64 = 4096;
/// Points that the short form takes of each stage.
const SAMPLE: usize = 7;

/// What the server does when the fault comes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Stage {
    /// Starts in an empty folder.
    First,
    /// Starts after kill -9: a tail that was never committed, a segment without any commit, a new
    /// key without its public half, an index that is behind.
    Restart,
    /// Takes a NAR of some megabytes.
    Nar,
    /// Makes a path visible.
    Narinfo,
    /// Stores a build log.
    Log,
    /// Takes paths until RocksDB writes a table.
    Flush,
    /// Ends on SIGTERM.
    Stop,
    /// Collects: most of a segment was removed, what is left of it moves.
    Collect,
}

#[test]
fn at_every_call_of_a_first_start() {
    Victim::new(Stage::First).suffers_everything();
}

#[test]
fn at_every_call_of_a_start_after_a_crash() {
    Victim::new(Stage::Restart).suffers_everything();
}

#[test]
fn at_every_call_of_an_upload() {
    Victim::new(Stage::Nar).suffers_everything();
}

#[test]
fn at_every_call_of_a_publication() {
    Victim::new(Stage::Narinfo).suffers_everything();
}

#[test]
fn at_every_call_of_a_build_log() {
    Victim::new(Stage::Log).suffers_everything();
}

#[test]
fn at_every_call_of_a_flush_of_the_index() {
    Victim::new(Stage::Flush).suffers_everything();
}

#[test]
fn at_every_call_of_an_orderly_end() {
    Victim::new(Stage::Stop).suffers_everything();
}

#[test]
fn at_every_call_of_a_collection() {
    Victim::new(Stage::Collect).suffers_everything();
}

/// A server that is started, hit and judged again and again.
struct Victim {
    stage: Stage,
    world: World,
    server: Snowcached,
    /// The configuration, and the data folder before each point; none before a first start.
    template: tempfile::TempDir,
    token: String,
    admin_token: String,
    counted: Counted,
    /// Segment bytes in the end when nothing fails.
    usual_bytes: u64,
}

impl Victim {
    /// Prepares the stage and runs it once without a fault.
    fn new(stage: Stage) -> Victim {
        let template = support::folder_on_disk();
        // What a removed path's upload holds must be over before it is collected.
        let lease_s = if stage == Stage::Collect { 1 } else { 86_400 };
        let [flag, config] = oracle::quick_collections(template.path(), lease_s);
        let folder = support::folder_on_disk();
        let mut victim = Victim {
            stage,
            world: World::new(),
            server: Snowcached::stopped(folder, "warn", &[&flag, &config]),
            template,
            token: String::new(),
            admin_token: String::new(),
            counted: Counted::default(),
            usual_bytes: 0,
        };
        if stage != Stage::First {
            victim.stock();
        }
        let folder = support::folder_on_disk();
        let log = folder.path().join("strace");
        victim.reset();
        victim
            .run(None, strace::count(&log))
            .expect("nothing fails");
        victim.counted = Counted::read(&log, &victim.server.data());
        victim.finish();
        victim.usual_bytes = victim.segment_bytes();
        victim
    }

    /// Makes the template: the old path, a NAR without narinfo, killed.
    fn stock(&mut self) {
        self.server.start_again();
        self.token = self.server.push_token();
        self.admin_token = self.server.admin_token();
        let (http, world) = (self.server.http(), &self.world);
        let collects = self.stage == Stage::Collect;
        if collects {
            publish(http, &self.token, &world.gone[0]);
        }
        publish(http, &self.token, &world.old);
        if collects {
            publish(http, &self.token, &world.gone[1]);
        }
        let pending = &world.pending;
        let answer = http.put(&pending.nar_path(), &self.token, &pending.body);
        answer.is(200);
        if collects {
            publish(http, &self.token, pending);
            thread::sleep(Duration::from_secs(2));
        }
        self.server.kill();
        if self.stage == Stage::Restart {
            let segments = self.server.depot().join("segments");
            let first = segments.join("0000000001.seg");
            let mut bytes = fs::read(&first).expect("the first segment");
            let head = bytes[..36].to_vec();
            bytes.extend_from_slice(&Random::seeded(5).bytes(70_000));
            fs::write(&first, bytes).expect("a torn tail");
            fs::write(segments.join("0000000009.seg"), head).expect("a segment without a commit");
            let keys = self.server.data().join("keys");
            let public = self.server.public_key();
            let name = public.split(':').next().expect("NAME:BASE64");
            let secret = fs::read_to_string(keys.join(format!("{name}.sec"))).expect("a key");
            let key = secret.replace(name, "rotated-1");
            fs::write(keys.join("rotated-1.sec"), key).expect("a second key");
        }
        copy(&self.server.data(), &self.template.path().join("data"));
    }

    fn reset(&mut self) {
        self.server.kill();
        let data = self.server.data();
        if data.exists() {
            fs::remove_dir_all(&data).expect("the last point's folder");
        }
        if self.stage != Stage::First {
            copy(&self.template.path().join("data"), &data);
        }
    }

    fn suffers_everything(&mut self) {
        let mut random = Random::announced(&format!("faults, {:?}", self.stage));
        let mut points = self.counted.points();
        let (all, wanted) = (points.len(), std::env::var("SNOWCACHE_FAULT").ok());
        if let Some(wanted) = &wanted {
            points.retain(|point| point.to_string().contains(wanted));
        } else if !long() {
            while points.len() > SAMPLE {
                points.swap_remove(random.below(points.len() as u64) as usize);
            }
        }
        let (mut hit, mut failed) = (0, Vec::new());
        for point in &points {
            match catch_unwind(AssertUnwindSafe(|| self.suffers(point))) {
                Ok(true) => hit += 1,
                Ok(false) => println!("{:?}: {point} did not come about", self.stage),
                Err(_) => failed.push(point.to_string()),
            }
        }
        println!(
            "{:?}: {all} points, {} tried, {hit} came about",
            self.stage,
            points.len()
        );
        assert!(
            failed.is_empty(),
            "invariants broken at:\n{}",
            failed.join("\n")
        );
        // Threads of RocksDB's own may do a little less than when they were counted.
        let few = wanted.is_none() && hit * 4 < points.len() * 3;
        assert!(!few, "most faults must come about");
    }

    /// One point; whether its fault came about.
    fn suffers(&mut self, fault: &Fault) -> bool {
        println!("{:?}: {fault}", self.stage);
        let folder = support::folder_on_disk();
        let log = folder.path().join("strace");
        self.reset();
        let arguments = self.counted.inject(fault, &log);
        let died = self.run(Some(fault), arguments).is_err();
        self.finish();
        let left = self.segment_bytes().saturating_sub(self.usual_bytes);
        assert!(left <= LEFT_BYTES_AT_MOST, "{left} bytes stay behind");
        died || strace::was_injected(&log)
    }

    /// Runs the stage under strace; an error when the server died of it (or would not start).
    fn run(&mut self, fault: Option<&Fault>, arguments: Vec<String>) -> Result<(), String> {
        if matches!(self.stage, Stage::First | Stage::Restart) {
            let started = self.server.try_start(&strace::wrapper(arguments));
            if let (Err(said), Some(Kind::Full | Kind::Broken)) = (&started, fault.map(|f| f.kind))
            {
                assert!(said.contains("snowcached: "), "no sentence:\n{said}");
                assert!(!said.contains("panicked"), "{said}");
            }
            return started;
        }
        self.server.start_again();
        let (http, world) = (self.server.http(), &self.world);
        assert_whole(http, &world.old);
        if self.stage == Stage::Narinfo {
            http.put(&world.new.nar_path(), &self.token, &world.new.body)
                .is(200);
        }
        if self.stage == Stage::Collect {
            let gone = world.gone.each_ref().map(Upload::base_name);
            oracle::remove(http, &self.admin_token, &gone).expect("removed");
        }
        let strace = Attached::to(self.server.pid(), &arguments);
        if self.stage == Stage::Stop {
            let status = self.server.terminate();
            strace.detach();
            return match status.signal() {
                Some(_) => Err(status.to_string()),
                None => Ok(()),
            };
        }
        let (answers, trouble) = self.push_while_reading();
        strace.detach();
        let lives = self.server.runs();
        assert!(!lives || trouble.is_none(), "a reader met {trouble:?}");
        match (lives, fault.map(|fault| fault.kind)) {
            (true, Some(kind)) => {
                answers.iter().for_each(|answer| check_answer(answer, kind));
                self.works_again();
                Ok(())
            }
            (true, None) => {
                let fine = |(answer, _): &Answer| answer.as_ref().is_ok_and(|a| a.status == 200);
                assert!(answers.iter().all(fine), "{answers:?}");
                Ok(())
            }
            (false, Some(Kind::Sigkill)) => Err("killed".to_owned()),
            (false, _) => panic!("it died:\n{}", self.server.log.tail(30)),
        }
    }

    /// The requests of the stage, and what they were answered, while someone reads the old path;
    /// what that one met.
    fn push_while_reading(&self) -> (Vec<Answer>, Option<String>) {
        let (http, world, over) = (self.server.http(), &self.world, AtomicBool::new(false));
        let put = |path: &str, body: &[u8]| {
            let begin = Instant::now();
            let answer = oracle::put(http, path, &self.token, body);
            (answer.map_err(|error| error.to_string()), begin.elapsed())
        };
        thread::scope(|scope| {
            let reader = scope.spawn(|| read_until(&over, http, &world.old));
            let answers = match self.stage {
                Stage::Nar => vec![put(&world.new.nar_path(), &world.new.body)],
                Stage::Narinfo => {
                    vec![put(
                        &world.new.narinfo_path(),
                        world.new.narinfo().as_bytes(),
                    )]
                }
                Stage::Log => vec![put(&format!("/push/{}", world.log_path()), world.log)],
                Stage::Flush => (0..FILLERS)
                    .map(|number| world.filler(number))
                    .map(|filler| put(&filler.narinfo_path(), filler.narinfo().as_bytes()))
                    .collect(),
                Stage::Collect => vec![collect(http, &self.admin_token)],
                Stage::First | Stage::Restart | Stage::Stop => Vec::new(),
            };
            over.store(true, Ordering::Relaxed);
            (answers, reader.join().expect("the reader"))
        })
    }

    /// After an error a new push works, at once.
    fn works_again(&self) {
        let (http, world) = (self.server.http(), &self.world);
        let begin = Instant::now();
        while let Err(refused) = try_publish(http, &self.token, &world.new) {
            assert!(
                begin.elapsed() < WORKS_AGAIN_WITHIN,
                "still refused after {:?}: {refused}",
                begin.elapsed()
            );
            thread::sleep(Duration::from_millis(50));
        }
        assert_whole(http, &world.new);
        assert_whole(http, &world.old);
        if self.stage == Stage::Collect {
            oracle::collect(http, &self.admin_token).expect("the next collection works");
        }
    }

    /// Starts again, judges, pushes everything, starts once more and judges again.
    fn finish(&mut self) {
        let half_done = !self.server.runs();
        self.restart();
        let (http, world) = (self.server.http(), &self.world);
        if self.stage == Stage::First {
            self.token = self.server.push_token();
        } else {
            assert_whole(http, &world.old);
        }
        if half_done {
            assert_whole_or_absent(http, &world.new);
        }
        if self.stage == Stage::First {
            publish(http, &self.token, &world.old);
            publish(http, &self.token, &world.pending);
        }
        // Its NAR was acknowledged, so its narinfo is enough.
        let narinfo = world.pending.narinfo();
        http.put(
            &world.pending.narinfo_path(),
            &self.token,
            narinfo.as_bytes(),
        )
        .is(200);
        publish(http, &self.token, &world.new);
        let log_path = world.log_path();
        http.put(&format!("/push/{log_path}"), &self.token, world.log)
            .is(200);
        let mut paths = vec![world.old.clone(), world.pending.clone(), world.new.clone()];
        if self.stage == Stage::Flush {
            paths.extend((0..FILLERS).map(|number| world.filler(number)));
            paths[3..]
                .iter()
                .for_each(|filler| publish(http, &self.token, filler));
        }
        if self.stage == Stage::Collect {
            // What was removed is not listed again; its NAR may be read until it is collected.
            for gone in &world.gone {
                let narinfo = format!("/{}.narinfo", gone.hash_part());
                http.get(&narinfo).is(404);
            }
            oracle::collect(http, &self.admin_token).expect("a collection");
            for gone in &world.gone {
                assert!(
                    !assert_whole_or_absent(http, gone),
                    "what was removed is back"
                );
            }
        }
        self.restart();
        paths.iter().for_each(|path| assert_whole(http, path));
        assert_eq!(
            http.get(&format!("/{log_path}")).is(200).body,
            self.world.log
        );
        assert_eq!(self.server.stats()["paths"], paths.len());
        assert_eq!(self.server.stats()["conflicts"], 0);
    }

    /// kill -9 and a start in time. (A machine that is busy with other things gets three tries.)
    fn restart(&mut self) {
        let mut ready_in = Vec::new();
        while ready_in.len() < 3 {
            self.server.kill();
            self.server.start_again();
            ready_in.push(self.server.ready_in);
            if self.server.ready_in < READY_WITHIN {
                return;
            }
        }
        panic!("ready after {ready_in:?}");
    }

    fn segment_bytes(&self) -> u64 {
        self.server.stats()["segment_bytes"]
            .as_u64()
            .expect("a number")
    }
}

type Answer = (Result<Response, String>, Duration);

/// A collection: refused at once, or a report whose last line says how it went.
fn collect(http: Http, admin_token: &str) -> Answer {
    let begin = Instant::now();
    let request = http.request("POST", "/api/v1/gc").bearer(admin_token);
    let answer = request.bytes(b"{}").try_send();
    if let Ok(answer) = &answer {
        let text = answer.text();
        let last = text
            .trim_end()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        assert!(
            last.contains("summary") || last.contains(' '),
            "no sentence: {text}"
        );
    }
    (answer.map_err(|error| error.to_string()), begin.elapsed())
}

/// A push that met an error: 507 when the disk was full, 5xx else, with a sentence, soon; or
/// 200, when the server could do without that call.
fn check_answer((answer, took): &Answer, kind: Kind) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => panic!("no answer: {error}"),
    };
    assert!(*took < REFUSED_WITHIN, "answered after {took:?}");
    let allowed: &[u16] = match kind {
        Kind::Sigkill => &[200],
        Kind::Full => &[200, 507, 503],
        Kind::Broken => &[200, 500, 503],
    };
    let text = answer.text();
    assert!(
        allowed.contains(&answer.status),
        "{}: {text}",
        answer.status
    );
    assert!(
        answer.status == 200 || text.trim().contains(' '),
        "no sentence: {text}"
    );
}
