//! What Nix's own functional tests expect of looking into NARs, said again for NARs and listings
//! that come over HTTP.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::nix::{Nix, Node, Ran, User};
use support::server::Snowcached;

/// The tree of nar-access.nix in a cache, as `$TREE`; its NAR, as served, in `$HOME/path.nar`.
struct Served {
    _server: Snowcached,
    user: User,
    builder: Node,
    tree: String,
}

fn served(nix: &Nix) -> Served {
    let server = Snowcached::start();
    let mut user = User::of(&server);
    let builder = Node::empty();
    let tree = builder
        .sh(
            &user,
            nix,
            "nix-build --no-out-link --substituters '' $FILES/nar-access.nix",
        )
        .ok();
    builder
        .sh(&user, nix, &format!("nix copy --to $PUSH {tree}"))
        .ok();
    let hash = &tree["/nix/store/".len()..][..32];
    let narinfo = server
        .http()
        .get(&format!("/{hash}.narinfo"))
        .is(200)
        .text();
    let nar_hash = narinfo
        .split("NarHash: sha256:")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let nar = server
        .http()
        .get(&format!("/nar/{}.nar", nar_hash.expect("a NarHash")))
        .is(200);
    fs::write(user.home().join("path.nar"), nar.body).expect("a file");
    user.variable("TREE", &tree);
    Served {
        _server: server,
        user,
        builder,
        tree,
    }
}

impl Served {
    /// On a machine that has nothing of it.
    fn sh(&self, nix: &Nix, script: &str) -> Ran {
        Node::empty().sh(&self.user, nix, script)
    }
}

#[test]
fn the_nar_lists_and_reads_like_the_files() {
    for nix in Nix::both() {
        let served = served(&nix);
        let files = served
            .builder
            .sh(&served.user, &nix, "cd $TREE; find . | LC_ALL=C sort")
            .ok();
        let listed = served.sh(&nix, "nix nar ls -R -d $HOME/path.nar ''").ok();
        let mut listed: Vec<&str> = listed.lines().collect();
        listed.sort_unstable();
        assert_eq!(listed, files.lines().collect::<Vec<_>>());
        for file in ["deep/words", "deep/a"] {
            let content = fs::read(served.builder.outside(&format!("{}/{file}", served.tree)))
                .expect("a file");
            for cat in [
                "nix nar cat $HOME/path.nar /",
                "nix store cat --store $URL $TREE/",
            ] {
                let printed = served.sh(
                    &nix,
                    &format!("{cat}{file} > $HOME/printed; cat $HOME/printed"),
                );
                printed.ok();
                assert_eq!(
                    fs::read(served.user.home().join("printed")).expect("a file"),
                    content,
                    "{cat}{file}"
                );
            }
        }
        served
            .sh(&nix, "nix nar cat $HOME/path.nar /deep/a/nothing")
            .fails();
    }
}

#[test]
fn shallow_and_deep_listings_come_from_the_cache() {
    for nix in Nix::both() {
        let served = served(&nix);
        let list = |arguments: &str| {
            served
                .sh(
                    &nix,
                    &format!("nix store ls --store $URL --json {arguments}"),
                )
                .json()
        };
        assert_eq!(
            list("$TREE"),
            json!({
                "type": "directory",
                "entries": {"deep": {}, "deep-not": {}, "empty": {}, "z": {}},
            })
        );
        let folder = list("-R $TREE/deep");
        let file = |size: u64, name: &str| {
            let entry = &folder["entries"][name];
            assert_eq!(
                (&entry["type"], &entry["size"]),
                (&json!("regular"), &json!(size)),
                "{name}"
            );
            assert_ne!(entry["executable"], json!(true));
        };
        file(0, "a");
        file(0, "b");
        file(54, "words");
        assert_eq!(
            folder["entries"]["er"]["entries"]["link"],
            json!({"type": "symlink", "target": "../z"})
        );
        assert_eq!(
            list("-R $TREE/empty"),
            json!({"type": "directory", "entries": {}})
        );
        assert_eq!(list("-R $TREE/z")["executable"], json!(true));
        // Where a file lies in the NAR: what a client reads with Range requests.
        let by_nar = served
            .sh(&nix, "nix nar ls --json -R $HOME/path.nar /deep")
            .json();
        for name in ["a", "b", "words"] {
            let (ours, theirs) = (
                &folder["entries"][name]["narOffset"],
                &by_nar["entries"][name]["narOffset"],
            );
            assert!(
                ours == theirs || *ours == Value::Null,
                "{name}: {ours} {theirs}"
            );
        }
    }
}

#[test]
fn what_is_not_there_is_said_not_to_be_there() {
    for nix in Nix::both() {
        let served = served(&nix);
        for arguments in ["--json -R $TREE/xyzzy", "$TREE/xyzzy"] {
            let complaint = served
                .sh(&nix, &format!("nix store ls --store $URL {arguments}"))
                .fails();
            assert!(complaint.contains("does not exist"), "{complaint}");
        }
        let stranger = "/nix/store/99999999999999999999999999999999-foo";
        served
            .sh(
                &nix,
                &format!("nix store cat --store $URL {stranger}/words"),
            )
            .fails();
    }
}
