//! Named caches and stock Nix, in both directions: each with keys, readers and writers of its own.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use support::corpus::{self, assert_same_bytes};
use support::nix::{Nix, Node, User};
use support::server::{Snowcached, binary};

/// What the client says as the operator.
#[track_caller]
fn operator(server: &Snowcached, arguments: &str) -> String {
    let mut command = Command::new(binary("snowcache"));
    command.args(["--cache", &server.url()]);
    command.args(arguments.split_whitespace());
    command.env("SNOWCACHE_TOKEN", server.admin_token());
    let output = command.output().expect("snowcache runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}{complaint}");
    said
}

#[track_caller]
fn create(server: &Snowcached, arguments: &str) -> Value {
    let said = operator(server, &format!("cache create --json {arguments}"));
    serde_json::from_str(&said).expect("JSON")
}

/// A token for one cache.
#[track_caller]
fn token(server: &Snowcached, scope: &str, cache: &str) -> String {
    let wish = format!("token create tester --scope {scope} --for-cache {cache}");
    operator(server, &wish).trim().to_owned()
}

/// Somebody who has pasted what is said of a cache, and has a token for it.
fn user_of(server: &Snowcached, about: &Value, token: &str) -> User {
    let mut user = User::of(server);
    let url = about["url"].as_str().expect("a URL");
    let keys = about["public_keys"][0].as_str().expect("a key");
    user.set("substituters", url);
    user.set("trusted-public-keys", keys);
    user.netrc(token);
    user.variable("URL", url);
    user.variable("PUSH", &format!("{url}/push"));
    user.variable("SNOWCACHE", &binary("snowcache").to_string_lossy());
    user.variable("SNOWCACHE_URL", url);
    user.variable("SNOWCACHE_TOKEN", token);
    user
}

#[test]
fn stock_nix_reads_and_writes_a_named_cache() {
    let (server, small) = (Snowcached::start(), corpus::small());
    let about = create(&server, "team-a");
    create(&server, "team-b --public");
    let pusher = user_of(&server, &about, &token(&server, "push", "team-a"));
    let reader = token(&server, "pull", "team-a");
    for nix in Nix::both() {
        let copy = format!("nix copy --to \"$PUSH?compression=zstd\" {}", small.top);
        Node::this_machine().sh(&pusher, &nix, &copy).ok();
        let fetch = format!("nix-store -r {}", small.top);
        let node = Node::empty();
        node.sh(&user_of(&server, &about, &reader), &nix, &fetch)
            .ok();
        assert_same_bytes(&node, &small.closure);
        // The same user, who remembers what was uploaded.
        let node = Node::empty();
        node.sh(&pusher, &nix, &fetch).ok();
        assert_same_bytes(&node, &small.closure);
        // Another cache's token, another cache's key, another cache.
        let stranger = user_of(&server, &about, &token(&server, "push", "team-b"));
        Node::empty().sh(&stranger, &nix, &fetch).fails();
        Node::this_machine().sh(&stranger, &nix, &copy).fails();
        let mut distrustful = user_of(&server, &about, &reader);
        distrustful.set("trusted-public-keys", &server.public_key());
        Node::empty().sh(&distrustful, &nix, &fetch).fails();
        let mut at_root = user_of(&server, &about, &reader);
        at_root.set("substituters", &server.url());
        Node::empty().sh(&at_root, &nix, &fetch).fails();
        println!("{}: {} paths both ways", nix.version, small.closure.len());
    }
}

#[test]
fn our_client_works_in_a_named_cache_and_operators_look_after_it() {
    let (server, small, nix) = (Snowcached::start(), corpus::small(), Nix::installed());
    let about = create(&server, "team-a --priority 35");
    let user = user_of(&server, &about, &token(&server, "push", "team-a"));
    let push = format!("$SNOWCACHE push --json {}", small.top);
    let said = Node::this_machine().sh(&user, &nix, &push).ok();
    let last: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["summary"]["pushed"], small.closure.len());
    let node = Node::empty();
    let fetch = format!("nix-store -r {}", small.top);
    node.sh(&user, &nix, &fetch).ok();
    assert_same_bytes(&node, &small.closure);
    let verify = Node::this_machine().sh(&user, &nix, "$SNOWCACHE verify --all");
    verify.ok();

    let listed = operator(&server, "cache list");
    assert!(
        listed.contains("team-a  private, priority 35; "),
        "{listed}"
    );
    operator(&server, "cache set team-a --public");
    let shown = operator(&server, "cache show team-a");
    assert!(shown.contains("team-a  public, "), "{shown}");
    assert!(shown.contains("\nextra-substituters = "), "{shown}");
    let gone = operator(&server, "cache delete team-a");
    assert!(gone.starts_with("team-a is deleted"), "{gone}");
    Node::empty().sh(&user, &nix, &fetch).fails();
    assert!(operator(&server, "cache list").starts_with("no named caches"));
}

/// What somebody's nix.conf says before; its last line has no end.
const BEFORE: &str = "substituters =\ntrusted-public-keys =\nmax-jobs = 1";

/// Somebody's key.
const OTHER_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

#[test]
fn one_command_has_nix_use_a_cache_and_another_undoes_it() {
    let (server, small) = (Snowcached::start(), corpus::small());
    let about = create(&server, "team-a");
    create(&server, "team-b");
    let pusher = user_of(&server, &about, &token(&server, "push", "team-a"));
    let copy = format!("nix copy --to \"$PUSH?compression=zstd\" {}", small.top);
    Node::this_machine()
        .sh(&pusher, &Nix::installed(), &copy)
        .ok();
    let reader = token(&server, "pull", "team-a");
    for nix in Nix::both() {
        for (whose, folder) in [("--user", "config/nix"), ("--system", "etc")] {
            let mut user = User::of(&server);
            for setting in ["substituters", "trusted-public-keys", "netrc-file"] {
                user.unset(setting);
            }
            user.variable("SNOWCACHE", &binary("snowcache").to_string_lossy());
            user.variable("SNOWCACHE_URL", &server.url());
            user.variable("SNOWCACHE_TOKEN", &reader);
            let folder = user.home().join(folder);
            fs::create_dir_all(&folder).expect("a folder");
            let (conf, netrc) = (folder.join("nix.conf"), folder.join("netrc"));
            fs::write(&conf, BEFORE).expect("written");
            let here = Node::this_machine();
            let says = |command: &str| {
                let script = format!("$SNOWCACHE use team-a {whose} {command}");
                here.sh(&user, &nix, &script).ok()
            };
            // Of two keys with one name Nix would believe one.
            let key = about["public_keys"][0].as_str().expect("a key");
            let (name, _) = key.split_once(':').expect("a name");
            let (_, other) = OTHER_KEY.split_once(':').expect("a name");
            let clashing = format!("{BEFORE}\nextra-trusted-public-keys = {name}:{other}\n");
            fs::write(&conf, &clashing).expect("written");
            let refused = format!("$SNOWCACHE use team-a {whose}");
            let refused = here.sh(&user, &nix, &refused).fails();
            assert!(refused.contains("one key of a name"), "{refused}");
            assert_eq!(fs::read_to_string(&conf).expect("there"), clashing);
            assert!(!netrc.exists());
            fs::write(&conf, BEFORE).expect("written");
            let fetch = format!("nix-store -r {}", small.top);
            Node::empty().sh(&user, &nix, &fetch).fails();
            assert!(says("").contains("/team-a is used: changed "));
            let mode = fs::metadata(&netrc).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let node = Node::empty();
            node.sh(&user, &nix, &fetch).ok();
            assert_same_bytes(&node, &small.closure);
            assert!(says("").contains("nothing was to be changed"));
            // Another cache of this host, which wants the same token.
            let other = format!("$SNOWCACHE use team-b {whose}");
            let refused = here.sh(&user, &nix, &other).fails();
            assert!(refused.contains("team-b"), "{refused}");
            says("--undo");
            user.forget();
            assert_eq!(fs::read_to_string(&conf).expect("there"), BEFORE);
            assert!(!netrc.exists(), "it was made for this");
            Node::empty().sh(&user, &nix, &fetch).fails();
            assert!(says("--undo").contains("nothing was to be changed"));
            println!("{}: {whose}", nix.version);
        }
    }
}

/// What `docs/caches.md` says to a shell, block by block.
fn commands() -> Vec<String> {
    let page = support::root().join("docs/caches.md");
    let page = fs::read_to_string(page).expect("docs/caches.md");
    let blocks = page.split("```sh\n").skip(1);
    let block = |text: &str| text.split("```").next().unwrap_or_default().to_owned();
    blocks.map(block).collect()
}

#[test]
fn the_operators_page_is_true() {
    let (server, small, nix) = (Snowcached::start(), corpus::small(), Nix::installed());
    let mut user = User::of(&server);
    for setting in ["substituters", "trusted-public-keys", "netrc-file"] {
        user.unset(setting);
    }
    user.variable("SNOWCACHE", &binary("snowcache").to_string_lossy());
    user.variable("SOME_PATH", &small.top);
    let etc = user.home().join("etc");
    fs::create_dir_all(&etc).expect("a folder");
    fs::write(etc.join("nix.conf"), BEFORE).expect("written");
    fs::write(user.home().join("admin.token"), server.admin_token()).expect("written");
    let blocks = commands();
    assert!(blocks.len() >= 5, "{blocks:?}");
    let script = |blocks: &[String]| {
        let text = blocks.concat();
        let text = text.replace("https://cache.example.org", &server.url());
        format!(
            "snowcache() {{ \"$SNOWCACHE\" \"$@\"; }}\nexport SNOWCACHE_URL={}\n{text}",
            server.url()
        )
    };
    // Caches and tokens; then something to read; then the rest.
    Node::this_machine()
        .sh(&user, &nix, &script(&blocks[..2]))
        .ok();
    let about = operator(&server, "cache show team-a --json");
    let about = serde_json::from_str(&about).expect("JSON");
    let token = fs::read_to_string(user.home().join("ci.token")).expect("a token");
    let pusher = user_of(&server, &about, token.trim());
    let copy = format!("nix copy --to \"$PUSH?compression=zstd\" {}", small.top);
    Node::this_machine().sh(&pusher, &nix, &copy).ok();
    let node = Node::empty();
    node.sh(&user, &nix, &script(&blocks[2..])).ok();
    assert_same_bytes(&node, &small.closure);
    let conf = fs::read_to_string(etc.join("nix.conf")).expect("there");
    assert_eq!(conf, BEFORE);
    let listed = operator(&server, "cache list");
    assert!(
        listed.contains("team-a") && !listed.contains("docs"),
        "{listed}"
    );
}
