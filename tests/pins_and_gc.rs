//! Keeping and forgetting, with the real binaries and a real Nix: what a pin keeps stays whole,
//! what nothing keeps goes, and the disk is smaller for it.

mod support;

use serde_json::Value;
use std::fs;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::nar::Nar;
use support::nix::{Nix, Node, User};
use support::random::Random;
use support::server::{Snowcached, binary};

/// As short as they can be without races: seconds for a path to be out of use, for its bytes to go.
const CONFIG: &str = "\
[uploads]
lease_s = 1
[retention]
grace_s = 1
max_age_s = 1
sweep_grace_s = 0
max_garbage_percent = 10
gc_interval_s = 0
";

/// Longer than the graces.
const LATER: Duration = Duration::from_millis(2500);

const MIB: u64 = 1 << 20;

/// A path and what it refers to, with everything below it.
struct Generation {
    top: String,
    app: String,
    library: String,
}

impl Generation {
    fn all(&self) -> [&str; 3] {
        [&self.top, &self.app, &self.library]
    }
}

/// A server, someone who pushes to it, and a machine that builds.
struct Place {
    server: Snowcached,
    user: User,
    nix: Nix,
    builder: Node,
}

impl Place {
    fn new() -> Place {
        Place::with(CONFIG)
    }

    fn with(text: &str) -> Place {
        let folder = support::folder_on_disk();
        let config = folder.path().join("snowcached.toml");
        fs::write(&config, text).expect("a configuration");
        let config = config.to_string_lossy().into_owned();
        let server = Snowcached::start_with(folder, "info", &["--config", &config]);
        Place {
            user: User::of(&server),
            server,
            nix: Nix::installed(),
            builder: Node::empty(),
        }
    }

    fn build(&self, generation: &str) -> Generation {
        let build = |attribute: &str| {
            let script = format!(
                "nix-build --no-out-link --substituters '' $FILES/generations.nix \
                 --argstr generation {generation} {attribute}"
            );
            self.builder.sh(&self.user, &self.nix, &script).ok()
        };
        Generation {
            top: build(""),
            app: build("-A app"),
            library: build("-A library"),
        }
    }

    /// By nix. It forgets first what it believes the cache to have, as after 30 days.
    fn push(&self, generation: &Generation) {
        self.user.forget();
        let copy = format!("nix copy --to $PUSH?compression=zstd {}", generation.top);
        self.builder.sh(&self.user, &self.nix, &copy).ok();
    }

    /// The client, with the token of this file.
    fn run(&self, token: &str, arguments: &[&str]) -> Output {
        let token_file = self.server.data().join(token);
        let output = Command::new(binary("snowcache"))
            .args(["--cache", &self.server.url(), "--token-file"])
            .arg(token_file)
            .args(arguments)
            .output()
            .expect("snowcache runs");
        println!(
            "$ snowcache {}\n{}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    #[track_caller]
    fn ok(&self, token: &str, arguments: &[&str]) -> String {
        let output = self.run(token, arguments);
        assert!(output.status.success(), "snowcache {}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn admin(&self, arguments: &[&str]) -> String {
        self.ok("admin.token", arguments)
    }

    fn pusher(&self, arguments: &[&str]) -> String {
        self.ok("push.token", arguments)
    }

    /// Collects until nothing goes any more; the findings of all rounds, and the last summary.
    fn collect(&self) -> (Vec<Value>, Value) {
        let mut findings = Vec::new();
        for _ in 0..5 {
            let (found, summary) = self.report(&["gc", "--json"]);
            let done = found.is_empty();
            findings.extend(found);
            if done {
                return (findings, summary);
            }
        }
        panic!("the fifth collection in a row still found something to do");
    }

    fn report(&self, arguments: &[&str]) -> (Vec<Value>, Value) {
        let lines = self.admin(arguments);
        let mut lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let mut summary = lines.pop().expect("a summary");
        (lines, summary["summary"].take())
    }

    /// Whether a path is there, without asking in a way that would keep it there.
    fn has(&self, path: &str) -> bool {
        let page = self.server.http().get("/api/v1/paths").is(200).json();
        let base = path.trim_start_matches("/nix/store/");
        let paths = page["paths"].as_array().expect("paths");
        paths.iter().any(|path| path == base)
    }

    #[track_caller]
    fn whole(&self, generation: &Generation) {
        self.admin(&["verify", "--recursive", &generation.top]);
        let fetcher = Node::empty();
        let fetch = format!("nix copy --from $URL {}", generation.top);
        self.user.forget();
        fetcher.sh(&self.user, &self.nix, &fetch).ok();
    }

    #[track_caller]
    fn gone(&self, path: &str) {
        assert!(!self.has(path), "{path} is listed");
        let hash = &path["/nix/store/".len()..][..32];
        for url in [format!("/{hash}.narinfo"), format!("/push/{hash}.narinfo")] {
            self.server.http().get(&url).is(404);
        }
    }

    fn segment_bytes(&self) -> u64 {
        let stats = self.server.stats();
        stats["segment_bytes"].as_u64().expect("a number")
    }
}

#[test]
fn what_a_pin_lets_go_is_collected_and_what_it_keeps_is_whole() {
    let place = Place::new();
    let (old, new) = (place.build("1"), place.build("2"));
    assert_eq!(old.library, new.library);
    place.push(&old);
    place.push(&new);
    place.pusher(&["pin", "set", "system", &old.top, "--keep", "1"]);
    let set = place.pusher(&["pin", "set", "system", &new.top]);
    assert_eq!(set, "pin system is at generation 2: 1 path; keeps 1\n");
    sleep(LATER);
    let (full_bytes, full_kib) = (place.segment_bytes(), place.server.disk_kib());

    let (would_go, summary) = place.report(&["gc", "--dry-run", "--json"]);
    let going: Vec<&str> = would_go
        .iter()
        .filter_map(|it| it["path"].as_str())
        .collect();
    let base = |path: &String| path.trim_start_matches("/nix/store/").to_owned();
    assert!(going.contains(&base(&old.top).as_str()), "{would_go:?}");
    assert!(going.contains(&base(&old.app).as_str()), "{would_go:?}");
    assert_eq!((going.len(), &summary["paths"]), (2, &Value::from(2)));
    assert!(
        would_go
            .iter()
            .all(|it| it["reason"].as_str().is_some_and(|why| !why.is_empty()))
    );
    assert_eq!(summary["dry_run"], true);
    assert!(
        old.all().iter().all(|path| place.has(path)),
        "a dry run changes nothing"
    );
    assert_eq!(place.segment_bytes(), full_bytes);

    let (gone, _) = place.collect();
    assert_eq!(gone.iter().filter(|it| it["what"] == "path").count(), 2);
    place.gone(&old.top);
    place.gone(&old.app);
    place.whole(&new);
    // 9 MiB of noise went; the new generation and the library are 12.
    let (left_bytes, left_kib) = (place.segment_bytes(), place.server.disk_kib());
    assert!(
        left_bytes < 14 * MIB,
        "{left_bytes} bytes of segments are left"
    );
    assert!(
        full_bytes - left_bytes > 8 * MIB,
        "from {full_bytes} to {left_bytes}"
    );
    assert!(
        full_kib - left_kib > 8 << 10,
        "du: from {full_kib} to {left_kib} KiB"
    );

    place.push(&old);
    place.whole(&old);
    place.whole(&new);
}

#[test]
fn a_rollback_keeps_the_older_generation() {
    let place = Place::new();
    let (old, new) = (place.build("1"), place.build("2"));
    for generation in [&old, &new] {
        place.push(generation);
        place.pusher(&["pin", "set", "system", &generation.top, "--keep", "1h"]);
    }
    place.pusher(&["pin", "rollback", "system"]);
    // By now the newest is kept because it is the newest, the older one because it is current.
    sleep(LATER);
    place.collect();
    place.whole(&old);
    place.whole(&new);
    let history = place.pusher(&["pin", "history", "system"]);
    let current = history.lines().find(|line| line.starts_with('*'));
    assert!(
        current.is_some_and(|line| line.contains("    1  ")),
        "{history}"
    );

    let refused = place.run("push.token", &["pin", "rm", "system"]);
    assert_eq!(refused.status.code(), Some(1));
    let sentence = String::from_utf8_lossy(&refused.stderr);
    assert!(sentence.contains("admin.token"), "{sentence}");
    place.admin(&["pin", "rm", "system"]);
    sleep(LATER);
    // What was asked for since the last look counts as asked for at this one.
    place.collect();
    sleep(LATER);
    place.collect();
    for path in old.all().into_iter().chain(new.all()) {
        place.gone(path);
    }
    assert!(
        place.segment_bytes() < MIB,
        "{} bytes are left of nothing",
        place.segment_bytes()
    );
}

#[test]
fn an_upload_that_nobody_names_goes_when_its_lease_ends() {
    let place = Place::new();
    let nar = Nar::of_file(&Random::seeded(7).bytes(20 << 20)).0;
    let token = place.server.push_token();
    let name = "/push/nar/1111111111111111111111111111111111111111111111111111.nar";
    place.server.http().put(name, &token, &nar).is(200);
    let full_bytes = place.segment_bytes();
    sleep(LATER);
    let (gone, _) = place.collect();
    assert!(gone.iter().any(|it| it["what"] == "upload"), "{gone:?}");
    assert!(
        place.segment_bytes() < MIB,
        "of {full_bytes}: {}",
        place.segment_bytes()
    );
    place
        .server
        .http()
        .request("GET", name)
        .bearer(&token)
        .send()
        .is(404);
    assert_eq!(place.server.stats()["uploads"], 0);
    place.server.http().put(name, &token, &nar).is(200);
}

#[test]
fn rm_takes_what_nothing_needs_and_says_what_needs_the_rest() {
    let place = Place::new();
    let (pinned, other) = (place.build("1"), place.build("2"));
    place.push(&pinned);
    place.push(&other);
    place.pusher(&["pin", "set", "system", &pinned.top]);

    let kept = place.run("admin.token", &["rm", &other.app, &pinned.top]);
    assert_eq!(kept.status.code(), Some(1));
    let said = String::from_utf8_lossy(&kept.stdout).into_owned();
    let line = |path: &str| {
        said.lines()
            .find(|line| line.contains(path))
            .expect("a line")
    };
    let base = |path: &str| path.trim_start_matches("/nix/store/").to_owned();
    assert!(
        line(&format!("{}:", other.app)).contains(&base(&other.top)),
        "{said}"
    );
    assert!(
        line(&format!("{}:", pinned.top)).contains("system"),
        "{said}"
    );
    place.whole(&pinned);
    place.whole(&other);

    let both = ["rm", "--dry-run", &other.app, &other.top];
    assert!(place.admin(&both).ends_with("2 paths would go\n"));
    assert!(place.has(&other.top));
    assert!(
        place
            .admin(&["rm", &other.app, &other.top])
            .ends_with("2 paths removed\n")
    );
    place.gone(&other.app);
    place.gone(&other.top);
    place.whole(&pinned);
    let again = place.run("admin.token", &["rm", &other.app]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stdout).contains("NOT HERE"));

    place.push(&other);
    place.whole(&other);
}

#[test]
fn a_collection_by_itself_ends_the_life_of_what_nobody_asks_for() {
    // The lease must outlast a slow push, of one path that refers to nothing.
    let often = CONFIG.replace("gc_interval_s = 0", "gc_interval_s = 1");
    let place = Place::with(&often.replace("lease_s = 1", "lease_s = 600"));
    let build = "nix-build --no-out-link --substituters '' $FILES/generations.nix \
                 --argstr generation 1 -A library";
    let library = place.builder.sh(&place.user, &place.nix, build).ok();
    let copy = format!("nix copy --to $PUSH?compression=zstd {library}");
    place.builder.sh(&place.user, &place.nix, &copy).ok();
    let begin = Instant::now();
    while place.has(&library) {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "it is still there"
        );
        sleep(Duration::from_millis(200));
    }
    let logged = place.server.log.since(0).join("\n");
    assert!(
        logged.contains("a path goes") && logged.contains("-library"),
        "{logged}"
    );
}
