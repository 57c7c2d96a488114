//! The other commands of stock Nix against a cache, old and new: verify, ls, cat, log, path-info;
//! content-addressed paths and realisations.

mod support;

use serde_json::Value;
use support::corpus::{self, assert_same_bytes};
use support::nix::{Nix, Node, User, path_infos};
use support::server::Snowcached;

/// A server that holds the small closure, and someone who uses it.
fn stocked() -> (Snowcached, User) {
    let server = Snowcached::start();
    let user = User::of(&server);
    let push = format!("nix copy --to $PUSH {}", corpus::small().top);
    Node::this_machine()
        .sh(&user, &Nix::installed(), &push)
        .ok();
    (server, user)
}

#[test]
fn store_verify_reads_everything_back_and_trusts_our_key() {
    let (_server, mut user) = stocked();
    let top = &corpus::small().top;
    for nix in Nix::both() {
        let node = Node::empty();
        node.sh(
            &user,
            &nix,
            &format!("nix store verify --store $URL -r {top} --sigs-needed 1"),
        )
        .ok();
        node.sh(
            &user,
            &nix,
            &format!("nix store verify --store $URL -r {top} --no-trust"),
        )
        .ok();
    }
    user.set("trusted-public-keys", "");
    for nix in Nix::both() {
        let verify =
            format!("nix store verify --store $URL -r {top} --sigs-needed 1 --no-contents");
        Node::empty().sh(&user, &nix, &verify).fails();
    }
}

#[test]
fn store_ls_and_cat_see_the_same_files_as_the_origin() {
    let (server, user) = stocked();
    for nix in Nix::both() {
        for path in &corpus::small().closure {
            let remote = format!("nix store ls --store $URL -R --json {path}");
            let remote = Node::empty().sh(&user, &nix, &remote).json();
            let local = format!("nix store ls -R --json {path}");
            let local = Node::this_machine().sh(&user, &nix, &local).json();
            assert_eq!(without_offsets(remote), without_offsets(local), "{path}");
        }
        let top = &corpus::small().top;
        let unit = Node::empty().sh(
            &user,
            &nix,
            &format!(
                "nix store ls --store $URL -R {top} | grep -F .conf | head -n1 | sed 's,^./,,'"
            ),
        );
        let unit = unit.ok();
        let remote = Node::empty().sh(
            &user,
            &nix,
            &format!("nix store cat --store $URL {top}/{unit}"),
        );
        let local = std::fs::read_to_string(format!("{top}/{unit}")).expect("a file of the corpus");
        assert_eq!(remote.ok(), local.trim_end());
    }
    // The listing that we make is the one that Nix makes of the NAR, offsets included.
    for path in &corpus::small().closure {
        let listing = server
            .http()
            .get(&format!("/{}.ls", &path["/nix/store/".len()..][..32]));
        let listing = listing.is(200).json();
        assert_eq!(listing["version"], 1);
        let by_nix = format!("nix-store --dump {path} > nar && nix nar ls -R --json nar / ");
        let by_nix = Node::this_machine()
            .sh(&user, &Nix::newer(), &by_nix)
            .json();
        assert_eq!(
            without_false(listing["root"].clone()),
            without_false(by_nix),
            "{path}"
        );
    }
}

#[test]
fn path_info_tells_of_every_path_what_its_origin_tells() {
    let (server, user) = stocked();
    let key_name = server
        .public_key()
        .split(':')
        .next()
        .expect("name:key")
        .to_owned();
    let top = &corpus::small().top;
    for nix in Nix::both() {
        let remote = format!("nix path-info --store $URL --json -r {top}");
        let remote = path_infos(Node::empty().sh(&user, &nix, &remote).json());
        let local = format!("nix path-info --json -r {top}");
        let local = path_infos(Node::this_machine().sh(&user, &nix, &local).json());
        assert_eq!(remote.len(), local.len());
        for ((path, ours), (origin_path, origin)) in remote.iter().zip(&local) {
            assert_eq!(path, origin_path);
            for fact in ["narHash", "narSize", "deriver"] {
                assert_eq!(ours[fact], origin[fact], "{fact} of {path}");
            }
            assert_eq!(
                sorted(&ours["references"]),
                sorted(&origin["references"]),
                "{path}"
            );
            let signatures = sorted(&ours["signatures"]);
            let ours = signatures
                .iter()
                .filter(|sig| sig.starts_with(&format!("{key_name}:")));
            assert_eq!(ours.count(), 1, "{path}: {signatures:?}");
        }
        let closure_size = format!("nix path-info --store $URL -S --json {top}");
        let size = path_infos(Node::empty().sh(&user, &nix, &closure_size).json());
        let sum: u64 = local
            .iter()
            .filter_map(|(_, info)| info["narSize"].as_u64())
            .sum();
        assert_eq!(size[0].1["closureSize"], sum);
    }
}

#[test]
fn build_logs_go_in_and_come_out() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let user = User::of(&server);
        let builder = Node::empty();
        let top = builder.sh(
            &user,
            &nix,
            "nix-build $FILES/dependencies.nix --no-out-link --substituters ''",
        );
        let top = top.ok();
        builder
            .sh(&user, &nix, &format!("nix copy --to $PUSH {top}"))
            .ok();
        builder
            .sh(&user, &nix, &format!("nix store copy-log --to $PUSH {top}"))
            .ok();

        let derivation = builder
            .sh(&user, &nix, &format!("nix-store -qd {top}"))
            .ok();
        let elsewhere = Node::empty();
        let log = elsewhere
            .sh(&user, &nix, &format!("nix log --store $URL {top}"))
            .ok();
        assert!(log.contains("TOP is built"), "{log}");
        // The builder itself has lost its logs, and finds this one in the cache; another it has
        // never sent is not there.
        std::fs::remove_dir_all(builder.outside("/nix/var/log/nix")).expect("the builder's logs");
        let log = builder
            .sh(
                &user,
                &nix,
                &format!("nix log --substituters $URL {derivation}"),
            )
            .ok();
        assert!(log.contains("TOP is built"), "{log}");
        let middle = builder.sh(
            &user,
            &nix,
            "nix-instantiate $FILES/dependencies.nix -A middle",
        );
        let middle = format!("nix log --store $URL {}", middle.ok());
        assert!(elsewhere.sh(&user, &nix, &middle).failed());
    }
}

/// Content-addressed paths carry their own proof: they come in with no key trusted at all.
#[test]
fn content_addressed_paths_need_no_signature() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let mut user = User::of(&server);
        let builder = Node::empty();
        let build = "nix-build --no-out-link --substituters '' $FILES/content-addressed.nix -A flat
            for plain in text textWithReference tree; do
              nix-instantiate --eval --read-write-mode --json --strict \\
                $FILES/content-addressed.nix -A $plain | jq -r .
            done
            nix-store --add $FILES/tree/file
            nix-store --add-fixed --recursive sha1 $FILES/tree";
        let printed = builder.sh(&user, &nix, build).ok();
        let paths: Vec<&str> = printed.lines().collect();
        assert!(paths.len() >= 9, "{paths:?}");
        builder
            .sh(
                &user,
                &nix,
                &format!("nix copy --to $PUSH {}", paths.join(" ")),
            )
            .ok();

        user.set("trusted-public-keys", "");
        let fetcher = Node::empty();
        fetcher
            .sh(
                &user,
                &nix,
                &format!("nix copy --from $URL {}", paths.join(" ")),
            )
            .ok();
        for path in paths {
            let narinfo = server
                .http()
                .get(&format!("/{}.narinfo", &path["/nix/store/".len()..][..32]));
            assert!(narinfo.is(200).text().contains("\nCA: "), "{path}");
            let (there, here) = (fetcher.outside(path), builder.outside(path));
            assert_eq!(
                corpus::dump_sha256(&there),
                corpus::dump_sha256(&here),
                "{path}"
            );
        }
    }
}

/// Floating outputs: a machine that never built them finds them through the realisations, without
/// building.
#[test]
fn realisations_lead_to_what_another_machine_built() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let mut user = User::of(&server);
        user.set("experimental-features", "nix-command ca-derivations");
        let builder = Node::empty();
        let key =
            "cd $HOME; nix-store --generate-binary-cache-key builder-1 builder.sec builder.pub
            cat builder.pub";
        let builder_key = builder.sh(&user, &nix, key).ok();
        user.set(
            "trusted-public-keys",
            &format!("{} {builder_key}", server.public_key()),
        );
        let build = "nix-build --no-out-link --substituters '' \
                     --secret-key-files $HOME/builder.sec $FILES/floating.nix";
        let top = builder.sh(&user, &nix, build).ok();
        builder
            .sh(
                &user,
                &nix,
                "nix copy --to $PUSH --file $FILES/floating.nix",
            )
            .ok();

        let elsewhere = Node::empty();
        let substitute = "nix-build --no-out-link -j0 $FILES/floating.nix";
        assert_eq!(elsewhere.sh(&user, &nix, substitute).ok(), top);
        let (there, here) = (elsewhere.outside(&top), builder.outside(&top));
        assert_eq!(corpus::dump_sha256(&there), corpus::dump_sha256(&here));
    }
}

/// A derivation is a path like any other: `nix copy --derivation` there, `nix-store -r` of the
/// .drv back.
#[test]
fn derivations_travel_too() {
    let server = Snowcached::start();
    let user = User::of(&server);
    for nix in Nix::both() {
        let builder = Node::empty();
        let drv = builder.sh(
            &user,
            &nix,
            "nix-instantiate $FILES/dependencies.nix --add-root $HOME/drv",
        );
        drv.ok();
        let drv = builder.sh(&user, &nix, "readlink -f $HOME/drv").ok();
        builder
            .sh(
                &user,
                &nix,
                &format!("nix copy --derivation --to $PUSH {drv}"),
            )
            .ok();
        let elsewhere = Node::empty();
        elsewhere
            .sh(
                &user,
                &nix,
                &format!("nix copy --derivation --from $URL {drv}"),
            )
            .ok();
        let requisites = elsewhere
            .sh(&user, &nix, &format!("nix-store -qR {drv}"))
            .ok();
        assert_eq!(requisites.lines().count(), 4, "{requisites}");
    }
}

/// An ordinary closure that is content-addressed in places only: the corpus has `.drv` files and
/// outputs side by side.
#[test]
fn the_small_closure_arrives_with_its_derivations() {
    let server = Snowcached::start();
    let (user, nix) = (User::of(&server), Nix::newer());
    let top = &corpus::small().top;
    let deriver = Node::this_machine()
        .sh(&user, &nix, &format!("nix-store -qd {top}"))
        .ok();
    let push = format!("nix copy --to $PUSH --derivation {deriver} && nix copy --to $PUSH {top}");
    Node::this_machine().sh(&user, &nix, &push).ok();
    let node = Node::empty();
    node.sh(
        &user,
        &nix,
        &format!("nix copy --from $URL --derivation {deriver}; nix copy --from $URL {top}"),
    )
    .ok();
    assert_same_bytes(&node, &corpus::small().closure);
    assert_same_bytes(&node, &corpus::closure(&deriver));
}

fn without_offsets(listing: Value) -> Value {
    match listing {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, _)| key != "narOffset");
            let kept =
                kept.filter(|(key, value)| !(key == "executable" && value == &Value::Bool(false)));
            kept.map(|(key, value)| (key, without_offsets(value)))
                .collect()
        }
        other => other,
    }
}

/// Nix writes `"executable": false` or leaves it out, by version.
fn without_false(listing: Value) -> Value {
    match listing {
        Value::Object(map) => map
            .into_iter()
            .filter(|(key, value)| !(key == "executable" && value == &Value::Bool(false)))
            .map(|(key, value)| (key, without_false(value)))
            .collect(),
        other => other,
    }
}

fn sorted(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut texts: Vec<String> = list
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    texts.sort();
    texts
}
