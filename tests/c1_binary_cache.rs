//! What Nix's own functional tests expect of a binary cache, said again for a cache behind HTTP:
//! building into it, asking it, substituting from it. (For one that has gone bad: c1_bad_caches.)

mod support;

use serde_json::json;
use support::nix::{Nix, Node, User};
use support::server::Snowcached;
use support::stocked::{Stocked, stocked};

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
fn listings_are_made_by_the_cache_whoever_asks_for_them() {
    for (nix, ask) in Nix::both().into_iter().zip(["?write-nar-listing=1", ""]) {
        let server = Snowcached::start();
        let user = User::of(&server);
        let builder = Node::empty();
        let build = "nix-build --no-out-link --substituters '' \
                     -E 'import '$FILES/build.nix' \"nar-listing\" \
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
            "nix-build --no-out-link --substituters '' -E 'import '$FILES/build.nix' \
             \"debug-info\" \
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
