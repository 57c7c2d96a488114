//! Many narinfos in one answer, asked for as the client does that knows how: DeterminateSystems'
//! nix-src, branch eelcodolstra/nix-421 of July 2026 (`HttpBinaryCacheStore::queryPathInfos`,
//! `Store::computeFSClosure`, `NarInfo::fromJSON`). No released client does, so its requests and
//! what it insists on are written again here.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use serde_json::Value;
use support::agent::Machine;
use support::fault::{Mode, Wire};
use support::http::{Http, Response};
use support::nar::{Nar, Upload};
use support::nix::{Nix, Node, User};
use support::oracle;
use support::server::Snowcached;

/// Where nix-cache-info says that many narinfos can be had.
fn endpoint(http: Http) -> String {
    let info = http.get("/nix-cache-info").is(200).text();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("GetNarInfosV1: "));
    format!("/{}", line.expect("it is announced"))
}

/// A request as that client sends it.
fn ask(http: Http, hashes: &[&str]) -> Response {
    ask_preferring(http, "nothing-in-particular", hashes)
}

/// The same of one that would rather have something.
fn ask_preferring(http: Http, preference: &str, hashes: &[&str]) -> Response {
    let body: String = hashes.iter().map(|hash| format!("{hash}\n")).collect();
    let request = http.request("QUERY", &endpoint(http));
    let request = request
        .header("Accept", "*/*")
        .header("Accept-Encoding", "deflate, gzip, br, zstd")
        .header("User-Agent", "curl/8.14.1 Determinate Nix/3.22.2")
        .header("Content-Type", "text/plain")
        .header("Prefer", preference);
    let mut answer = request.bytes(body.as_bytes()).send();
    if answer.status == 200 {
        assert_eq!(answer.header("content-encoding"), Some("zstd"));
        answer.body = zstd::decode_all(&answer.body[..]).expect("zstd");
    }
    answer
}

/// The answer's lines by hash part, each as that client reads it.
fn infos(answer: Response) -> BTreeMap<String, Value> {
    let answer = answer.is(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let mut infos = BTreeMap::new();
    for line in answer.text().lines() {
        let info: Value = serde_json::from_str(line).expect("one object a line");
        assert_eq!(info["version"], 2, "it insists on it: {line}");
        for wanted in ["path", "storeDir", "narHash", "narSize", "references", "ca"] {
            assert!(info.get(wanted).is_some(), "{wanted} is missing: {line}");
        }
        let path = info["path"].as_str().expect("a path");
        assert!(
            infos.insert(path[..32].to_owned(), info).is_none(),
            "twice: {line}"
        );
    }
    infos
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|one| one.as_str().expect("a string").to_owned())
        .collect()
}

/// What that client finds from `root`, and in how many requests. It fails where a reference or a
/// hint leads nowhere.
fn closure(http: Http, root: &str) -> (BTreeSet<String>, usize) {
    let (mut done, mut todo) = (BTreeSet::new(), BTreeSet::from([root.to_owned()]));
    let (mut found, mut requests) = (BTreeSet::new(), 0);
    while !todo.is_empty() {
        let batch: Vec<String> = todo.iter().map(|path| path[..32].to_owned()).collect();
        let answer = infos(ask(
            http,
            &batch.iter().map(String::as_str).collect::<Vec<_>>(),
        ));
        requests += 1;
        done.extend(std::mem::take(&mut todo));
        for path in &done {
            assert!(
                found.contains(path) || answer.contains_key(&path[..32]),
                "no {path}"
            );
        }
        for info in answer.values() {
            found.insert(info["path"].as_str().expect("a path").to_owned());
            todo.extend(strings(&info["references"]));
            todo.extend(strings(&info["partialClosure"]));
        }
        todo.retain(|path| !done.contains(path));
    }
    (found, requests)
}

/// 300 paths, each of which refers to the one, the two and the tenfold before it, and to itself.
fn tower(server: &Snowcached) -> Vec<Upload> {
    let mut tower: Vec<Upload> = Vec::new();
    for number in 0..300usize {
        let below = [
            number.checked_sub(1),
            number.checked_sub(7),
            Some(number / 10),
        ];
        let below: BTreeSet<usize> = below
            .into_iter()
            .flatten()
            .filter(|it| *it < number)
            .collect();
        let names: Vec<String> = below
            .iter()
            .map(|it| tower[*it].base_name().to_owned())
            .collect();
        let nar = Nar::of_file(format!("{number}: {names:?}").as_bytes());
        let codec = support::codec::Codec::named("none");
        let mut upload = Upload::honest(number as u64, &format!("floor-{number}"), &nar, codec);
        upload.references = names;
        upload.references.push(upload.base_name().to_owned());
        upload.references.sort();
        oracle::publish(server.http(), &server.push_token(), &upload);
        tower.push(upload);
    }
    tower
}

#[test]
fn a_closure_is_known_after_two_requests() {
    let server = Snowcached::start();
    let (http, tower) = (server.http(), tower(&server));
    let all: BTreeSet<String> = tower
        .iter()
        .map(|path| path.base_name().to_owned())
        .collect();
    let (found, requests) = closure(http, tower[299].base_name());
    assert_eq!(found, all);
    assert_eq!(requests, 2, "the root with its hint, then all the others");

    let again = ask(http, &[tower[299].hash_part(), tower[298].hash_part()]);
    let named: Vec<String> = infos(again)
        .values()
        .flat_map(|info| strings(&info["partialClosure"]))
        .collect();
    let distinct: BTreeSet<&String> = named.iter().collect();
    assert_eq!(
        named.len(),
        distinct.len(),
        "a hint never repeats another one's"
    );
    assert!(
        !distinct.contains(&tower[298].base_name().to_owned()),
        "nor what was asked for"
    );
}

#[test]
fn who_prefers_closures_has_all_of_one_after_one_request() {
    let server = Snowcached::start();
    let (http, tower) = (server.http(), tower(&server));
    let infos = infos(ask_preferring(http, "closure", &[tower[299].hash_part()]));
    let found: BTreeSet<&str> = infos.keys().map(String::as_str).collect();
    let all: BTreeSet<&str> = tower.iter().map(Upload::hash_part).collect();
    assert_eq!(found, all);
    let hints = infos.values().flat_map(|it| strings(&it["partialClosure"]));
    assert_eq!(hints.count(), 0, "there is nothing left to be named");
}

/// Paths up to which an answer goes on to what those that were asked for need.
const MOST: usize = 1000;

/// Puts these there, several at a time: `References:` has only what is there already.
fn publish(server: &Snowcached, uploads: &[Upload]) {
    thread::scope(|scope| {
        for some in uploads.chunks(uploads.len().div_ceil(8)) {
            let (http, token) = (server.http(), server.push_token());
            scope.spawn(move || {
                for upload in some {
                    oracle::publish(http, &token, upload);
                }
            });
        }
    });
}

/// A root that refers to forty paths, each of which refers to forty others: the root, its
/// references, all of them.
fn tree(server: &Snowcached) -> (Upload, Vec<Upload>, BTreeSet<String>) {
    let path = |number: u64, references: &[Upload]| {
        let nar = Nar::of_file(&number.to_le_bytes());
        let codec = support::codec::Codec::named("none");
        let mut upload = Upload::honest(number, &format!("leaf-{number}"), &nar, codec);
        let names = references.iter().map(|it| it.base_name().to_owned());
        upload.references = names.collect();
        upload.references.sort();
        upload
    };
    let leaves: Vec<Upload> = (0..1600).map(|number| path(number, &[])).collect();
    let forty = leaves.chunks(40).zip(1600..);
    let twigs: Vec<Upload> = forty.map(|(some, number)| path(number, some)).collect();
    let root = path(1640, &twigs);
    for level in [&leaves[..], &twigs, std::slice::from_ref(&root)] {
        publish(server, level);
    }
    let all = leaves.iter().chain(&twigs).chain([&root]);
    let all = all.map(|it| it.hash_part().to_owned()).collect();
    (root, twigs, all)
}

#[test]
fn of_a_longer_closure_a_thousand_paths_come_nearest_first_and_then_the_others() {
    let server = Snowcached::start();
    let (root, twigs, all) = tree(&server);
    let ask = |hashes: &[&str]| infos(ask_preferring(server.http(), "closure", hashes));
    let first = ask(&[root.hash_part()]);
    assert_eq!(first.len(), MOST);
    let near = twigs.iter().chain([&root]);
    assert!(near.map(Upload::hash_part).all(|it| first.contains_key(it)));
    // The lines themselves name what did not come.
    let named = first.values().flat_map(|it| strings(&it["references"]));
    let named: BTreeSet<String> = named.map(|it| it[..32].to_owned()).collect();
    let left = named.iter().filter(|it| !first.contains_key(*it));
    let left: Vec<&str> = left.map(String::as_str).collect();
    let second = ask(&left);
    let found: BTreeSet<String> = first.into_keys().chain(second.into_keys()).collect();
    assert!(found == all, "{} of {}", found.len(), all.len());
    // Whoever asks for more than that is answered all of it, and nothing besides.
    let asked = all.iter().filter(|it| *it != root.hash_part());
    let asked: Vec<&str> = asked.map(String::as_str).collect();
    assert_eq!(ask(&asked).len(), all.len() - 1);

    // A prefetch knows all of it after two questions, and then finds no NARs.
    let machine = Machine::new(&Nix::newer(), &server.public_key());
    let wire = Wire::to(server.address());
    wire.fail_at("/nar/", 0, Mode::Gone);
    let prefetch = format!("prefetch {} --json --from {}", root.store_path, wire.url());
    let said = machine.snowcache(&prefetch).stdout;
    let planned: Value = serde_json::from_str(said.lines().next().expect("a line")).expect("JSON");
    assert_eq!(planned["planned"]["missing"], all.len(), "{said}");
    let asked = wire.asked();
    let count = |what: &str| asked.iter().filter(|it| it.line.contains(what)).count();
    assert_eq!((count("QUERY "), count(".narinfo ")), (2, 0));
}

#[test]
fn each_line_says_what_the_narinfo_says() {
    let server = Snowcached::start();
    let (user, nix) = (User::of(&server), Nix::installed());
    // Derivations have content addresses, what they build has derivers.
    let node = Node::empty();
    let script = "nix-instantiate --store $PUSH $FILES/dependencies.nix; \
                  nix copy --to $PUSH $(nix-build --no-out-link --substituters '' \
                  $FILES/dependencies.nix)";
    node.sh(&user, &nix, script).ok();
    let http = server.http();
    let paths = oracle::all_paths(http);
    let hashes: Vec<&str> = paths.iter().map(|path| &path[..32]).collect();
    let infos = infos(ask(http, &hashes));
    assert_eq!(infos.len(), paths.len());
    let (mut addresses, mut derivers) = (0, 0);
    for (hash, info) in &infos {
        let narinfo = http.get(&format!("/{hash}.narinfo")).is(200).text();
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            narinfo
                .lines()
                .find_map(|line| line.strip_prefix(&prefix))
                .unwrap_or_default()
        };
        let sri = |hash: &str| {
            let script = format!("nix hash to-sri --type sha256 {hash}");
            node.sh(&user, &nix, &script).ok().trim().to_owned()
        };
        assert_eq!(
            info["narHash"],
            sri(field("NarHash").trim_start_matches("sha256:"))
        );
        assert_eq!(info["narSize"].to_string(), field("NarSize"));
        assert_eq!(info["url"], field("URL"));
        assert_eq!(info["compression"], field("Compression"));
        assert_eq!(info["downloadSize"].to_string(), field("FileSize"));
        assert_eq!(strings(&info["references"]).join(" "), field("References"));
        assert_eq!(strings(&info["signatures"]), [field("Sig")]);
        assert_eq!(info["storeDir"], "/nix/store");
        match field("Deriver") {
            "" => assert!(info["deriver"].is_null()),
            deriver => {
                derivers += 1;
                assert_eq!(info["deriver"], deriver);
            }
        }
        match field("CA").strip_prefix("text:sha256:") {
            None => assert!(info["ca"].is_null(), "{narinfo}"),
            Some(address) => {
                addresses += 1;
                assert_eq!(info["ca"]["method"], "text");
                assert_eq!(info["ca"]["hash"], sri(address));
            }
        }
    }
    assert!(addresses >= 3 && derivers >= 3, "{addresses}, {derivers}");
}

#[test]
fn what_is_not_there_is_not_in_the_answer() {
    let server = Snowcached::start();
    let (http, tower) = (server.http(), tower(&server));
    let absent = support::nar::hash_part(9999);
    let answer = infos(ask(
        http,
        &[&absent, tower[0].hash_part(), tower[0].hash_part()],
    ));
    assert_eq!(answer.keys().collect::<Vec<_>>(), [tower[0].hash_part()]);
    assert!(infos(ask(http, &[])).is_empty());

    // What was removed is neither listed nor hinted at.
    let top: Vec<&str> = tower[290..].iter().map(Upload::base_name).collect();
    oracle::remove(http, &server.admin_token(), &top).expect("removed");
    assert!(infos(ask(http, &[tower[299].hash_part()])).is_empty());
    let (found, _) = closure(http, tower[289].base_name());
    assert_eq!(found.len(), 290);
}

#[test]
fn a_wrong_question_is_told_what_is_wrong() {
    let server = Snowcached::start();
    let http = server.http();
    let good = support::nar::hash_part(1);
    let answer = ask(http, &[&good, "not-a-hash"]).is(400).text();
    assert!(answer.contains("hash 2"), "{answer}");
    let many: Vec<&str> = vec![&good; 100_001];
    let answer = ask(http, &many).is(413).text();
    assert!(answer.contains("100000"), "{answer}");
    let answer = http.get(&endpoint(http)).is(405);
    assert_eq!(answer.header("allow"), Some("QUERY, POST"));
    // Its documentation still says POST.
    let request = http.request("POST", &endpoint(http)).bytes(good.as_bytes());
    assert!(infos(request.send()).is_empty());
    // The same below /push, where a client that pushes looks for references.
    let below = format!("/push{}", endpoint(http));
    assert!(infos(http.request("QUERY", &below).bytes(good.as_bytes()).send()).is_empty());
}
