//! What Nix's own functional tests expect of a binary cache, said again for a cache behind HTTP: building into it, substituting
//! from it, and what a client does when something has gone missing from it or does not match.
//!
//! Where a test needs a cache in a bad state that ours does not get into, a proxy before it does the damage.

mod support;

use serde_json::json;
use support::http::Response;
use support::nix::{Nix, Node, User};
use support::proxy::{Proxy, missing};
use support::server::Snowcached;

/// A server that holds the four-path closure of dependencies.nix, and who pushed it from where.
struct Stocked {
    server: Snowcached,
    user: User,
    builder: Node,
    top: String,
}

fn stocked(nix: &Nix) -> Stocked {
    let server = Snowcached::start();
    let mut user = User::of(&server);
    let builder = Node::empty();
    let top = "nix-build --no-out-link --substituters '' $FILES/dependencies.nix";
    let top = builder.sh(&user, nix, top).ok();
    user.variable("TOP", &top);
    builder.sh(&user, nix, "nix copy --to $PUSH $TOP").ok();
    Stocked {
        server,
        user,
        builder,
        top,
    }
}

impl Stocked {
    /// Someone who has never asked this cache, and has only this substituter.
    fn newcomer(&self, substituters: &str) -> User {
        let mut user = User::of(&self.server);
        user.variable("TOP", &self.top)
            .set("substituters", substituters);
        user
    }

    /// A bad cache: this one behind a proxy.
    fn behind(&self, spoil: impl Fn(&str, Response) -> Response + Send + Sync + 'static) -> Proxy {
        Proxy::before(self.server.address(), spoil)
    }
}

#[test]
fn derivations_can_be_written_straight_into_it() {
    // Nix 2.8 can: `writeDerivation` on a binary cache.
    for nix in Nix::both() {
        let server = Snowcached::start();
        let user = User::of(&server);
        let node = Node::empty();
        node.sh(
            &user,
            &nix,
            "nix-instantiate --store $PUSH $FILES/dependencies.nix",
        )
        .ok();
        assert_eq!(server.stats()["paths"], 4, "the four derivations");
    }
}

#[test]
fn it_holds_the_closure_and_nothing_else() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let paths = stocked
            .server
            .http()
            .get("/api/v1/paths?limit=100")
            .is(200)
            .json();
        let mut names: Vec<&str> = paths["paths"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|path| &path.as_str().expect("a path")[33..])
            .collect();
        names.sort_unstable();
        // The extra input was needed for building only.
        assert_eq!(
            names,
            [
                "dependencies-bottom",
                "dependencies-middle",
                "dependencies-top"
            ]
        );
    }
}

#[test]
fn logs_are_not_there_until_they_are_copied() {
    for nix in Nix::both() {
        let Stocked { user, builder, .. } = &stocked(&nix);
        builder.sh(user, &nix, "nix log --store $URL $TOP").fails();
        builder
            .sh(user, &nix, "nix store copy-log --to $PUSH $TOP")
            .ok();
        assert!(
            builder
                .sh(user, &nix, "nix log --store $URL $TOP")
                .ok()
                .contains("TOP is built")
        );

        std::fs::remove_dir_all(builder.outside("/nix/var/log/nix")).expect("the builder's logs");
        builder
            .sh(user, &nix, "nix log --substituters '' $TOP")
            .fails();
        assert!(
            builder
                .sh(user, &nix, "nix log --substituters $URL $TOP")
                .ok()
                .contains("TOP is built")
        );

        let outputs = if nix.version.contains("2.8") {
            ""
        } else {
            "^'*'"
        };
        let copy = format!("nix store copy-log --from $URL $(nix-store -qd $TOP){outputs}");
        builder.sh(user, &nix, &copy).ok();
        assert!(
            builder
                .sh(user, &nix, "nix log --substituters '' $TOP")
                .ok()
                .contains("TOP is built")
        );
    }
}

#[test]
fn a_plus_in_a_name_is_a_plus() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let user = User::of(&server);
        let builder = Node::empty();
        let build = "nix-build --no-out-link --substituters '' -E \
                     'import '$FILES/build.nix' \"c++-1.0\" \"echo PLUS; echo plus > $out\" {}'";
        let path = builder.sh(&user, &nix, build).ok();
        builder
            .sh(
                &user,
                &nix,
                &format!("nix copy --to $PUSH {path}; nix store copy-log --to $PUSH {path}"),
            )
            .ok();
        assert!(
            builder
                .sh(&user, &nix, &format!("nix log --store $URL {path}"))
                .ok()
                .contains("PLUS")
        );
        assert_eq!(
            Node::empty()
                .sh(&user, &nix, &format!("nix-store -r {path}; cat {path}"))
                .ok(),
            format!("{path}\nplus")
        );
    }
}

#[test]
fn a_query_sees_what_can_be_had_and_realising_gets_it() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let (user, node) = (&stocked.user, Node::empty());
        // Priority and WantMassQuery are ours: nix-env may ask for whole package sets.
        for _ in 0..2 {
            let seen = node
                .sh(user, &nix, "nix-env -f $FILES/dependencies.nix -qas '*'")
                .ok();
            assert!(seen.contains("--S"), "{seen}");
        }
        let none = "nix-env --substituters '' -f $FILES/dependencies.nix -qas '*' --prebuilt-only";
        assert_eq!(node.sh(user, &nix, none).ok(), "");
        node.sh(
            user,
            &nix,
            "nix-store -r $TOP; test -x $TOP/program; nix-store --check-validity $TOP",
        )
        .ok();
        assert!(
            node.sh(user, &nix, "nix-store -qR $TOP")
                .ok()
                .contains("-dependencies-bottom")
        );
    }
}

/// Newer clients download once, these may both ask before either has the path: both must end well.
#[test]
fn two_substitutions_at_once_both_end_well() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let proxy = stocked.behind(|_, answer| answer);
        let user = stocked.newcomer(&proxy.url());
        let node = Node::empty();
        // Caches of their own, because 2.8 trips over another's new row in its cache of narinfos.
        let twice = "nix-store --init
            XDG_CACHE_HOME=$HOME/one nix-store -r $TOP & one=$!
            XDG_CACHE_HOME=$HOME/two nix-store -r $TOP & two=$!
            wait $one; wait $two; nix-store --verify --check-contents";
        node.sh(&user, &nix, twice).ok();
        let asked = proxy.asked();
        let nars = asked
            .iter()
            .filter(|asked| asked.starts_with("GET /nar/"))
            .count();
        assert!((3..=6).contains(&nars), "{asked:?}");
    }
}

#[test]
fn a_nar_that_is_not_the_one_of_its_narinfo_is_noticed() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let other =
            support::codec::Codec::named("zstd").compress(&support::nar::Nar::of_file(b"other").0);
        let proxy = stocked.behind(move |path, answer| match path {
            path if path.starts_with("/nar/") => Response {
                body: other.clone(),
                ..answer
            },
            _ => answer,
        });
        let user = stocked.newcomer(&proxy.url());
        let complaint = Node::empty().sh(&user, &nix, "nix-store -r $TOP").fails();
        assert!(complaint.contains("mismatch"), "{complaint}");
    }
}

#[test]
fn with_signatures_required_an_unsigned_cache_is_no_cache() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let unsigned = stocked.behind(|path, answer| {
            edit(path, answer, ".narinfo", |line| !line.starts_with("Sig:"))
        });
        let user = stocked.newcomer(&unsigned.url());
        Node::empty().sh(&user, &nix, "nix-store -r $TOP").fails();
        let mut user = stocked.newcomer(&unsigned.url());
        user.set("require-sigs", "false");
        Node::empty().sh(&user, &nix, "nix-store -r $TOP").ok();
    }
}

#[test]
fn when_nars_have_disappeared_the_client_builds() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let gone = stocked.behind(|path, answer| {
            if path.starts_with("/nar/") {
                missing()
            } else {
                answer
            }
        });
        let user = stocked.newcomer(&gone.url());
        let build = "nix-build --no-out-link $FILES/dependencies.nix";
        let node = Node::empty();
        let ran = node.sh(&user, &nix, build);
        assert!(
            ran.stderr.contains("does not exist in binary cache") || ran.stderr.contains("404"),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.ok(), stocked.top);
    }
}

#[test]
fn when_nars_are_empty_the_client_builds_if_it_may_fall_back() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let empty = stocked.behind(|path, answer| match path {
            path if path.starts_with("/nar/") => Response {
                body: Vec::new(),
                headers: Vec::new(),
                ..answer
            },
            _ => answer,
        });
        let user = stocked.newcomer(&empty.url());
        let build = "nix-build --no-out-link $FILES/dependencies.nix";
        Node::empty().sh(&user, &nix, build).fails();
        Node::empty()
            .sh(&user, &nix, &format!("{build} --fallback"))
            .ok();
    }
}

#[test]
fn an_incomplete_closure_is_completed_by_building() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let bottom = stocked
            .builder
            .sh(&stocked.user, &nix, "nix-store -qR $TOP | grep bottom")
            .ok();
        let narinfo = format!("/{}.narinfo", &bottom["/nix/store/".len()..][..32]);
        let holey =
            stocked.behind(move |path, answer| if path == narinfo { missing() } else { answer });
        let user = stocked.newcomer(&holey.url());
        let ran = Node::empty().sh(
            &user,
            &nix,
            "nix-build --no-out-link $FILES/dependencies.nix",
        );
        assert!(
            ran.stderr.contains("dependencies-bottom.drv"),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.ok(), stocked.top);
    }
}

#[test]
fn only_the_right_key_opens_it_among_others_too() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let mut user = stocked.newcomer(&stocked.server.url());
        let good = stocked.server.public_key();
        let key = |name: &str| {
            let make = format!(
                "nix key generate-secret --key-name {name} | nix key convert-secret-to-public"
            );
            Node::empty().sh(&User::new(), &nix, &make).ok()
        };
        let name = good.split(':').next().expect("name:key");
        user.set("trusted-public-keys", "");
        Node::empty().sh(&user, &nix, "nix-store -r $TOP").fails();
        user.set("trusted-public-keys", &key(name));
        Node::empty().sh(&user, &nix, "nix-store -r $TOP").fails();
        user.set(
            "trusted-public-keys",
            &format!("{} {good}", key("foo.example.org-1")),
        );
        Node::empty().sh(&user, &nix, "nix-store -r $TOP").ok();
    }
}

#[test]
fn a_narinfo_without_its_references_is_refused_and_a_good_cache_beside_it_is_used() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let bad = stocked.behind(|path, answer| {
            edit(path, answer, ".narinfo", |line| {
                !line.starts_with("References:")
            })
        });
        let user = stocked.newcomer(&bad.url());
        Node::empty().sh(&user, &nix, "nix-store -r $TOP").fails();
        let user = stocked.newcomer(&format!("{} {}", bad.url(), stocked.server.url()));
        Node::empty().sh(&user, &nix, "nix-store -r $TOP").ok();
    }
}

#[test]
fn everything_in_it_verifies() {
    for nix in Nix::both() {
        let Stocked { user, .. } = &stocked(&nix);
        Node::empty()
            .sh(
                user,
                &nix,
                "nix store verify -r --store $URL --no-trust $TOP",
            )
            .ok();
    }
}

#[test]
fn a_local_nar_cache_serves_when_the_nars_are_gone() {
    for nix in Nix::both() {
        let stocked = stocked(&nix);
        let mut user = stocked.newcomer("");
        let word = "nix store cat --store \"$CACHE?local-nar-cache=$HOME/nars\" $TOP/word";
        user.variable("CACHE", &stocked.server.url());
        let node = Node::empty();
        assert_eq!(
            node.sh(&user, &nix, &format!("mkdir -p $HOME/nars; {word}"))
                .ok(),
            "TOPMOST"
        );
        let gone = stocked.behind(|path, answer| {
            if path.starts_with("/nar/") {
                missing()
            } else {
                answer
            }
        });
        user.variable("CACHE", &gone.url());
        assert_eq!(node.sh(&user, &nix, word).ok(), "TOPMOST");
        node.sh(&user, &nix, "nix store cat --store $CACHE $TOP/word")
            .fails();
    }
}

#[test]
fn listings_are_made_by_the_cache_whoever_asks_for_them() {
    for (nix, ask) in Nix::both().into_iter().zip(["?write-nar-listing=1", ""]) {
        let server = Snowcached::start();
        let user = User::of(&server);
        let builder = Node::empty();
        let build = "nix-build --no-out-link --substituters '' -E 'import '$FILES/build.nix' \"nar-listing\" \
                     \"mkdir $out; echo foo > $out/bar; ln -s xyzzy $out/link\" {}'";
        let path = builder.sh(&user, &nix, build).ok();
        builder
            .sh(&user, &nix, &format!("nix copy --to \"$PUSH{ask}\" {path}"))
            .ok();
        let listing = server
            .http()
            .get(&format!("/{}.ls", &path["/nix/store/".len()..][..32]))
            .is(200)
            .json();
        let bar = &listing["root"]["entries"]["bar"];
        assert_eq!(listing["version"], 1);
        assert_eq!(listing["root"]["type"], "directory");
        assert_eq!(
            (&bar["type"], &bar["size"], &bar["narOffset"]),
            (&json!("regular"), &json!(4), &json!(232))
        );
        assert_eq!(
            listing["root"]["entries"]["link"],
            json!({"type": "symlink", "target": "xyzzy"})
        );
    }
}

#[test]
fn debug_info_links_do_not_stop_an_upload() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let user = User::of(&server);
        let builder = Node::empty();
        let id = "lib/debug/.build-id/02/623eda209c26a59b1a8638ff7752f6b945c26b.debug";
        let build = format!(
            "nix-build --no-out-link --substituters '' -E 'import '$FILES/build.nix' \"debug-info\" \
             \"mkdir -p $out/lib/debug/.build-id/02; echo foo > $out/{id}\" {{}}'"
        );
        let path = builder.sh(&user, &nix, &build).ok();
        builder
            .sh(
                &user,
                &nix,
                &format!("nix copy --to \"$PUSH?index-debug-info=1&compression=none\" {path}"),
            )
            .ok();
        assert_eq!(
            Node::empty()
                .sh(
                    &user,
                    &nix,
                    &format!("nix store cat --store $URL {path}/{id}")
                )
                .ok(),
            "foo"
        );
    }
}

#[test]
fn a_broken_closure_ends_in_a_build_not_in_a_loop() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let mut user = User::of(&server);
        let builder = Node::empty();
        let expression = "import '$FILES/build.nix' \"multi\" \"mkdir -p $out; echo foo > $doc; echo $doc > $out/docref\" \
                          { outputs = [ \"out\" \"doc\" ]; }";
        let build = format!("nix-build --no-out-link -E '{expression}'");
        let out = builder
            .sh(&user, &nix, &format!("{build} --substituters ''"))
            .ok();
        let doc = builder
            .sh(&user, &nix, &format!("nix-store -q --references {out}"))
            .ok();
        builder
            .sh(&user, &nix, &format!("nix copy --to $PUSH {out}"))
            .ok();
        let narinfo = format!("/{}.narinfo", &doc["/nix/store/".len()..][..32]);
        let broken = Proxy::before(server.address(), move |path, answer| {
            if path == narinfo { missing() } else { answer }
        });
        user.set("substituters", &broken.url());
        assert_eq!(
            Node::empty()
                .sh(&user, &nix, &format!("timeout 60 {build}"))
                .ok(),
            out
        );
    }
}

#[test]
fn what_the_cache_said_of_itself_is_remembered() {
    for nix in Nix::both() {
        let Stocked {
            mut server, user, ..
        } = stocked(&nix);
        let info = Node::empty();
        info.sh(&user, &nix, "nix store ping --store $URL").ok();
        server.kill();
        info.sh(&user, &nix, "nix store ping --store $URL").ok();
    }
}

/// Drops the lines of some answers that are not to be kept.
fn edit(path: &str, answer: Response, ending: &str, keep: impl Fn(&str) -> bool) -> Response {
    if !path.ends_with(ending) || answer.status != 200 {
        return answer;
    }
    let text = answer.text();
    let kept: String = text
        .lines()
        .filter(|line| keep(line))
        .map(|line| format!("{line}\n"))
        .collect();
    Response {
        body: kept.into_bytes(),
        headers: Vec::new(),
        ..answer
    }
}
