//! docs/openapi.yaml: a valid document of OpenAPI 3.1, with every route of the native API and no
//! other, and what a real server answers is what it says.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use support::http::Http;
use support::nix::inputs;
use support::server::Snowcached;

const METHODS: [&str; 4] = ["get", "put", "post", "delete"];
/// What stands for a value in a path.
const EXAMPLES: [(&str, &str); 3] = [
    ("{hash}", "00000000000000000000000000000000"),
    ("{name}", "nobody"),
    ("{id}", "0000000000000000"),
];

fn python(script: &str) -> Command {
    let python = inputs().join("python/bin/python");
    assert!(python.exists(), "{python:?}; run: make test-setup");
    let mut command = Command::new(python);
    command.args(["-c", script]);
    command.arg(support::root().join("docs/openapi.yaml"));
    command
}

/// The document, as JSON.
fn document() -> Value {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = python(script).output().expect("python runs");
    serde_json::from_slice(&output.stdout).expect("YAML")
}

/// Methods and paths, as `get /api/v1/paths`.
fn documented() -> BTreeSet<String> {
    let document = document();
    let paths = document["paths"].as_object().expect("paths").iter();
    let routes = paths.flat_map(|(path, item)| {
        let methods = METHODS.iter().filter(|method| item[**method].is_object());
        methods.map(move |method| format!("{method} {path}"))
    });
    routes.collect()
}

/// The same of the router, as its source has them: `.route("/api/v1/…", get(…).post(…))`.
fn routed() -> BTreeSet<String> {
    let source = support::root().join("server/src/http/router.rs");
    let source = fs::read_to_string(source).expect("a source");
    let mut routes = BTreeSet::new();
    for route in source.split(".route(").skip(1) {
        let route = route.split(".route").next().expect("a first part");
        let mut words = route.split('"');
        let Some(path) = words.nth(1).filter(|path| path.starts_with("/api/v1/")) else {
            continue;
        };
        let methods = words.next().expect("a method");
        let named = METHODS.iter().filter(|it| {
            let calls = [format!(" {it}("), format!(".{it}(")];
            calls.iter().any(|call| methods.contains(call.as_str()))
        });
        let named: Vec<String> = named.map(|method| format!("{method} {path}")).collect();
        assert!(!named.is_empty(), "{path}: of which methods?");
        routes.extend(named);
    }
    routes
}

#[test]
fn it_is_a_document_of_openapi() {
    let script = "import sys; from openapi_spec_validator import validate; \
                  from openapi_spec_validator.readers import read_from_filename as read; \
                  validate(read(sys.argv[1])[0])";
    let output = python(script).output().expect("python runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
}

#[test]
fn it_has_every_route_and_no_other() {
    let (documented, routed) = (documented(), routed());
    assert!(routed.len() > 20, "{routed:?}");
    let only = |one: &BTreeSet<String>, other| one.difference(other).cloned().collect::<Vec<_>>();
    assert_eq!(only(&routed, &documented), [""; 0], "not documented");
    assert_eq!(only(&documented, &routed), [""; 0], "not routed");
}

#[test]
fn every_route_is_there_and_takes_a_token_where_it_says_so() {
    let server = Snowcached::start();
    let (http, document) = (server.http(), document());
    for route in documented() {
        let (method, path) = route.split_once(' ').expect("two words");
        let asked = EXAMPLES
            .iter()
            .fold(path.to_owned(), |path, (name, example)| {
                path.replace(name, example)
            });
        let answer = http.request(&method.to_uppercase(), &asked).send();
        let said = answer.text();
        let unknown = said.contains("nothing at this URL") || answer.status == 405;
        assert!(!unknown, "{route}: {} {said}", answer.status);
        let item = &document["paths"][path][method];
        let secured = item["security"].is_array();
        assert_eq!(answer.status == 401, secured, "{route}: {said}");
        let documented = item["responses"][answer.status.to_string()].is_object();
        assert!(
            documented || answer.status >= 400,
            "{route}: {}",
            answer.status
        );
        if answer.status == 200 {
            assert_required(http, &asked, item);
        }
    }
}

/// Of what was answered 200 without a question: the fields that the document requires.
fn assert_required(http: Http, path: &str, item: &Value) {
    let schema = &item["responses"]["200"]["content"]["application/json"]["schema"];
    let Some(required) = schema["required"].as_array() else {
        return;
    };
    let answer = http.get(path).is(200).json();
    for field in required {
        let field = field.as_str().expect("a name");
        assert!(
            answer.get(field).is_some(),
            "{path}: no {field} in {answer}"
        );
    }
}
