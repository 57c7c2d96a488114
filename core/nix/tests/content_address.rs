//! Content addresses that must be refused, and what each kind may have.

#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use sha2::{Digest as _, Sha256};
use snowcache_nix::ca::{Check, MAX_SELF_REFERENCES, Method, Verifier};
use snowcache_nix::nar::Writer;
use snowcache_nix::{CaError, ContentAddress, Hash, HashAlgorithm, StorePath};

const EMPTY: &str = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

fn address(text: &str) -> ContentAddress {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn file_nar(executable: bool, contents: &[u8]) -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    nar.file(executable, contents.len() as u64).unwrap();
    nar.data(contents).unwrap();
    nar.finish().unwrap()
}

fn other() -> StorePath {
    "696cdqmw84p0ad37nlqqamimsb715h0m-self".parse().unwrap()
}

#[test]
fn each_spelling_reads_back() {
    for text in [
        format!("text:{EMPTY}"),
        format!("fixed:{EMPTY}"),
        format!("fixed:r:{EMPTY}"),
        format!("fixed:git:{EMPTY}"),
        format!("fixed:{}", EMPTY.replace("sha256", "blake3")),
        "fixed:r:md5:3y8bwfr609h3lh9ch0izcqq7fl".to_owned(),
    ] {
        assert_eq!(address(&text).to_string(), text);
    }
    let hex = "fixed:sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(
        address(hex).to_string(),
        format!("fixed:{EMPTY}"),
        "hex goes out as base32"
    );
}

#[test]
fn what_is_none_is_refused_with_the_reason() {
    let shape = "is no content address: expected 'text:<hash>', 'fixed:<hash>', 'fixed:r:<hash>' \
    or 'fixed:git:<hash>'";
    let cases = [
        (String::new(), format!("'' {shape}")),
        (
            "flat:sha256:x".to_owned(),
            format!("'flat:sha256:x' {shape}"),
        ),
        ("fixed:sha256".to_owned(), format!("'fixed:sha256' {shape}")),
        (
            "fixed:x:sha256:y".to_owned(),
            "bad hash in a content address: 'x' is no hash algorithm: expected md5, sha1, sha256, \
            sha512 or blake3"
                .to_owned(),
        ),
        (
            "text:md5:3y8bwfr609h3lh9ch0izcqq7fl".to_owned(),
            "a content address 'text:' takes sha256, found md5".to_owned(),
        ),
        (
            "fixed:git:md5:3y8bwfr609h3lh9ch0izcqq7fl".to_owned(),
            "a content address 'fixed:git:' takes sha1 or sha256, found md5".to_owned(),
        ),
    ];
    for (text, says) in cases {
        assert_eq!(
            text.parse::<ContentAddress>().expect_err(&text).to_string(),
            says
        );
    }
}

#[test]
fn only_some_kinds_may_have_references() {
    let path =
        |text: &str, others: &[StorePath], own| address(text).store_path_for("x", others, own);
    let (text, flat, nar) = (
        format!("text:{EMPTY}"),
        format!("fixed:{EMPTY}"),
        format!("fixed:r:{EMPTY}"),
    );
    let old = "fixed:r:md5:3y8bwfr609h3lh9ch0izcqq7fl";

    let kinds: Vec<StorePath> = [
        path(&text, &[], false),
        path(&text, &[other()], false),
        path(&flat, &[], false),
        path(&nar, &[], false),
        path(&nar, &[], true),
        path(&nar, &[other()], true),
        path(old, &[], false),
    ]
    .into_iter()
    .collect::<Result<_, _>>()
    .unwrap();
    let mut different = kinds.clone();
    different.sort();
    different.dedup();
    assert_eq!(
        different.len(),
        kinds.len(),
        "each has its own path: {kinds:?}"
    );

    assert_eq!(path(&text, &[], true), Err(CaError::SelfReference));
    for refused in [
        path(&flat, &[other()], false),
        path(&flat, &[], true),
        path(old, &[other()], false),
    ] {
        assert!(
            matches!(refused, Err(CaError::References { .. })),
            "{refused:?}"
        );
    }
    assert!(matches!(
        address(&flat).store_path_for("a/b", &[], false),
        Err(CaError::Name(_))
    ));
}

#[test]
fn what_is_to_be_hashed_follows_from_the_address() {
    let check = |text: String, own| address(&text).check(own);
    assert_eq!(
        check(format!("fixed:r:{EMPTY}"), false),
        Ok(Check::Nar(HashAlgorithm::Sha256))
    );
    assert_eq!(
        check(format!("fixed:r:{EMPTY}"), true),
        Ok(Check::NarModuloSelf)
    );
    assert_eq!(
        check(format!("fixed:{EMPTY}"), false),
        Ok(Check::Flat(HashAlgorithm::Sha256))
    );
    assert_eq!(
        check(format!("text:{EMPTY}"), false),
        Ok(Check::Flat(HashAlgorithm::Sha256))
    );
    let unsupported = check(format!("fixed:git:{EMPTY}"), false)
        .expect_err("git")
        .to_string();
    assert_eq!(
        unsupported,
        "content addresses of the kind 'fixed:git:sha256' cannot be checked by this version"
    );
}

#[test]
fn a_forged_name_is_refused_before_a_byte_is_read() {
    let address = address(&format!("fixed:r:{EMPTY}"));
    let refusal = Verifier::new(&address, &other(), &[])
        .expect_err("another path")
        .to_string();
    assert!(
        refusal.starts_with(
            "the store path is 696cdqmw84p0ad37nlqqamimsb715h0m-self, but its \
        content address makes it "
        ),
        "{refusal}"
    );
    // References are part of the name: leaving one out gives another.
    let path = address.store_path_for("x", &[other()], false).unwrap();
    assert!(Verifier::new(&address, &path, &[other()]).is_ok());
    assert!(Verifier::new(&address, &path, &[]).is_err());
}

#[test]
fn other_bytes_are_refused_with_both_hashes() {
    let address = address(&format!("fixed:{EMPTY}"));
    let path = address.store_path_for("x", &[], false).unwrap();
    let verify = |nar: &[u8]| {
        let mut verifier = Verifier::new(&address, &path, &[])?;
        verifier.feed(nar)?;
        verifier.finish()
    };
    assert_eq!(verify(&file_nar(false, b"")), Ok(()));
    let refusal = verify(&file_nar(false, b"x"))
        .expect_err("other bytes")
        .to_string();
    assert!(refusal.starts_with(&format!(
        "the content address says {EMPTY}, but the content has sha256:"
    )));
    assert_eq!(
        verify(&file_nar(true, b""))
            .expect_err("executable")
            .to_string(),
        "a path addressed by its file's bytes must be one file that is not executable, found an \
        executable file"
    );
    let cut = file_nar(false, b"");
    let refusal = verify(&cut[..cut.len() - 8]).expect_err("cut off");
    assert!(matches!(refusal, CaError::Nar(_)), "{refusal}");

    let mut directory = Writer::new(Vec::new());
    directory.directory().unwrap();
    directory.end_directory().unwrap();
    let refusal = verify(&directory.finish().unwrap()).expect_err("a directory");
    assert_eq!(
        refusal,
        CaError::NotAFile {
            found: "a directory"
        }
    );
}

#[test]
fn a_path_that_names_itself_without_end_is_refused_in_bounded_memory() {
    let hash = Hash::new(HashAlgorithm::Sha256, &[7; 32]).unwrap();
    let address = ContentAddress::new(Method::Nar, hash).unwrap();
    let path = address.store_path_for("x", &[], true).unwrap();
    let mut verifier = Verifier::new(&address, &path, std::slice::from_ref(&path)).unwrap();
    let own = path.hash().to_string().repeat(1 << 10);
    for _ in 0..MAX_SELF_REFERENCES >> 10 {
        verifier.feed(own.as_bytes()).unwrap();
    }
    assert_eq!(
        verifier.feed(own.as_bytes()),
        Err(CaError::ManySelfReferences)
    );
}

#[test]
fn a_self_reference_counts_with_its_offset_and_as_nix_2_17_to_2_34_have_it_without() {
    let before = file_nar(false, &[b"me: ".as_slice(), &[0; 32], b"!"].concat());
    let at = before
        .windows(32)
        .position(|window| window == [0; 32])
        .unwrap();
    let with_offset = [before.clone(), format!("|{at}").into_bytes()].concat();
    for hashed in [&before, &with_offset] {
        let hash = Hash::new(HashAlgorithm::Sha256, &Sha256::digest(hashed)).unwrap();
        let address = ContentAddress::new(Method::Nar, hash).unwrap();
        let path = address.store_path_for("x", &[], true).unwrap();
        let mut nar = before.clone();
        nar[at..at + 32].copy_from_slice(path.hash().to_string().as_bytes());
        let verify = |nar: &[u8]| {
            let mut verifier = Verifier::new(&address, &path, std::slice::from_ref(&path))?;
            verifier.feed(nar)?;
            verifier.finish()
        };
        assert_eq!(verify(&nar), Ok(()));
        nar[at + 32] ^= 1;
        assert!(matches!(verify(&nar), Err(CaError::WrongHash { .. })));
    }
}
