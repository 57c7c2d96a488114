//! Identities signed by a key of the test's own: what `tests/identity.rs` cannot have an honest
//! library sign.

use super::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

const NOW: u64 = 1_800_000_000;

fn signer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed")
}

fn key(algorithm: Option<&str>) -> Key {
    let point = signer().public_key().as_ref().to_vec();
    Key {
        sort: KeySort::Ed25519(point),
        algorithm: algorithm.map(str::to_owned),
    }
}

fn signed(header: &str, claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let text = format!("{}.{}", part(header), part(claims));
    let signature = signer().sign(text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn by(header: &str, claims: Value, key: &Key) -> Result<Claims, Wrong> {
    let text = signed(header, &claims.to_string());
    let terms = Terms {
        audience: "us",
        clock_skew_s: 60,
        now: NOW,
    };
    Unverified::read(&text)?.verified(key, &terms)
}

const HEADER: &str = r#"{"alg":"EdDSA","kid":"1"}"#;

fn claims(exp: Value, nbf: Value) -> Value {
    json!({"iss": "https://i", "aud": "us", "exp": exp, "nbf": nbf})
}

#[test]
fn times_are_believed_up_to_the_skew_and_not_a_second_more() {
    let good = |exp: u64, nbf: u64| by(HEADER, claims(json!(exp), json!(nbf)), &key(None));
    assert!(good(NOW - 59, NOW + 60).is_ok());
    assert_eq!(good(NOW - 60, NOW), Err(Wrong::Expired(60)));
    assert_eq!(good(NOW + 60, NOW + 61), Err(Wrong::NotYet(61)));
}

#[test]
fn a_time_that_is_no_number_is_wrong_and_not_absent() {
    let wrong = |name| Err(Wrong::Claim(name, "number of seconds since 1970"));
    for odd in [
        json!("1900000000"),
        json!([]),
        json!({}),
        json!(true),
        json!(null),
    ] {
        let exp = by(HEADER, claims(odd.clone(), json!(1)), &key(None));
        assert_eq!(exp, wrong("exp"), "{odd}");
        let nbf = by(HEADER, claims(json!(NOW + 1), odd.clone()), &key(None));
        assert_eq!(nbf, wrong("nbf"), "{odd}");
    }
    assert!(
        by(
            HEADER,
            claims(json!(NOW as f64 + 0.5), json!(1.5)),
            &key(None)
        )
        .is_ok()
    );
    assert!(by(HEADER, claims(json!(1e300), json!(-1)), &key(None)).is_ok());
}

#[test]
fn an_algorithm_is_of_the_key_s_sort_and_the_one_that_it_is_for() {
    let good = || claims(json!(NOW + 1), json!(1));
    assert!(by(HEADER, good(), &key(Some("EdDSA"))).is_ok());
    let sort = |result| matches!(result, Err(Wrong::Sort { .. }));
    assert!(sort(by(HEADER, good(), &key(Some("ES256")))));
    for alg in ["RS256", "PS512", "ES256", "ES384"] {
        let header = json!({"alg": alg, "kid": "1"}).to_string();
        assert!(sort(by(&header, good(), &key(None))), "{alg}");
    }
    for alg in [
        "none",
        "None",
        "",
        "HS256",
        "HS512",
        "ES256K",
        "RS256, RS384",
        "RSA-OAEP",
    ] {
        let header = json!({"alg": alg, "kid": "1"}).to_string();
        let refused = by(&header, good(), &key(None));
        assert_eq!(refused, Err(Wrong::Algorithm(Shown::of(alg))), "{alg}");
    }
    let other = Key {
        sort: KeySort::Ed25519(vec![1; 32]),
        algorithm: None,
    };
    assert_eq!(by(HEADER, good(), &other), Err(Wrong::Signature));
}

#[test]
fn what_cannot_be_read_is_said_to_be_no_token() {
    let good = signed(HEADER, &claims(json!(NOW + 1), json!(1)).to_string());
    assert!(Unverified::read(&good).is_ok());
    for bad in [
        String::new(),
        "a".to_owned(),
        "a.b.c".to_owned(),
        good.replacen('.', "=.", 1),
        format!(".{good}"),
        signed("[]", "{}"),
        signed(HEADER, "[]"),
        signed(r#"{"alg":"EdDSA"}"#, "{}"),
        signed(r#"{"alg":"EdDSA","kid":7}"#, "{}"),
        signed(r#"{"alg":"EdDSA","kid":"1","crit":["x"]}"#, "{}"),
        "A".repeat(MAX_JWT_BYTES + 1),
    ] {
        let read = Unverified::read(&bad).map(|_| ());
        assert!(matches!(read, Err(Wrong::Form(_))), "{bad}: {read:?}");
    }
}

#[test]
fn what_strangers_say_is_shown_short_and_without_tricks() {
    let said = Shown::of(&format!("a\n\x1b[31m\"{}", "b".repeat(1000))).to_string();
    assert!(said.len() < 130 && !said.contains(['\n', '\x1b']), "{said}");
}

#[test]
fn no_letter_can_be_changed_left_out_or_put_in() {
    let good = signed(HEADER, &claims(json!(NOW + 1), json!(1)).to_string());
    let terms = Terms {
        audience: "us",
        clock_skew_s: 60,
        now: NOW,
    };
    let key = key(None);
    let taken =
        |text: &str| Unverified::read(text).is_ok_and(|it| it.verified(&key, &terms).is_ok());
    assert!(taken(&good));
    for at in 0..good.len() {
        let (before, after) = (&good[..at], &good[at + 1..]);
        assert!(!taken(&format!("{before}{after}")), "without letter {at}");
        for letter in "AZaz09-_.=+/ \n".chars() {
            let put_in = format!("{before}{letter}{}", &good[at..]);
            assert!(!taken(&put_in), "{letter:?} before letter {at}");
            let changed = format!("{before}{letter}{after}");
            assert!(
                changed == good || !taken(&changed),
                "{letter:?} for letter {at}"
            );
        }
    }
}
