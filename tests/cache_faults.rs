//! Named caches on a disk that fails: every call with which one is made, changed or deleted is once
//! the last thing that the server ever tried, or fails. What was acknowledged holds; what was
//! refused changed nothing and works when it is tried again; nothing half-made stays; the other
//! caches are as they were.
//!
//! The short form takes a sample that the seed chooses; `SNOWCACHE_LONG=1` takes every point.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;
use support::oracle::{copy_folder as copy, long};
use support::random::Random;
use support::server::Snowcached;
use support::strace::{self, Attached, Counted, Fault, Kind};

/// Points that the short form takes of each stage.
const SAMPLE: usize = 8;

/// What is done to a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Create,
    Set,
    Delete,
}

/// Name, and what is said of it: whether anybody may read it, its priority, its keys.
type Caches = BTreeMap<String, (Value, Value, Value)>;

#[test]
fn at_every_call_that_makes_a_cache() {
    Victim::new(Stage::Create).suffers_everything();
}

#[test]
fn at_every_call_that_changes_a_cache() {
    Victim::new(Stage::Set).suffers_everything();
}

#[test]
fn at_every_call_that_deletes_a_cache() {
    Victim::new(Stage::Delete).suffers_everything();
}

/// A server that is started, hit and judged again and again.
struct Victim {
    stage: Stage,
    server: Snowcached,
    /// The data folder before each point.
    template: tempfile::TempDir,
    token: String,
    before: Caches,
    counted: Counted,
}

impl Victim {
    /// A server with two caches, and the stage run once without a fault.
    fn new(stage: Stage) -> Victim {
        let server = Snowcached::start_with(support::folder_on_disk(), "warn", &[]);
        let mut victim = Victim {
            stage,
            token: server.admin_token(),
            server,
            template: support::folder_on_disk(),
            before: Caches::new(),
            counted: Counted::default(),
        };
        for (name, wish) in [
            ("kept", &br#"{"public": true, "priority": 35}"#[..]),
            ("old", b"{}"),
        ] {
            assert_eq!(victim.put(name, wish).expect("an answer").0, 200);
        }
        victim.before = victim.caches();
        victim.server.kill();
        copy(&victim.server.data(), &victim.template.path().join("data"));
        let folder = support::folder_on_disk();
        let log = folder.path().join("strace");
        let answer = victim.run(strace::count(&log)).expect("nothing fails");
        assert_eq!(answer.0, 200, "{answer:?}");
        victim.counted = Counted::read(&log, &victim.server.data());
        victim
    }

    fn suffers_everything(&mut self) {
        let mut random = Random::announced(&format!("faults of caches, {:?}", self.stage));
        let mut points = self.counted.points();
        points.retain(|point| point.area == "rest");
        let all = points.len();
        while !long() && points.len() > SAMPLE {
            points.swap_remove(random.below(points.len() as u64) as usize);
        }
        let (mut hit, mut failed) = (0, Vec::new());
        for point in &points {
            match catch_unwind(AssertUnwindSafe(|| self.suffers(point))) {
                Ok(came_about) => hit += usize::from(came_about),
                Err(_) => failed.push(point.to_string()),
            }
        }
        let tried = points.len();
        println!(
            "{:?}: {all} points, {tried} tried, {hit} came about",
            self.stage
        );
        assert!(failed.is_empty(), "broken at:\n{}", failed.join("\n"));
        assert!(hit * 4 >= tried * 3, "most faults must come about");
    }

    /// One point; whether its fault came about.
    fn suffers(&mut self, fault: &Fault) -> bool {
        println!("{:?}: {fault}", self.stage);
        let folder = support::folder_on_disk();
        let log = folder.path().join("strace");
        let arguments = self.counted.inject(fault, &log);
        let answer = self.run(arguments);
        let lives = self.server.runs();
        assert!(lives || fault.kind == Kind::Sigkill, "it died");
        let done = match &answer {
            Ok((200, about)) => Some(Some(about.clone())),
            Ok((status, said)) => {
                assert!((500..600).contains(status), "{status}: {said}");
                Some(None)
            }
            Err(_) => None,
        };
        let mut about = None;
        if lives {
            about = done.clone().expect("it was answered");
            assert_eq!(self.caches(), self.after(about.as_ref()));
            if about.is_none() {
                let (status, said) = self.operate().expect("an answer");
                assert_eq!(status, 200, "tried again: {said}");
                about = Some(said);
                assert_eq!(self.caches(), self.after(about.as_ref()));
            }
        }
        self.restart();
        let found = self.caches();
        match (lives, done) {
            (false, None) => assert!(self.may_be(&found), "half of it was done: {found:?}"),
            (false, Some(acknowledged)) => about = acknowledged,
            (true, _) => {}
        }
        if about.is_some() {
            assert_eq!(
                found,
                self.after(about.as_ref()),
                "what was acknowledged is not there"
            );
        }
        self.assert_tidy(&found);
        self.goes_on();
        !lives || strace::was_injected(&log)
    }

    /// Runs the stage under strace on a fresh copy; status and body of its answer.
    fn run(&mut self, arguments: Vec<String>) -> Result<(u16, Value), String> {
        self.server.kill();
        let data = self.server.data();
        fs::remove_dir_all(&data).expect("the last point's folder");
        copy(&self.template.path().join("data"), &data);
        self.server.start_again();
        let strace = Attached::to(self.server.pid(), &arguments);
        let answer = self.operate();
        strace.detach();
        answer
    }

    fn operate(&self) -> Result<(u16, Value), String> {
        match self.stage {
            // Its files are called the same in every run.
            Stage::Create => self.put("new", br#"{"key_name": "new-key-1"}"#),
            Stage::Set => self.put("old", br#"{"public": true, "priority": 50}"#),
            Stage::Delete => self.ask("DELETE", "old", b""),
        }
    }

    fn put(&self, name: &str, wish: &[u8]) -> Result<(u16, Value), String> {
        self.ask("PUT", name, wish)
    }

    fn ask(&self, method: &str, name: &str, wish: &[u8]) -> Result<(u16, Value), String> {
        let url = format!("/api/v1/caches/{name}");
        let request = self.server.http().request(method, &url);
        let answer = request.bearer(&self.token).bytes(wish).try_send();
        let answer = answer.map_err(|error| error.to_string())?;
        let text = answer.text();
        let said = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok((answer.status, said))
    }

    /// What the server says that there is.
    fn caches(&self) -> Caches {
        let request = self.server.http().request("GET", "/api/v1/caches");
        let listed = request.bearer(&self.token).send().is(200).json();
        let listed = listed["caches"].as_array().expect("a list").iter();
        listed.map(named).collect()
    }

    /// What there is when the stage was answered this, or refused.
    fn after(&self, about: Option<&Value>) -> Caches {
        let mut after = self.before.clone();
        match about {
            Some(about) if self.stage != Stage::Delete => after.extend([named(about)]),
            Some(_) => drop(after.remove("old")),
            None => {}
        }
        after
    }

    /// Whether the stage was done wholly or not at all.
    fn may_be(&self, found: &Caches) -> bool {
        let others = |all: &Caches| {
            let mut all = all.clone();
            all.retain(|name, _| name == "kept");
            all
        };
        let done = match self.stage {
            Stage::Create => found.len() == 3 && found["old"] == self.before["old"],
            Stage::Set => {
                let about = &found["old"];
                let (keys, before) = (&about.2, &self.before["old"].2);
                found.len() == 2 && about.0 == true && about.1 == 50 && keys == before
            }
            Stage::Delete => found.len() == 1,
        };
        found == &self.before || (done && others(found) == others(&self.before))
    }

    /// Nothing lies about, and every cache that there is has a key and answers.
    fn assert_tidy(&self, found: &Caches) {
        let folder = self.server.data().join("caches");
        let mut expected: Vec<String> = found.keys().cloned().collect();
        expected.insert(0, ".deleted".to_owned());
        assert_eq!(names(&folder), expected);
        for deleted in names(&folder.join(".deleted")) {
            let keys = folder.join(".deleted").join(deleted).join("keys");
            assert!(!keys.exists(), "keys of a deleted cache stay");
        }
        for (name, (_, _, keys)) in found {
            assert_eq!(keys.as_array().map(Vec::len), Some(1), "{name}: {keys}");
            let url = format!("/{name}/nix-cache-info");
            let request = self.server.http().request("GET", &url);
            request.bearer(&self.token).send().is(200);
        }
    }

    /// A cache can be made, changed and deleted, and that survives a kill.
    fn goes_on(&mut self) {
        let kept = self.caches();
        for (method, wish) in [("PUT", &b"{}"[..]), ("PUT", br#"{"priority": 7}"#)] {
            let (status, said) = self.ask(method, "another", wish).expect("an answer");
            assert_eq!(status, 200, "{said}");
        }
        self.restart();
        assert_eq!(self.caches()["another"].1, 7);
        let (status, said) = self.ask("DELETE", "another", b"").expect("an answer");
        assert_eq!(status, 200, "{said}");
        self.restart();
        assert_eq!(self.caches(), kept);
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server.start_again();
    }
}

fn named(about: &Value) -> (String, (Value, Value, Value)) {
    let name = about["name"].as_str().expect("a name").to_owned();
    let [public, priority, keys] =
        ["public", "priority", "public_keys"].map(|what| about[what].clone());
    (name, (public, priority, keys))
}

/// What lies in a folder, by name.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}
