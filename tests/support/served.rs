//! Everything that a server serves, to be compared with what it serves later, or with what somebody
//! else makes of its files.

use std::collections::BTreeMap;

use super::http::Http;

/// What is served of one path.
#[derive(Clone, PartialEq, Eq)]
pub struct Served {
    pub narinfo: String,
    /// The file that the narinfo names, and its name.
    pub url: String,
    pub file: Vec<u8>,
    pub nar: Vec<u8>,
}

/// Every path that the cache lists, by `<hash>-<name>`.
pub fn everything(http: Http) -> BTreeMap<String, Served> {
    let listed = http.get("/api/v1/paths?limit=1000").is(200).json();
    assert!(listed["next"].is_null(), "more than a test should ask for");
    let names = listed["paths"].as_array().expect("a list").iter();
    let names = names.map(|name| name.as_str().expect("a name").to_owned());
    names.map(|name| (name.clone(), one(http, &name))).collect()
}

/// What is served of the path with this name.
pub fn one(http: Http, name: &str) -> Served {
    one_at(http, "", name)
}

/// The same in the cache at this URL path.
pub fn one_at(http: Http, at: &str, name: &str) -> Served {
    let narinfo = http
        .get(&format!("{at}/{}.narinfo", &name[..32]))
        .is(200)
        .text();
    let field = |key: &str| {
        let line = narinfo.lines().find_map(|line| line.strip_prefix(key));
        line.expect("a field of every narinfo").to_owned()
    };
    let (url, nar) = (field("URL: "), field("NarHash: sha256:"));
    let get = |path: String| http.get(&format!("{at}/{path}")).is(200).body;
    let (file, nar) = (get(url.clone()), get(format!("nar/{nar}.nar")));
    Served {
        narinfo,
        url,
        file,
        nar,
    }
}

/// Both are the same, or a panic that names the first path that is not.
#[track_caller]
pub fn assert_same(one: &BTreeMap<String, Served>, other: &BTreeMap<String, Served>) {
    let names = |all: &BTreeMap<String, Served>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(one), names(other));
    for (name, served) in one {
        let there = &other[name];
        assert_eq!(served.narinfo, there.narinfo, "{name}");
        assert!(
            served.file == there.file,
            "{name}: other bytes in {}",
            there.url
        );
        assert!(served.nar == there.nar, "{name}: another NAR");
    }
}
