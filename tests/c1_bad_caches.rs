//! What Nix's own functional tests expect of a client whose binary cache has gone bad, said again
//! for a cache behind HTTP: NARs missing or wrong, closures with holes, narinfos without
//! signatures.
//!
//! Ours does not get into such a state: a proxy before it does the damage.

mod support;

use support::http::Response;
use support::nix::{Nix, Node, User};
use support::proxy::{Proxy, missing};
use support::server::Snowcached;
use support::stocked::stocked;

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
fn a_broken_closure_ends_in_a_build_not_in_a_loop() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let mut user = User::of(&server);
        let builder = Node::empty();
        let expression = "import '$FILES/build.nix' \"multi\" \
                          \"mkdir -p $out; echo foo > $doc; echo $doc > $out/docref\" \
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
