//! Realisations that must be refused, and what is kept of those that are not.

#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use snowcache_nix::Realisation;
use snowcache_nix::realisation::{DrvOutput, RealisationError};

const ID: &str = "sha256:00d439faefb1b1db8853ef9be1c21ba259134fb401e6cb4b6a412bd1079a33dc!out";
const PATH: &str = "vjkf37wi7mdq29xsgfhq14yqsyfrwb89-ca-multi";

fn refusal(json: &str) -> String {
    Realisation::parse(json).expect_err(json).to_string()
}

#[test]
fn each_refusal_names_the_field() {
    let cases = [
        (r#"[]"#.to_owned(), "a realisation is a JSON object: "),
        (
            r#"{"outPath":"#.to_owned(),
            "a realisation is a JSON object: EOF while parsing a value at line 1 column 11",
        ),
        (r#"{}"#.to_owned(), "outPath is missing in a realisation"),
        (
            r#"{"outPath":7}"#.to_owned(),
            "outPath of a realisation must be a string",
        ),
        (
            r#"{"outPath":"/nix/store/x"}"#.to_owned(),
            "outPath of a realisation: '/nix/store/x' is no store path",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","id":"x"}}"#),
            "'x' names no output of a derivation: expected '<algorithm>:<hash>!<output>'",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","id":"sha256:00!out"}}"#),
            "bad hash in a realisation's id: 2 characters are no sha256 hash",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","id":"{ID}/../x"}}"#),
            "'sha256:00d439faefb1b1db8853ef9be1c21ba259134fb401e6cb4b6a412bd1079a33dc!out/../x' \
            names no output",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","signatures":"x"}}"#),
            "signatures of a realisation must be an array",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","signatures":[7]}}"#),
            "signatures of a realisation must be a string",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","signatures":["x"]}}"#),
            "signatures of a realisation: a signature is written",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","dependentRealisations":[]}}"#),
            "dependentRealisations of a realisation must be an object",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","dependentRealisations":{{"{ID}":"x"}}}}"#),
            "dependentRealisations of a realisation: 'x' is no store path",
        ),
        (
            format!(r#"{{"outPath":"{PATH}","new":[1.5]}}"#),
            "'new' of a realisation holds a number that is not whole",
        ),
    ];
    for (json, says) in cases {
        let refusal = refusal(&json);
        assert!(refusal.starts_with(says), "{refusal}\n{says}");
    }
}

#[test]
fn unknown_fields_are_kept_and_keys_come_out_sorted() {
    let json =
        format!(r#"{{"z":{{"b":1,"a":null}},"outPath":"{PATH}","id":"{ID}","a":[true,"x"]}}"#);
    let realisation = Realisation::parse(&json).unwrap();
    assert_eq!(
        realisation.to_json(),
        format!(
            r#"{{"a":[true,"x"],"id":"{ID}","outPath":"{PATH}","signatures":[],"z":{{"a":null,"b":1}}}}"#
        )
    );
}

#[test]
fn more_signatures_than_anyone_needs_are_refused() {
    let signature = format!("\"k:{}==\"", "A".repeat(86));
    let list = vec![signature.as_str(); 1025].join(",");
    let refusal = Realisation::parse(&format!(r#"{{"outPath":"{PATH}","signatures":[{list}]}}"#));
    assert_eq!(refusal, Err(RealisationError::ManySignatures));
}

#[test]
fn an_output_is_named_in_hex_whatever_it_was_read_from() {
    let id: DrvOutput = ID.parse().unwrap();
    assert_eq!((id.output.as_str(), id.to_string().as_str()), ("out", ID));
    let base32 = format!("{}!out", id.drv_hash);
    assert_eq!(base32.parse(), Ok(id));
}
