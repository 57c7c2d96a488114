//! What Nix's own functional tests expect of a forged content address, said again for a cache
//! behind HTTP: the cache does not take it, and a client whom another cache offers it does not
//! either.

mod support;

use std::fs;

use support::http::Response;
use support::nix::{Nix, Node, User};
use support::proxy::Proxy;
use support::server::Snowcached;

const BYTES: [&str; 5] = ["URL:", "FileHash:", "FileSize:", "NarHash:", "NarSize:"];

/// The narinfo of `good`, with everything that describes its bytes taken from `bad`.
fn forged(good: &str, bad: &str) -> String {
    let describes_bytes = |line: &&str| BYTES.iter().any(|field| line.starts_with(field));
    let kept = good.lines().filter(|line| !describes_bytes(line));
    let lines = kept.chain(bad.lines().filter(describes_bytes));
    lines.map(|line| format!("{line}\n")).collect()
}

fn narinfo_path(path: &str) -> String {
    format!("/{}.narinfo", &path["/nix/store/".len()..][..32])
}

#[test]
fn a_client_does_not_take_a_path_that_is_not_what_its_name_says() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let mut user = User::of(&server);
        fs::write(user.home().join("good.txt"), "a good path\n").expect("a file");
        fs::write(user.home().join("bad.txt"), "a bad path\n").expect("a file");
        let builder = Node::empty();
        let [good, bad] = ["good", "bad"].map(|name| {
            builder
                .sh(&user, &nix, &format!("nix-store --add $HOME/{name}.txt"))
                .ok()
        });
        builder
            .sh(&user, &nix, &format!("nix copy --to $PUSH {good} {bad}"))
            .ok();

        let asked = narinfo_path(&good);
        let [good_info, bad_info] =
            [&good, &bad].map(|path| server.http().get(&narinfo_path(path)).is(200).text());
        let lie = forged(&good_info, &bad_info);
        let liar = Proxy::before(server.address(), move |path, answer| match path {
            path if path == asked => Response {
                body: lie.clone().into_bytes(),
                headers: Vec::new(),
                ..answer
            },
            _ => answer,
        });
        user.variable("LIAR", &liar.url());
        // Neither with signatures, which the forgery breaks, nor without: the content address
        // itself is checked.
        Node::empty()
            .sh(&user, &nix, &format!("nix copy --from $LIAR {good}"))
            .fails();
        user.set("require-sigs", "false");
        Node::empty()
            .sh(&user, &nix, &format!("nix copy --from $LIAR {good}"))
            .fails();
    }
}

#[test]
fn the_cache_does_not_take_it_either() {
    for nix in Nix::both() {
        let server = Snowcached::start();
        let user = User::of(&server);
        fs::write(user.home().join("good.txt"), "a good path\n").expect("a file");
        fs::write(user.home().join("bad.txt"), "a bad path\n").expect("a file");
        let builder = Node::empty();
        let [good, bad] = ["good", "bad"].map(|name| {
            builder
                .sh(&user, &nix, &format!("nix-store --add $HOME/{name}.txt"))
                .ok()
        });
        builder
            .sh(
                &user,
                &nix,
                &format!("nix copy --to file://$HOME/folder {good} {bad}"),
            )
            .ok();
        let local = |path: &str| {
            fs::read_to_string(user.home().join("folder").join(&narinfo_path(path)[1..]))
        };
        let lie = forged(
            &local(&good).expect("a narinfo"),
            &local(&bad).expect("a narinfo"),
        );
        builder
            .sh(&user, &nix, &format!("nix copy --to $PUSH {bad}"))
            .ok();
        let url = lie
            .lines()
            .find_map(|line| line.strip_prefix("URL: "))
            .expect("a URL");
        let nar = fs::read(user.home().join("folder").join(url)).expect("the bad NAR");

        let (token, http) = (server.push_token(), server.http());
        http.put(&format!("/push/{url}"), &token, &nar).is(200);
        let answer = http.put(
            &format!("/push{}", narinfo_path(&good)),
            &token,
            lie.as_bytes(),
        );
        assert!(
            (400..500).contains(&answer.status),
            "{} {}",
            answer.status,
            answer.text()
        );
        assert!(
            answer.text().trim().len() > 20,
            "a sentence that says what is wrong: {}",
            answer.text()
        );
        http.get(&narinfo_path(&good)).is(404);
        http.get(&narinfo_path(&bad)).is(200);
    }
}
