//! Golden vectors: what a real Nix wrote (see `make-golden.sh`), read and written again byte for
//! byte.

#![allow(
    clippy::disallowed_methods,
    reason = "tests read golden files and lay out trees"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use snowcache_nix::ca::{Method, Verifier};
use snowcache_nix::listing::ListingError;
use snowcache_nix::nar::{Parser, Writer};
use snowcache_nix::realisation::DrvOutput;
use snowcache_nix::{
    ContentAddress, Listing, NarHash, NarInfo, PathInfo, PublicKey, Realisation, SecretKey,
    StorePath, base32, fingerprint,
};

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(folder)
}

/// Files of a folder with that ending, and there must be some.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(golden(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_str().unwrap().ends_with(ending));
    files.sort();
    assert!(!files.is_empty(), "no {ending} in {folder}");
    files
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn key(file: &str) -> String {
    text(&golden("keys").join(file)).trim_end().to_owned()
}

/// Parses a NAR in pieces; gives its listing, and what the writer makes of its events.
fn read_and_rewrite(nar: &[u8], piece: usize) -> (Listing, Vec<u8>) {
    let (mut parser, mut listing) = (Parser::new(), Listing::new());
    let mut writer = Writer::new(Vec::new());
    for bytes in nar.chunks(piece) {
        let fed = parser.feed(bytes, &mut |event| {
            listing.event(event);
            writer.event(event).unwrap();
        });
        fed.unwrap();
    }
    assert_eq!(parser.finish(), Ok(nar.len() as u64));
    (listing, writer.finish().unwrap())
}

/// JSON with the keys in one order; nothing where it is deeper than this reader goes (128).
fn json(text: &str) -> Option<serde_json::Value> {
    match serde_json::from_str(text) {
        Err(error) if error.to_string().starts_with("recursion limit") => None,
        json => Some(json.unwrap()),
    }
}

#[test]
fn base32_is_as_nix_writes_it() {
    let lines = text(&golden("base32.txt"));
    assert!(lines.lines().count() > 30);
    for line in lines.lines() {
        let (hex, nix) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        assert_eq!(base32::encode(&bytes), nix, "{hex}");
        let again = match bytes.len() {
            16 => base32::decode::<16>(nix.as_bytes()).unwrap().to_vec(),
            20 => base32::decode::<20>(nix.as_bytes()).unwrap().to_vec(),
            32 => base32::decode::<32>(nix.as_bytes()).unwrap().to_vec(),
            _ => base32::decode::<64>(nix.as_bytes()).unwrap().to_vec(),
        };
        assert_eq!(again, bytes);
    }
}

#[test]
fn nars_of_every_shape_are_read_and_written_again_byte_for_byte() {
    for file in files("nar", ".nar")
        .into_iter()
        .chain(files("cache/nar", ".nar"))
    {
        let nar = fs::read(&file).unwrap();
        for piece in [1, 3, 8, 40, 4096, nar.len()] {
            let (_, again) = read_and_rewrite(&nar, piece);
            assert!(again == nar, "{} in pieces of {piece}", file.display());
        }
    }
}

#[test]
fn listings_are_the_bytes_that_nix_writes() {
    for file in files("nar", ".nar") {
        let (listing, _) = read_and_rewrite(&fs::read(&file).unwrap(), 4096);
        let ours = match listing.to_json() {
            Ok(json) => json,
            Err(ListingError::NotUtf8 { .. }) => {
                // Nix 2.8 writes raw bytes that no JSON reader takes, Nix 2.26 fails: there is no
                // listing.
                assert!(file.ends_with("names-bytes.nar"), "{}", file.display());
                continue;
            }
            Err(error) => panic!("{}: {error}", file.display()),
        };
        let root = text(&file.with_extension("ls"));
        let expected = format!("{{\"root\":{},\"version\":1}}", root.trim_end());
        assert_eq!(ours, expected, "{}", file.display());
        let older = text(&file.with_extension("ls-2.8"));
        let older = format!("{{\"root\":{older},\"version\":1}}");
        assert_eq!(json(&ours), json(&older), "{}", file.display());
    }
}

#[test]
fn the_listings_in_caches_are_ours_too() {
    for folder in ["cache", "newer"] {
        for file in files(folder, ".ls") {
            let info =
                text(&golden("cache").join(file.with_extension("narinfo").file_name().unwrap()));
            let info = NarInfo::parse(&info).unwrap();
            let (listing, _) = read_and_rewrite(&nar_of(&info), 4096);
            let Ok(ours) = listing.to_json() else {
                assert_eq!(info.store_path.name(), "names-bytes");
                continue;
            };
            let theirs = text(&file);
            assert_eq!(json(&ours), json(&theirs), "{}", file.display());
            if folder == "newer" {
                assert_eq!(ours, theirs, "{}", file.display());
            }
        }
    }
}

fn nar_of(info: &NarInfo<'_>) -> Vec<u8> {
    fs::read(golden("cache").join(info.url)).unwrap()
}

#[test]
fn narinfos_are_written_again_byte_for_byte() {
    let (mut codecs, mut with) = (Vec::new(), [0; 4]);
    for folder in ["cache", "xz", "newer"] {
        for file in files(folder, ".narinfo") {
            let text = text(&file);
            let info = NarInfo::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_eq!(info.to_string(), text, "{}", file.display());
            let stem = file.file_stem().unwrap().to_str().unwrap();
            assert_eq!(info.store_path.hash().to_string(), stem);
            codecs.push(info.compression.as_str());
            with[0] += usize::from(info.deriver.is_some());
            with[1] += usize::from(info.ca.is_some());
            with[2] += usize::from(info.signatures.len() > 1);
            with[3] += usize::from(info.references.contains(&info.store_path));

            let path = PathInfo::from(&info);
            assert_eq!(PathInfo::from_record(&path.to_record()), Ok(path));
        }
    }
    for codec in ["none", "xz", "zstd"] {
        assert!(codecs.contains(&codec), "no vector with {codec}");
    }
    assert!(
        with.iter().all(|&n| n > 0),
        "derivers, CAs, two signatures, self references: {with:?}"
    );
}

#[test]
fn what_nix_signed_our_fingerprint_and_keys_verify() {
    let keys: Vec<PublicKey> = ["golden-1.pub", "golden-2.pub"]
        .iter()
        .map(|file| key(file).parse().unwrap())
        .collect();
    let mut verified = 0;
    for file in files("cache", ".narinfo") {
        let text = text(&file);
        let path = PathInfo::from(&NarInfo::parse(&text).unwrap());
        let message = fingerprint(&path);
        for signature in &path.signatures {
            let key = keys
                .iter()
                .find(|key| key.name() == signature.key_name())
                .unwrap();
            assert!(
                key.verify(&message, signature),
                "{}: {message}",
                file.display()
            );
            assert!(!key.verify(&message.replacen("1;", "2;", 1), signature));
            verified += 1;
        }
    }
    assert!(verified > 40, "{verified} signatures");
}

#[test]
fn secret_keys_of_nix_give_the_public_keys_and_signatures_of_nix() {
    let secret: SecretKey = key("golden-1.sec").parse().unwrap();
    assert_eq!(secret.to_string(), key("golden-1.sec"));
    assert_eq!(secret.public().to_string(), key("golden-1.pub"));
    for file in files("cache", ".narinfo") {
        let text = text(&file);
        let mut path = PathInfo::from(&NarInfo::parse(&text).unwrap());
        // Ed25519 is deterministic: signing again gives the same line.
        let before = path.signatures.clone();
        path.signatures
            .retain(|signature| signature.key_name() != "golden-1");
        assert_eq!(
            path.signatures.len() + 1,
            before.len(),
            "{}",
            file.display()
        );
        path.add_signature(secret.sign(&fingerprint(&path)));
        assert_eq!(path.signatures, before, "{}", file.display());
    }
}

#[test]
fn content_addressed_paths_verify_and_no_other_bytes_do() {
    let mut seen = Vec::new();
    for file in files("cache", ".narinfo") {
        let text = text(&file);
        let info = NarInfo::parse(&text).unwrap();
        let Some(address) = info.ca else { continue };
        let address: ContentAddress = address.parse().unwrap();
        assert_eq!(address.to_string(), info.ca.unwrap());
        let own = info.references.contains(&info.store_path);
        seen.push((address.method(), address.hash().algorithm().name(), own));

        let mut nar = nar_of(&info);
        for piece in [1, 7, 33, nar.len()] {
            verify(&address, &info, &nar, piece)
                .unwrap_or_else(|e| panic!("{} in pieces of {piece}: {e}", file.display()));
        }
        let last = nar.len() - 1;
        nar[last - 16] ^= 1; // In the closing parenthesis: another NAR, or none.
        verify(&address, &info, &nar, 4096).expect_err("other bytes");
    }
    for kind in [
        (Method::Text, "sha256", false),
        (Method::Flat, "md5", false),
        (Method::Flat, "sha1", false),
        (Method::Flat, "sha256", false),
        (Method::Flat, "sha512", false),
        (Method::Nar, "md5", false),
        (Method::Nar, "sha1", false),
        (Method::Nar, "sha256", false),
        (Method::Nar, "sha512", false),
        (Method::Nar, "sha256", true),
    ] {
        assert!(seen.contains(&kind), "no vector of {kind:?}");
    }
}

fn verify(
    address: &ContentAddress,
    info: &NarInfo<'_>,
    nar: &[u8],
    piece: usize,
) -> Result<(), snowcache_nix::CaError> {
    let mut verifier = Verifier::new(address, &info.store_path, &info.references)?;
    nar.chunks(piece)
        .try_for_each(|bytes| verifier.feed(bytes))?;
    verifier.finish()
}

#[test]
fn nar_hashes_and_sizes_are_those_of_the_nars() {
    for file in files("cache", ".narinfo") {
        let text = text(&file);
        let info = NarInfo::parse(&text).unwrap();
        let nar = nar_of(&info);
        assert_eq!(
            NarHash::from_bytes(Sha256::digest(&nar).into()),
            info.nar_hash
        );
        assert_eq!(nar.len() as u64, info.nar_size);
        assert_eq!(
            info.file_hash.map(|hash| hash.to_string()),
            Some(info.nar_hash.to_string())
        );
    }
}

#[test]
fn realisations_are_written_again_byte_for_byte() {
    let mut with_dependencies = 0;
    for file in files("cache/realisations", ".doi") {
        let text = text(&file);
        let realisation = Realisation::parse(&text).unwrap();
        assert_eq!(realisation.to_json(), text.trim_end());
        let id: DrvOutput = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(realisation.id, Some(id));
        with_dependencies += realisation.dependent.map_or(0, |dependent| dependent.len());
    }
    assert!(with_dependencies > 0);
}

#[test]
fn the_newer_spelling_of_realisations_keeps_its_form() {
    let signature = format!("{}==", "A".repeat(86));
    let text = format!(
        "{{\"outPath\":\"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo\",\"signatures\":\
         [{{\"keyName\":\"asdf\",\"sig\":\"{signature}\"}}]}}"
    );
    let realisation = Realisation::parse(&text).unwrap();
    assert_eq!(realisation.id, None);
    assert_eq!(realisation.out_path.name(), "foo");
    assert_eq!(realisation.to_json(), text);

    let as_text = text.replace(
        &format!("{{\"keyName\":\"asdf\",\"sig\":\"{signature}\"}}"),
        &format!("\"asdf:{signature}\""),
    );
    assert_eq!(
        Realisation::parse(&as_text),
        Ok(realisation),
        "the texts of earlier versions too"
    );
}

#[test]
fn store_paths_in_the_vectors_are_what_they_are_called() {
    for file in files("cache", ".narinfo") {
        let text = text(&file);
        let info = NarInfo::parse(&text).unwrap();
        for path in info
            .references
            .iter()
            .chain([&info.store_path])
            .chain(&info.deriver)
        {
            assert_eq!(
                StorePath::from_absolute(&path.absolute()).as_ref(),
                Ok(path)
            );
        }
    }
}
