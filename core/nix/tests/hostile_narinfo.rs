//! Narinfos that must be refused, each with its line and field; and the liberties that are taken.

#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use snowcache_nix::{NarInfo, PathInfo, fingerprint};

const BASE: &str = "696cdqmw84p0ad37nlqqamimsb715h0m-self";
const OTHER: &str = "c3g2i430rcdxxarpfkgjknmvyaaxbg3c-plain";
const HASH: &str = "sha256:0kbzfa80zihggi8xv6snxl1lpkijngknf0xb6mfkhmbafpygap9j";
const SIG: &str = "golden-1:xi5TF0qYG6qaO5okSt3Gb5HqRkfJOOfVpjCuzzithQwLnbT9fw9ia548Jz4Hv3SedC+zHLU1K7dcv5eyt970BQ==";

/// A good narinfo, in seven lines.
fn good() -> String {
    format!(
        "StorePath: /nix/store/{BASE}\nURL: nar/x.nar.xz\nCompression: xz\nNarHash: \
        {HASH}\nNarSize: 912\n\
         References: {BASE} {OTHER}\nSig: {SIG}\n"
    )
}

/// The same with one line replaced, or removed where the new one is empty.
fn with(key: &str, line: &str) -> String {
    let text = good();
    let old = text.lines().find(|old| old.starts_with(key)).unwrap();
    let new = if line.is_empty() {
        String::new()
    } else {
        format!("{line}\n")
    };
    text.replace(&format!("{old}\n"), &new)
}

fn refusal(text: &str) -> String {
    NarInfo::parse(text).expect_err(text).to_string()
}

#[test]
fn the_good_one_is_good() {
    assert_eq!(NarInfo::parse(&good()).unwrap().to_string(), good());
}

#[test]
fn each_field_that_is_wrong_is_refused_with_its_line() {
    let reference = "bad hash in a store path: base32 of 32 characters expected, found 3";
    let cases = [
        (
            "StorePath",
            "StorePath: /etc/passwd",
            "line 1: StorePath: '/etc/passwd' is not a path directly in /nix/store",
        ),
        (
            "URL",
            "URL: http://evil.example/x",
            "line 2: URL 'http://evil.example/x' is absolute: it must be relative to the cache",
        ),
        (
            "URL",
            "URL: file:///etc/shadow",
            "line 2: URL 'file:///etc/shadow' is absolute: it must be relative to the cache",
        ),
        (
            "URL",
            "URL: /etc/shadow",
            "line 2: URL '/etc/shadow' is absolute: it must be relative to the cache",
        ),
        (
            "URL",
            "URL: nar/../../x",
            "line 2: URL 'nar/../../x' has a '..' in it",
        ),
        ("URL", "URL: ", "line 2: URL '' is empty"),
        (
            "Compression",
            "Compression: rar",
            "line 3: Compression 'rar' is not a known compression: use none, xz, bzip2, gzip, zstd, br, \
            lzip or lz4",
        ),
        (
            "NarHash",
            "NarHash: md5:d41d8cd98f00b204e9800998ecf8427e",
            "line 4: NarHash: a sha256 hash expected, found md5",
        ),
        (
            "NarSize",
            "NarSize: 0",
            "line 5: NarSize is 0, but no NAR is empty",
        ),
        (
            "NarSize",
            "NarSize: -1",
            "line 5: NarSize: '-1' is no number of bytes",
        ),
        (
            "NarSize",
            "NarSize: +1",
            "line 5: NarSize: '+1' is no number of bytes",
        ),
        (
            "NarSize",
            "NarSize: 007",
            "line 5: NarSize: '007' is no number of bytes",
        ),
        (
            "NarSize",
            "NarSize: 18446744073709551616",
            "line 5: NarSize: '18446744073709551616' is no number of bytes",
        ),
        (
            "NarSize",
            "NarSize: ",
            "line 5: NarSize: '' is no number of bytes",
        ),
        (
            "Sig",
            "Sig: nonsense",
            "line 7: Sig: a signature is written '<key name>:<base64>', but there is no ':'",
        ),
        (
            "Sig",
            "Sig: k:AAAA",
            "line 7: Sig: a signature has 64 bytes, found 3",
        ),
        (
            "Sig",
            "FileSize: x",
            "line 7: FileSize: 'x' is no number of bytes",
        ),
        (
            "Sig",
            "FileHash: x",
            "line 7: FileHash: 'x' is no hash: expected '<algorithm>:<base32 or hex>' or \
            '<algorithm>-<base64>'",
        ),
        (
            "Sig",
            "no field",
            "line 7: expected 'Key: value', found 'no field'",
        ),
        (
            "Sig",
            "Key:value",
            "line 7: expected 'Key: value', found 'Key:value'",
        ),
        (
            "Sig",
            "two words: x",
            "line 7: expected 'Key: value', found 'two words: x'",
        ),
        ("Sig", ": x", "line 7: expected 'Key: value', found ': x'"),
        (
            "Sig",
            "CA: a\rb",
            "line 7: 'CA' holds the control character '\\r'",
        ),
        (
            "Sig",
            "Foo: a\0b",
            "line 7: 'Foo' holds the control character '\\0'",
        ),
    ];
    for (key, line, says) in cases {
        assert_eq!(refusal(&with(key, line)), says);
    }
    let short = refusal(&with("References", "References: abc-x"));
    assert!(
        short.starts_with("line 6: References: 'abc-x' is no store path"),
        "{short} {reference}"
    );
    let twice = refusal(&with(
        "References",
        &format!("References: {BASE} {OTHER} {BASE}"),
    ));
    assert_eq!(twice, format!("line 6: References names {BASE} twice"));
}

#[test]
fn a_field_may_stand_once_whatever_it_is() {
    for line in [
        format!("StorePath: /nix/store/{BASE}"),
        "URL: nar/y".to_owned(),
        "Compression: xz".to_owned(),
        format!("NarHash: {HASH}"),
        "NarSize: 912".to_owned(),
        "References: ".to_owned(),
    ] {
        let key = line.split(':').next().unwrap();
        assert_eq!(
            refusal(&format!("{}{line}\n", good())),
            format!("line 8: {key} stands here a second time")
        );
    }
    for line in [
        "Deriver: unknown-deriver",
        "CA: x",
        "System: x",
        "FileSize: 0",
    ] {
        let key = line.split(':').next().unwrap();
        let refusal = refusal(&format!("{}{line}\n{line}\n", good()));
        assert!(
            refusal.starts_with("line 9: ") && refusal.contains(key),
            "{refusal}"
        );
        assert!(refusal.ends_with("stands here a second time"), "{refusal}");
    }
}

#[test]
fn what_must_be_there_must_be_there() {
    for key in ["StorePath", "URL", "NarHash", "NarSize"] {
        assert_eq!(refusal(&with(key, "")), format!("{key} is missing"));
    }
    assert_eq!(refusal(""), "StorePath is missing");
    let cut = good();
    assert_eq!(
        refusal(&cut[..cut.len() - 1]),
        "line 7: the narinfo ends inside a line, it was cut off"
    );
}

#[test]
fn numbers_of_fields_are_bounded() {
    let unknown: String = (0..65).map(|n| format!("X{n}: \n")).collect();
    assert_eq!(
        refusal(&(good() + &unknown)),
        "line 72: more than 64 fields that are not known"
    );
    let signatures = format!("Sig: {SIG}\n").repeat(1024);
    assert_eq!(
        refusal(&(good() + &signatures)),
        "line 1031: more than 1024 signatures"
    );
}

#[test]
fn a_refusal_never_repeats_more_than_a_line_of_what_was_sent() {
    let long = "x".repeat(1_000_000);
    for text in [
        format!("{long}\n"),
        format!("StorePath: {long}\n"),
        format!("URL: http://{long}\n"),
        format!("{long}: \u{1}\n"),
        format!("NarSize: {long}\n"),
        format!("Compression: {long}\n"),
        format!("References: {long}\n"),
        format!("NarHash: {long}\n"),
        format!("NarHash: {long}:\n"),
        format!("Sig: {long}:AAAA\n"),
        format!("{long}: \n{long}: \n"),
    ] {
        let refusal = refusal(&text);
        assert!(
            refusal.len() < 300,
            "{} characters: {refusal:.400}",
            refusal.len()
        );
    }
}

#[test]
fn what_may_be_left_out_may_also_be_empty() {
    for line in ["", "Compression:", "Compression: "] {
        let text = with("Compression", line);
        assert_eq!(
            NarInfo::parse(&text).unwrap().compression.as_str(),
            "bzip2",
            "{line}"
        );
    }
    for line in [
        "",
        "Deriver: ",
        "Deriver: unknown-deriver",
        "FileSize: 0",
        "CA: ",
        "References: ",
    ] {
        let text = with("References", line);
        let info = NarInfo::parse(&text).unwrap();
        assert_eq!(
            (info.deriver, info.file_size, info.ca),
            (None, None, None),
            "{line}"
        );
        assert!(info.references.is_empty());
    }
}

#[test]
fn references_and_signatures_are_put_in_order_and_unknown_fields_kept() {
    let second = SIG.replace("golden-1", "a-key");
    let text = with("References", &format!("References: {OTHER}  {BASE}"));
    let text =
        format!("System: x86_64-linux\n{text}Sig: {second}\nSig: {SIG}\nPartialClosure: 1\n");
    let info = NarInfo::parse(&text).unwrap();
    let canonical = good().replace("Sig: ", &format!("Sig: {second}\nSig: "));
    assert_eq!(
        info.to_string(),
        format!("{canonical}System: x86_64-linux\nPartialClosure: 1\n")
    );
}

#[test]
fn a_record_is_a_narinfo_without_its_file() {
    let text = good();
    let path = PathInfo::from(&NarInfo::parse(&text).unwrap());
    let record = path.to_record();
    assert_eq!(
        record,
        format!(
            "StorePath: /nix/store/{BASE}\nNarHash: {HASH}\nNarSize: 912\nReferences: {BASE} \
            {OTHER}\nSig: {SIG}\n"
        )
    );
    assert_eq!(PathInfo::from_record(&record).as_ref(), Ok(&path));
    assert_eq!(
        PathInfo::from_record(&text)
            .expect_err("a narinfo")
            .to_string(),
        "line 2: URL has no place in a path's record"
    );
    assert_eq!(
        path.to_narinfo("nar/a.nar.zst", "zstd", Some(77)),
        record.replacen(
            "NarHash",
            "URL: nar/a.nar.zst\nCompression: zstd\nFileSize: 77\nNarHash",
            1
        )
    );
    assert_eq!(
        fingerprint(&path),
        format!("1;/nix/store/{BASE};{HASH};912;/nix/store/{BASE},/nix/store/{OTHER}")
    );
}

#[test]
fn ten_thousand_references_are_no_trouble() {
    let hash = |n: usize| {
        snowcache_nix::base32::encode(&std::array::from_fn::<u8, 20, _>(|i| {
            (n >> (i % 3 * 8)) as u8
        }))
    };
    let bases: Vec<String> = (0..10_000)
        .map(|n| format!("{}-reference-{n}", hash(n)))
        .collect();
    let text = with("References", &format!("References: {}", bases.join(" ")));
    let info = NarInfo::parse(&text).unwrap();
    assert_eq!(info.references.len(), 10_000);
    assert!(info.references.is_sorted());
}
