//! Tokens over their lives: made, asked for, revoked, expired, forgotten, damaged.

use super::*;
use crate::auth::subject::Scope;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000;

fn wish(subject: &str, life_s: u64) -> Wish {
    Wish {
        subject: subject.parse().expect("a name"),
        scopes: vec![Scope::Push].try_into().expect("one"),
        caches: Vec::new(),
        life_s,
        by: "admin".to_owned(),
    }
}

fn opened(dir: &TempDir, now: u64) -> Tokens {
    Tokens::open(dir.path(), now).expect("opens")
}

fn files(dir: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join("tokens")).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn a_token_opens_until_it_expires_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let (text, token) = opened(&dir, NOW).make(wish("ci", 60), NOW).expect("made");
    assert_eq!((token.created, token.expires), (NOW, NOW + 60));
    let tokens = opened(&dir, NOW + 59);
    let subject = tokens
        .bearer(text.as_bytes(), NOW + 59)
        .expect("ours")
        .expect("good");
    assert_eq!(subject.as_str(), "ci");
    assert_eq!(subject.scopes().to_string(), "push");
    let late = tokens.bearer(text.as_bytes(), NOW + 63).expect("ours");
    let (subject, ago_s) = ("ci".to_owned(), 3);
    assert_eq!(late, Err(Dead::Expired { subject, ago_s }));
    // Nearly right is wrong: another secret, another id, half of it, more than it.
    let (head, last) = text.split_at(text.len() - 1);
    let changed = format!("{head}{}", if last == "A" { "B" } else { "A" });
    let id = &token.id.0;
    let other_id = text.replace(&**id, "0123456789abcdef");
    for wrong in [
        changed.as_str(),
        &other_id,
        head,
        &format!("{text}A"),
        PREFIX,
        "snow__",
        "",
    ] {
        assert_eq!(tokens.bearer(wrong.as_bytes(), NOW), None, "{wrong}");
    }
}

#[test]
fn what_is_on_the_disk_opens_nothing_and_is_the_owner_s() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokens = opened(&dir, NOW);
    let (text, _) = tokens.make(wish("ci", 60), NOW).expect("made");
    let [file] = &files(&dir)[..] else {
        panic!("one file")
    };
    let mode = fs::metadata(file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, SECRET);
    let kept = fs::read_to_string(file).expect("text");
    let secret = text.rsplit_once("_").expect("a secret").1;
    assert!(!kept.contains(secret), "{kept}");
    let json: Kept = serde_json::from_str(&kept).expect("JSON");
    let forged = format!("{PREFIX}{}_{}", json.token.id.0, json.secret_sha256);
    assert_eq!(tokens.bearer(forged.as_bytes(), NOW), None);
}

#[test]
fn what_was_revoked_stays_revoked() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokens = opened(&dir, NOW);
    let (text, token) = tokens.make(wish("ci", 60), NOW).expect("made");
    let (other, _) = tokens.make(wish("ci", 60), NOW).expect("made");
    let revoked = tokens
        .revoke(&token.id, NOW + 1)
        .expect("written")
        .expect("there");
    assert_eq!(revoked.revoked, Some(NOW + 1));
    let again = tokens
        .revoke(&token.id, NOW + 2)
        .expect("written")
        .expect("there");
    assert_eq!(again.revoked, Some(NOW + 1));
    let absent = "0123456789abcdef".parse().expect("an id");
    assert!(
        tokens
            .revoke(&absent, NOW)
            .expect("nothing to write")
            .is_none()
    );
    for tokens in [tokens, opened(&dir, NOW + 3)] {
        let subject = "ci".to_owned();
        let dead = tokens.bearer(text.as_bytes(), NOW + 3).expect("ours");
        assert_eq!(dead, Err(Dead::Revoked { subject }));
        assert!(
            tokens
                .bearer(other.as_bytes(), NOW + 3)
                .expect("ours")
                .is_ok()
        );
    }
}

#[test]
fn a_revocation_that_cannot_be_written_holds_and_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokens = opened(&dir, NOW);
    let (text, token) = tokens.make(wish("ci", 60), NOW).expect("made");
    fs::remove_dir_all(dir.path().join("tokens")).expect("removed");
    let error = tokens.revoke(&token.id, NOW).expect_err("no folder");
    assert!(matches!(error, TokensError::File { .. }), "{error}");
    assert!(tokens.bearer(text.as_bytes(), NOW).expect("ours").is_err());
    assert!(
        tokens.make(wish("ci", 60), NOW).is_err(),
        "nothing is given out"
    );
}

#[test]
fn what_expired_is_told_of_for_a_day_and_then_forgotten() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokens = opened(&dir, NOW);
    let (text, _) = tokens.make(wish("old", 60), NOW).expect("made");
    let later = NOW + 60 + REMEMBERED_S;
    tokens.make(wish("new", 60), later - 1).expect("made");
    assert_eq!(tokens.list().len(), 2);
    tokens.make(wish("newer", 60), later).expect("made");
    let subjects = tokens
        .list()
        .into_iter()
        .map(|token| token.subject.to_string());
    assert_eq!(subjects.collect::<Vec<_>>(), ["newer", "new"]);
    assert_eq!(tokens.bearer(text.as_bytes(), later), None);
    assert_eq!(files(&dir).len(), 2);
    drop(opened(&dir, later + 2 * REMEMBERED_S));
    assert!(files(&dir).is_empty());
}

#[test]
fn a_file_that_cannot_be_read_is_a_token_that_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (text, token) = opened(&dir, NOW).make(wish("ci", 60), NOW).expect("made");
    let (other, _) = opened(&dir, NOW).make(wish("ci", 60), NOW).expect("made");
    let file = dir.path().join(format!("tokens/{}.json", token.id.0));
    let whole = fs::read_to_string(&file).expect("text");
    let elsewhere = dir.path().join("tokens/0123456789abcdef.json");
    fs::write(&elsewhere, &whole).expect("written");
    fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    fs::write(dir.path().join("tokens/x.json.new"), "").expect("written");
    let tokens = opened(&dir, NOW);
    assert_eq!(tokens.bearer(text.as_bytes(), NOW), None);
    assert!(tokens.bearer(other.as_bytes(), NOW).expect("ours").is_ok());
    assert_eq!(tokens.list().len(), 1);
}

#[test]
fn lives_and_numbers_are_bounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokens = opened(&dir, NOW);
    for life_s in [0, MAX_LIFE_S + 1, u64::MAX] {
        let error = tokens.make(wish("ci", life_s), NOW).expect_err("no life");
        assert!(error.to_string().contains("366 days"), "{error}");
    }
    let (_, token) = tokens.make(wish("ci", 60), NOW).expect("made");
    let [file] = &files(&dir)[..] else {
        panic!("one file")
    };
    let kept = read(file).expect("readable");
    tokens.held_mut(|all| {
        for number in 1..MAX_TOKENS {
            let mut kept = kept.clone();
            let subject = format!("s{}", number / MAX_TOKENS_OF_ONE);
            kept.token.subject = subject.parse().expect("a name");
            all.insert(TokenId(format!("{number:016x}").into()), kept);
        }
    });
    let theirs = tokens.make(wish("s1", 60), NOW).expect_err("its share");
    assert!(
        theirs.to_string().starts_with("s1 has 1000 tokens"),
        "{theirs}"
    );
    let full = tokens.make(wish("ci", 60), NOW).expect_err("full");
    assert!(matches!(full, TokensError::TooMany));
    assert!(tokens.make(wish("ci", 60), token.expires).is_ok());
    assert_eq!(tokens.list().len(), 1);
}

#[test]
fn no_letter_can_be_changed_left_out_or_put_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let tokens = opened(&dir, NOW);
    let (good, _) = tokens.make(wish("ci", 60), NOW).expect("made");
    let taken = |text: &str| tokens.bearer(text.as_bytes(), NOW).is_some();
    assert!(taken(&good));
    for at in 0..good.len() {
        let (before, after) = (&good[..at], &good[at + 1..]);
        assert!(!taken(&format!("{before}{after}")), "without letter {at}");
        for letter in "AZaf09-_./ \n".chars() {
            assert!(
                !taken(&format!("{before}{letter}{}", &good[at..])),
                "{letter:?} at {at}"
            );
            let changed = format!("{before}{letter}{after}");
            assert!(
                changed == good || !taken(&changed),
                "{letter:?} for letter {at}"
            );
        }
    }
}
