//! Paths that an upstream has signed stay there: a push leaves them out, what refers to them is
//! taken all the same, and whoever reads asks the upstream for the rest.

mod support;

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use support::agent::Machine;
use support::nix::{Nix, Node, User};
use support::oracle;
use support::server::{Snowcached, binary};

/// A builder whose bottommost path is signed by an upstream that has it, and a cache that knows the
/// upstream by its key.
struct Yard {
    cache: Snowcached,
    upstream: Snowcached,
    builder: Node,
    user: User,
    nix: Nix,
    /// The path that everything refers to in the end, the one between, and the root.
    bottom: String,
    middle: String,
    top: String,
    _configured: tempfile::TempDir,
}

impl Yard {
    fn new(nix: &Nix) -> Yard {
        // Of two keys with one name in a nix.conf Nix takes one.
        let configured = support::folder_on_disk();
        let config = configured.path().join("upstream.toml");
        fs::write(&config, "[cache]\nkey_name = \"upstream-1\"\n").expect("a configuration");
        let config = config.to_string_lossy().into_owned();
        let folder = support::folder_on_disk();
        let upstream = Snowcached::start_with(folder, "info", &["--config", &config]);
        let [flag, config] = oracle::quick_collections(configured.path(), 3600);
        let text = fs::read_to_string(&config).expect("a configuration");
        let keys = format!("\n[cache]\nupstream_keys = {:?}\n", upstream.public_key());
        fs::write(&config, text + &keys).expect("a configuration");
        let cache = Snowcached::start_with(support::folder_on_disk(), "info", &[&flag, &config]);
        let mut user = User::of(&cache);
        user.set("substituters", "");
        user.variable("SNOWCACHE", &binary("snowcache").to_string_lossy());
        user.variable("SNOWCACHE_URL", &cache.url());
        user.variable("SNOWCACHE_TOKEN", &cache.push_token());
        let builder = Node::empty();
        let sh = |script: &str| builder.sh(&user, nix, script).ok();
        let top = sh("nix-build --no-out-link $FILES/dependencies.nix");
        let middle = sh(&format!("nix-store -q --references {top} | grep middle"));
        let bottom = sh(&format!("nix-store -q --references {middle} | grep bottom"));
        let (to, token) = (upstream.url(), upstream.push_token());
        sh(&format!(
            "SNOWCACHE_TOKEN={token} $SNOWCACHE push --to {to} {bottom}"
        ));
        // The builder has it from there, as it would have what it fetched.
        let signature = upstream
            .http()
            .get(&format!("/{}.narinfo", hash_of(&bottom)))
            .is(200)
            .text();
        let signature = signature
            .lines()
            .find_map(|line| line.strip_prefix("Sig: "));
        let signature = signature.expect("a signature").to_owned();
        sh(&format!(
            "nix store copy-sigs --substituter {to} {bottom} 2>&1"
        ));
        assert!(sh(&format!("nix path-info --json {bottom}")).contains(&signature));
        Yard {
            cache,
            upstream,
            builder,
            user,
            nix: nix.clone(),
            bottom,
            middle,
            top,
            _configured: configured,
        }
    }

    fn sh(&self, script: &str) -> String {
        self.builder.sh(&self.user, &self.nix, script).ok()
    }

    /// What `snowcache push --json` told of each path, and in the end.
    fn push(&self, arguments: &str) -> (Vec<(String, String)>, Value) {
        let said = self.sh(&format!("$SNOWCACHE push --json {arguments}"));
        let mut lines: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let summary = lines.pop().expect("a summary")["summary"].clone();
        let text = |line: &Value, name: &str| line[name].as_str().expect("text").to_owned();
        let lines = lines.iter();
        let told = lines.map(|line| (text(line, "path"), text(line, "outcome")));
        (told.collect(), summary)
    }

    fn there(&self) -> BTreeSet<String> {
        let paths = oracle::all_paths(self.cache.http()).into_iter();
        paths.map(|name| format!("/nix/store/{name}")).collect()
    }
}

fn hash_of(path: &str) -> &str {
    &path["/nix/store/".len()..][..32]
}

fn set(paths: &[&String]) -> BTreeSet<String> {
    paths.iter().map(|path| (*path).clone()).collect()
}

#[test]
fn what_an_upstream_signed_stays_there_and_everything_is_had() {
    for nix in Nix::both() {
        let yard = Yard::new(&nix);
        let Yard {
            bottom,
            middle,
            top,
            ..
        } = &yard;
        let key = yard.upstream.public_key();
        let name = key.split(':').next().expect("a name");

        let (told, summary) = yard.push(&format!("--dry-run {top}"));
        let outcome = |path: &String, what: &str| (path.clone(), what.to_owned());
        assert!(told.contains(&outcome(bottom, "upstream")), "{told:?}");
        assert!(told.contains(&outcome(top, "missing")), "{told:?}");
        assert_eq!(summary["upstream"], 1);
        let said = yard.sh(&format!("$SNOWCACHE push -n {top}"));
        assert!(
            said.contains(&format!("{bottom}: signed by {name}")),
            "{said}"
        );

        let (_, summary) = yard.push(top);
        assert_eq!(
            (&summary["pushed"], &summary["upstream"]),
            (&2.into(), &1.into())
        );
        assert_eq!(yard.there(), set(&[middle, top]));

        // Who looks at it is told, and finds nothing wrong.
        let closure = yard.sh(&format!("$SNOWCACHE closure {top}"));
        assert!(closure.contains("1 at upstreams; complete"), "{closure}");
        assert!(
            closure.contains(&format!("{bottom}  (signed by {name})")),
            "{closure}"
        );
        let keys = yard.cache.public_key();
        yard.sh(&format!(
            "$SNOWCACHE verify -r {top} --trusted-public-keys '{keys}'"
        ));
        yard.sh(&format!("$SNOWCACHE pin set system {top}"));

        // A stock nix asks both; so does a prefetch.
        let mut reader = User::of(&yard.cache);
        let both = format!("{} {}", yard.cache.url(), yard.upstream.url());
        reader.set("substituters", &both);
        reader.set("trusted-public-keys", &format!("{keys} {key}"));
        let node = Node::empty();
        node.sh(&reader, &nix, &format!("nix-store -r {top}")).ok();
        let word = node.sh(&reader, &nix, &format!("cat {top}/word")).ok();
        assert_eq!(word, "TOPMOST");
        let machine = Machine::new(&nix, &format!("{keys} {key}"));
        let from = format!("prefetch {top} --from {}", yard.cache.url());
        let why = machine.snowcache(&from).fails();
        assert!(why.contains(&format!("signs with {name}")), "{why}");
        let from = format!("{from} --from {}", yard.upstream.url());
        machine.snowcache(&from).ok();
        assert_eq!(
            machine.valid(&[bottom.clone(), middle.clone(), top.clone()]),
            3
        );
    }
}

#[test]
fn what_is_at_an_upstream_outlives_collections_starts_and_a_lost_index() {
    let mut yard = Yard::new(&Nix::installed());
    let (middle, top) = (yard.middle.clone(), yard.top.clone());
    yard.push(&top);
    yard.sh(&format!("$SNOWCACHE pin set system {top}"));
    let admin_token = yard.cache.admin_token();
    oracle::collect(yard.cache.http(), &admin_token).expect("a collection");
    assert_eq!(yard.there(), set(&[&middle, &top]));
    let narinfo = |yard: &Yard| {
        let path = format!("/{}.narinfo", hash_of(&middle));
        yard.cache.http().get(&path).is(200).text()
    };
    let before = narinfo(&yard);
    yard.cache.kill();
    fs::remove_dir_all(yard.cache.depot().join("index")).expect("an index");
    yard.cache.start_again();
    assert_eq!(narinfo(&yard), before);
    assert_eq!(yard.there(), set(&[&middle, &top]));
    yard.cache.stop();
    let data = yard.cache.data();
    let server = binary("snowcached").to_string_lossy().into_owned();
    yard.sh(&format!("{server} --data {} fsck 2>&1", data.display()));
    yard.cache.start_again();

    // Pushed whole it is whole; a collection keeps what is needed then.
    let (_, summary) = yard.push(&format!("--whole {top}"));
    assert_eq!(
        (&summary["pushed"], &summary["upstream"]),
        (&1.into(), &0.into())
    );
    oracle::collect(yard.cache.http(), &admin_token).expect("a collection");
    assert_eq!(yard.there(), set(&[&yard.bottom, &middle, &top]));
}

#[test]
fn who_pushes_otherwise_pushes_closures_whole() {
    for nix in Nix::both() {
        let yard = Yard::new(&nix);
        let copy = format!("nix copy --to $PUSH {}", yard.top);
        yard.sh(&copy);
        let all = set(&[&yard.bottom, &yard.middle, &yard.top]);
        assert_eq!(yard.there(), all, "{}", nix.version);
    }
    // A cache without upstreams is given everything.
    let yard = Yard::new(&Nix::newer());
    let whole = Snowcached::start();
    let said = yard.sh(&format!(
        "SNOWCACHE_TOKEN={} $SNOWCACHE push --to {} {}",
        whole.push_token(),
        whole.url(),
        yard.top
    ));
    assert!(said.contains("3 paths pushed"), "{said}");
}

#[test]
fn a_queue_is_done_when_the_rest_is_at_an_upstream() {
    let yard = Yard::new(&Nix::installed());
    let top = &yard.top;
    let said = yard.sh(&format!(
        "export SNOWCACHE_SPOOL=$HOME/spool; $SNOWCACHE hook --strict {top}
         $SNOWCACHE queue flush --wait --require-complete"
    ));
    assert!(
        said.ends_with("1 path arrived, 0 waiting, 0 failed"),
        "{said}"
    );
    assert_eq!(yard.there(), set(&[&yard.middle, top]));
}
